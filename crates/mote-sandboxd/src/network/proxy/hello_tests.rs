//! What is read of a TLS client's first bytes, whole, in pieces, late and hostile.
//!
//! It makes no connection.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What a client of rustls says first to a server.
fn client_hello(server: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
        .with_no_client_auth();
    let name = ServerName::try_from(server.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The same hello in records of `size` bytes each.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for piece in hello[5..].chunks(size) {
        records.extend([22, 3, 1]);
        records.extend(u16::try_from(piece.len()).unwrap().to_be_bytes());
        records.extend(piece);
    }
    records
}

/// Adds an extension at the end of a hello in one record.
fn with_extension(hello: &[u8], kind: u16, value: &[u8]) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let extension = [&kind.to_be_bytes()[..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat();
    // Session id, cipher suites and compression methods stand before the length of the extensions.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    for (at, width) in [(3, 2), (6, 3), (at, 2)] {
        let old = hello[at..at + width].iter().fold(0_usize, |number, byte| number << 8 | usize::from(*byte));
        let new = (old + extension.len()).to_be_bytes();
        hello[at..at + width].copy_from_slice(&new[8 - width..]);
    }
    hello.extend(extension);
    hello
}

fn read(bytes: &[u8]) -> Option<Opening> {
    Beginning::default().push(bytes)
}

fn named(name: &str, encrypted: bool) -> Option<Opening> {
    Some(Opening::Tls(Hello { name: Some(Name::parse(name).unwrap()), encrypted }))
}

#[test]
fn a_hello_tells_its_name_in_whatever_pieces_it_comes() {
    let hello = client_hello("a.example");
    assert_eq!(read(&hello), named("a.example", false));
    for size in [1, 7, 100] {
        assert_eq!(read(&in_records(&hello, size)), named("a.example", false), "records of {size}");
    }
    let mut beginning = Beginning::default();
    let (last, front) = hello.split_last().unwrap();
    for byte in front {
        assert_eq!(beginning.push(&[*byte]), None);
    }
    assert_eq!(beginning.push(&[*last]), named("a.example", false));
    assert_eq!(beginning.into_bytes(), hello);
}

#[test]
fn a_name_behind_thousands_of_bytes_is_found() {
    let hello = client_hello("late.example");
    let padded = with_extension(&hello, 21, &[0; 3000]);
    assert_eq!(read(&padded), named("late.example", false));
    assert_eq!(read(&padded[..1024]), None);
}

#[test]
fn a_hello_without_a_name_and_an_encrypted_one_are_told() {
    assert_eq!(read(&client_hello("198.51.100.7")), Some(Opening::Tls(Hello { name: None, encrypted: false })));
    let hidden = with_extension(&client_hello("public.example"), 0xfe0d, &[0, 0, 1, 0, 1, 7, 0, 0, 0, 1, 9]);
    assert_eq!(read(&hidden), named("public.example", true));
    assert_eq!(read(&in_records(&hidden, 50)), named("public.example", true));
}

#[test]
fn broken_tls_is_refused_and_never_waits_for_ever() {
    assert_eq!(read(&with_extension(&client_hello("a.example"), 0, &[0])), Some(Opening::Malformed));
    assert_eq!(read(&[22, 3, 1, 0, 5, 99, 0, 0, 1, 0]), Some(Opening::Malformed));
    let endless: Vec<u8> = [22, 3, 1, 0, 4, 1, 1, 0, 0].into_iter().chain([22, 3, 1, 0, 1, 0].repeat(14_000)).collect();
    assert_eq!(read(&endless), Some(Opening::Malformed));
}

#[test]
fn http_is_told_by_its_first_line() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "GET /",
        "\r\n\r\nPOST / HTTP/1.1\r\n",
        "BREW /pot HTTP/1.1\r\n",
        "get / http/1.1\n",
        "M-SEARCH * HTTP/1.1\r\n",
    ] {
        assert_eq!(read(text.as_bytes()), Some(Opening::Http), "{text:?}");
    }
    assert_eq!(read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Some(Opening::Http2));
}

#[test]
fn other_protocols_are_told_and_a_line_that_may_become_http_is_waited_for() {
    for bytes in
        [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"EHLO me\r\n", b"*1\r\n$4\r\nPING\r\n", b"\0\0\0\x08\x04\xd2\x16/", b"x\0"]
    {
        assert_eq!(read(bytes), Some(Opening::Other), "{bytes:?}");
    }
    for bytes in [&b""[..], b"\x16", b"BREW /pot HT", b"\r\n"] {
        assert_eq!(read(bytes), None, "{bytes:?}");
    }
    assert_eq!(read(&b"a".repeat(EGRESS_LINE_BYTES_MAX + 1)), Some(Opening::Other));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_fail(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600), cut in 0_usize..600) {
        let hello = client_hello("a.example");
        let mut mixed = hello[..cut.min(hello.len())].to_vec();
        mixed.extend(&bytes);
        read(&mixed);
        read(&bytes);
    }
}
