//! One question for the addresses of a name, to one server: over UDP, and over TCP where the answer was cut.
//!
//! It tries once and waits as long as it takes: who asks bounds both.

use std::net::SocketAddr;

use aws_lc_rs::rand::SecureRandom;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{self, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::{Addresses, Error};
use crate::limits::DNS_MESSAGE_BYTES_MAX;
use crate::network::name::Name;

/// Asks a server.
///
/// # Errors
/// [`Error`].
pub(super) async fn ask(server: SocketAddr, name: &Name) -> Result<Addresses, Error> {
    let asked = rr::Name::from_ascii(format!("{name}.")).map_err(|_| Error::NoName)?;
    let id = random_id()?;
    let query = query(id, &asked)?;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // A socket a question, so that each has a port of its own; connected, so that only the server can answer.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; DNS_MESSAGE_BYTES_MAX];
    let answer = loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer this question is passed over: it may be forged, and the true answer still under way.
        match Message::from_vec(&buffer[..length]) {
            Ok(message) if answers(&message, id, &asked) => break message,
            Ok(_) | Err(_) => {}
        }
    };
    if !answer.metadata.truncation {
        return addresses(&answer, &asked);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| Error::Malformed)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(|_| Error::Malformed)?;
    if !answers(&answer, id, &asked) {
        return Err(Error::Malformed);
    }
    addresses(&answer, &asked)
}

fn random_id() -> Result<u16, Error> {
    let mut id = [0; 2];
    let filled = aws_lc_rs::rand::SystemRandom::new().fill(&mut id);
    filled.map_err(|_| Error::Io(std::io::ErrorKind::Other))?;
    Ok(u16::from_be_bytes(id))
}

fn query(id: u16, name: &rr::Name) -> Result<Vec<u8>, Error> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().map_err(|_| Error::Malformed)
}

fn answers(message: &Message, id: u16, name: &rr::Name) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && matches!(&message.queries[..], [one] if one.name() == name && one.query_type() == RecordType::A)
}

/// The addresses at the end of the chain of aliases that begins at the name asked for.
fn addresses(message: &Message, asked: &rr::Name) -> Result<Addresses, Error> {
    match message.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Err(Error::NoName),
        code => return Err(Error::Server(code)),
    }
    let (mut name, mut ttl) = (asked.clone(), u32::MAX);
    // No chain is longer than the answer has records.
    for _ in 0..=message.answers.len() {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == name => Some((target.0.clone(), record.ttl)),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { break };
        name = target;
        ttl = ttl.min(alias_ttl);
    }
    let mut addresses = Vec::new();
    for record in &message.answers {
        if let RData::A(address) = &record.data
            && record.name == name
        {
            addresses.push(address.0);
            ttl = ttl.min(record.ttl);
        }
    }
    if addresses.is_empty() { Err(Error::NoAddress) } else { Ok(Addresses { addresses, ttl }) }
}
