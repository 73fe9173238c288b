//! Connecting to a port on the sandbox's loopback, and passing bytes both ways.
//!
//! It reaches no other address: what the sandbox may reach beyond itself is not decided here.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::{Kind, Reply};

use crate::connection::Connection;
use crate::failure::{Result, failed_io};
use crate::limits::{DIAL_CHUNK_BYTES, DIAL_TIMEOUT_MS, THREAD_STACK_BYTES};

/// Serves a dialled connection until both directions have ended.
pub(crate) fn dial(port: u16, connection: &mut Connection) -> Result<()> {
    let target = connect(port)?;
    // Small writes of interactive protocols must not wait for each other.
    target.set_nodelay(true).map_err(|error| failed_io("prepare the connection", &error))?;
    let shared = connection.stream().try_clone().and_then(|stream| Ok((stream, target.try_clone()?)));
    let (stream, back) = shared.map_err(|error| failed_io("share the connection", &error))?;
    connection.reply(&Reply::Done)?;
    // Sends towards the daemon on a thread of its own, so that neither direction waits for the other.
    let sender = thread::Builder::new()
        .stack_size(THREAD_STACK_BYTES)
        .spawn(move || send_all(back, Connection::new(stream)))
        .map_err(|error| failed_io("start a thread", &error))?;
    receive_all(target, connection);
    // The daemon has closed, or the port's server takes no more: nothing is left to pass on, either way.
    let _ = connection.stream().shutdown(Shutdown::Both);
    let _ = sender.join();
    Ok(())
}

fn connect(port: u16) -> Result<TcpStream> {
    let timeout = Duration::from_millis(DIAL_TIMEOUT_MS);
    let mut last = None;
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))] {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => last = Some(error),
            Err(error) => last = last.or(Some(error)),
        }
    }
    let code = match &last {
        Some(error) if error.kind() == std::io::ErrorKind::TimedOut => Code::Timeout,
        _ => Code::NotFound,
    };
    let cause = last.map_or_else(String::new, |error| format!(": {error}"));
    Err(Failure::new(code, format!("failed to connect to port {port} of the sandbox{cause}"))
        .with("kind", "port")
        .with("id", port))
}

/// From the port to the daemon, until the port's server has sent everything.
fn send_all(mut from: TcpStream, mut to: Connection) {
    let mut buffer = vec![0; DIAL_CHUNK_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) if to.send(Kind::Data, &buffer[..count]).is_ok() => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => {
                // An end that is not the protocol's: the daemon sees a cut connection, as the client will.
                let _ = to.stream().shutdown(Shutdown::Both);
                return;
            }
        }
    }
    let _ = to.send(Kind::Data, &[]);
}

/// From the daemon to the port, until the daemon closes. An empty frame ends this direction, and the daemon is then still
/// waited for: it alone knows when it has read enough of the other.
fn receive_all(mut to: TcpStream, from: &mut Connection) {
    let mut payload = Vec::new();
    loop {
        let is_passed = match from.receive(&mut payload) {
            Ok(Some(Kind::Data)) if payload.is_empty() => to.shutdown(Shutdown::Write).is_ok(),
            Ok(Some(Kind::Data)) => to.write_all(&payload).is_ok(),
            Ok(_) | Err(_) => false,
        };
        if !is_passed {
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}
