//! The part of the keeper that serves `network`: what has to be made inside a sandbox's network namespace, with privilege.
//!
//! It does not decide: whether a verb is due is the daemon's matter, and the rules here are the same for every sandbox
//! (what a policy says, the daemon's proxy holds connections to). It does not enter a namespace either: its caller, the
//! part that makes namespaces, calls it there.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use mote_sandbox_api::error::{Code, Failure};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::netlink::{LOOPBACK, Netlink};
use super::ruleset::Ruleset;
use crate::limits::EGRESS_BACKLOG;

/// What the daemon can ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {}

/// Address that a sandbox's connections come from. Of a range kept for documents (RFC 5737), so that it is nobody's.
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Address of the daemon's sockets inside. Nothing inside can reach it but by being redirected to it.
pub const BOUNDARY: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
/// Port of the listener for every TCP connection; no service has it.
pub const PROXY_PORT: u16 = 1;
/// Port of the sockets for DNS.
pub const DNS_PORT: u16 = 53;
/// What `/etc/resolv.conf` inside should hold. Any other server's address works as well: port 53 leads to the daemon
/// whatever the address, but for addresses of the sandbox itself.
pub const RESOLV_CONF: &str = "nameserver 192.0.2.53\noptions timeout:5 attempts:2\n";

/// Where `nft` is looked for. The keeper reads no environment.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft"];

/// The rules of every sandbox with a policy.
///
/// No link leads out, so that a packet that is not redirected has nowhere to go; that it is dropped besides makes clients
/// fail at once rather than wait. What stays inside is not tracked: it needs no translation, and a busy server inside
/// cannot fill the table of connections.
fn ruleset() -> String {
    format!(
        "table inet mote {{
  set inside {{ type ipv4_addr; flags interval; elements = {{ 127.0.0.0/8, {OWN_ADDRESS} }} }}
  chain untracked {{
    type filter hook output priority -300; policy accept;
    ip saddr {BOUNDARY} accept
    ip daddr @inside notrack
    meta nfproto ipv6 notrack
  }}
  chain redirected {{
    type nat hook output priority -100; policy accept;
    meta nfproto != ipv4 accept
    ip daddr @inside accept
    udp dport {DNS_PORT} dnat ip to {BOUNDARY}:{DNS_PORT}
    tcp dport {DNS_PORT} dnat ip to {BOUNDARY}:{DNS_PORT}
    meta l4proto tcp dnat ip to {BOUNDARY}:{PROXY_PORT}
  }}
  chain leaving {{
    type filter hook output priority 0; policy drop;
    ct status dnat accept
    ip saddr {BOUNDARY} ip daddr @inside accept
    ip daddr {BOUNDARY} meta l4proto tcp reject with tcp reset
    ip daddr {BOUNDARY} drop
    ip daddr @inside accept
    ip6 daddr ::1 accept
  }}
  chain entering {{
    type filter hook input priority 0; policy drop;
    iif {LOOPBACK} accept
  }}
  chain passing {{
    type filter hook forward priority 0; policy drop;
  }}
}}
"
    )
}

/// Sets the loopback of the calling thread's network namespace up: all that a sandbox without a policy gets.
///
/// # Errors
/// `internal` with what the kernel answered.
pub fn isolate() -> Result<(), Failure> {
    let netlink = Netlink::open().map_err(|error| failed("open a netlink socket", error))?;
    netlink.set_up(LOOPBACK).map_err(|error| failed("set the loopback up", error))
}

/// Makes the calling thread's network namespace, a fresh one, the network of a sandbox with a policy: loopback, an address
/// and a default route on it, the packet filter, and the daemon's sockets ([`sockets`]).
///
/// # Errors
/// `internal` with what the kernel or `nft` answered; `unsupported` where there is no `nft`.
pub fn prepare() -> Result<Vec<OwnedFd>, Failure> {
    prepare_with(None)
}

/// [`prepare`], with rules that [`learn`] has read.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(rules: Option<&Ruleset>) -> Result<Vec<OwnedFd>, Failure> {
    let netlink = Netlink::open().map_err(|error| failed("open a netlink socket", error))?;
    netlink.set_up(LOOPBACK).map_err(|error| failed("set the loopback up", error))?;
    // The rules stand before there is a route, so that there is no moment without them.
    match rules {
        Some(rules) => rules.write().map_err(|error| failed("set up the packet filter", error))?,
        None => filter()?,
    }
    netlink.add_address(LOOPBACK, OWN_ADDRESS, 32).map_err(|error| failed("add an address", error))?;
    netlink.add_default_route(LOOPBACK, OWN_ADDRESS).map_err(|error| failed("add a default route", error))?;
    sockets()
}

/// Applies the rules with `nft` in the calling thread's network namespace, a fresh one, and reads them as the kernel has them.
///
/// # Errors
/// As [`prepare`].
pub fn learn() -> Result<Ruleset, Failure> {
    filter()?;
    Ruleset::read().map_err(|error| failed("read the packet filter's rules", error))
}

/// The daemon's sockets in the calling thread's network namespace: the listener for TCP, the socket for DNS over UDP, the
/// listener for DNS over TCP, in this order. For a namespace that [`prepare`] has been called in, and again when another
/// daemon adopts its sandbox.
///
/// # Errors
/// `internal` with what the kernel answered.
pub fn sockets() -> Result<Vec<OwnedFd>, Failure> {
    let tcp = bound(SocketType::STREAM, PROXY_PORT)?;
    let dns_udp = bound(SocketType::DGRAM, DNS_PORT)?;
    let dns_tcp = bound(SocketType::STREAM, DNS_PORT)?;
    for listener in [&tcp, &dns_tcp] {
        rustix::net::listen(listener, EGRESS_BACKLOG).map_err(|error| failed("listen", error))?;
    }
    Ok(vec![tcp, dns_udp, dns_tcp])
}

fn bound(kind: SocketType, port: u16) -> Result<OwnedFd, Failure> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)
        .map_err(|error| failed("open a socket", error))?;
    if kind == SocketType::STREAM {
        // Connections of a daemon that is gone may linger; another process inside cannot take the port from a listener.
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).map_err(|error| failed("set up a socket", error))?;
    }
    rustix::net::bind(&socket, &SocketAddrV4::new(BOUNDARY, port)).map_err(|error| failed("bind a socket", error))?;
    Ok(socket)
}

/// Applies the ruleset with Debian's `nft`, in one transaction.
fn filter() -> Result<(), Failure> {
    let Some(program) = NFT.into_iter().find(|path| std::path::Path::new(path).exists()) else {
        return Err(Failure::unsupported("network_policy", "failed to set up the packet filter: there is no nft")
            .remedy("install nftables"));
    };
    let fail = |what: String| Failure::new(Code::Internal, format!("failed to set up the packet filter: {what}"));
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| fail(format!("{program}: {error}")))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(ruleset().as_bytes()));
    let output = child.wait_with_output().map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        let first = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(fail(first));
    }
    written.map_err(|error| fail(error.to_string()))
}

fn failed(what: &str, error: Errno) -> Failure {
    Failure::new(Code::Internal, format!("failed to {what} in a sandbox's network namespace: {error}"))
}
