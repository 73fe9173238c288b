//! Connections to ports inside.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::{Kind, Reply, Request};

use crate::client::Init;

/// A server that answers with what it got, in capitals, when its client has ended.
fn serve(address: &str) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all.to_ascii_uppercase()).unwrap();
    });
    (port, serving)
}

#[test]
fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    let init = Init::start();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (port, serving) = serve(address);
        let mut client = init.open(&Request::Dial { port });
        assert_eq!(client.reply(), Ok(Reply::Done), "{address}");
        (0..100).for_each(|_| client.send(Kind::Data, &[b'a'; 10_000]));
        client.send(Kind::Data, &[]);
        let mut all = Vec::new();
        loop {
            let (kind, payload) = client.frame().unwrap();
            assert_eq!(kind, Kind::Data);
            if payload.is_empty() {
                break;
            }
            all.extend(payload);
        }
        assert!(all == vec![b'A'; 1_000_000], "{} bytes", all.len());
        serving.join().unwrap();
    }
}

#[test]
fn a_port_nobody_listens_on_is_not_found() {
    let init = Init::start();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(init.code(&Request::Dial { port: free }), Code::NotFound);
}

#[test]
fn a_client_that_leaves_closes_the_servers_connection() {
    let init = Init::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = init.open(&Request::Dial { port: listener.local_addr().unwrap().port() });
    assert_eq!(client.reply(), Ok(Reply::Done));
    let (mut server, _) = listener.accept().unwrap();
    client.send(Kind::Data, b"x");
    client.stream.shutdown(Shutdown::Both).unwrap();
    drop(client);
    let mut all = Vec::new();
    server.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"x");
}
