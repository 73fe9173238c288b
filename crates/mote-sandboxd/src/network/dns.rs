//! Answers a sandbox's questions for names: addresses of IPv4 for names that its policy allows, and nothing else.
//!
//! It passes no question on as it came: the name alone is resolved on the host. Records that carry other data (TXT) or
//! that lead around the boundary (HTTPS and SVCB, with keys for an encrypted hello and hints of QUIC) are never answered.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::boundary::Boundary;
use super::decision::{Kind, Reason, Subject};
use super::name::Name;
use super::resolve;
use crate::limits::{
    DNS_CONNECTIONS_MAX, DNS_IDLE_TIMEOUT, DNS_MESSAGE_BYTES_MAX, DNS_QUERIES_AT_ONCE, DNS_TTL_SECONDS_DEFAULT,
};

/// Serves DNS over UDP until the boundary ends.
pub(super) async fn serve_udp(boundary: Arc<Boundary>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let room = Arc::new(Semaphore::new(DNS_QUERIES_AT_ONCE));
    let mut buffer = vec![0; DNS_MESSAGE_BYTES_MAX];
    loop {
        let received = tokio::select! {
            () = boundary.ended.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let Ok((length, from)) = received else {
            // An error of one datagram (an ICMP answer to one of ours); the socket itself does not break.
            tokio::task::yield_now().await;
            continue;
        };
        // Where too many are under way, the question is dropped: the client asks again.
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let (boundary, socket, query) = (boundary.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            if let Some(answer) = answer(&boundary, &query).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

/// Serves DNS over TCP until the boundary ends.
pub(super) async fn serve_tcp(boundary: Arc<Boundary>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(DNS_CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = boundary.ended.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(super::proxy::ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let boundary = boundary.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = boundary.ended.cancelled() => {}
                () = converse(&boundary, stream) => {}
            }
            drop(place);
        });
    }
}

async fn converse(boundary: &Arc<Boundary>, mut stream: TcpStream) {
    while let Ok(Ok(length)) = timeout(DNS_IDLE_TIMEOUT, stream.read_u16()).await {
        let mut query = vec![0; length.into()];
        if !matches!(timeout(DNS_IDLE_TIMEOUT, stream.read_exact(&mut query)).await, Ok(Ok(_))) {
            return;
        }
        let Some(answer) = answer(boundary, &query).await else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        if !matches!(timeout(DNS_IDLE_TIMEOUT, stream.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The answer to one message; none where it is no question at all.
async fn answer(boundary: &Arc<Boundary>, query: &[u8]) -> Option<Vec<u8>> {
    let Ok(query) = Message::from_vec(query) else {
        let id = u16::from_be_bytes([*query.first()?, *query.get(1)?]);
        return Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok();
    };
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        answer.set_edns(edns);
    }
    let question = match &query.queries[..] {
        [question] if query.metadata.op_code == OpCode::Query => question,
        [_] => {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer.to_vec().ok();
        }
        _ => {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer.to_vec().ok();
        }
    };
    answer.add_query(question.clone());
    match find(boundary, question).await {
        Ok((addresses, ttl)) => {
            for address in addresses {
                answer.add_answer(Record::from_rdata(question.name().clone(), ttl, RData::A(A(address))));
            }
        }
        Err(code) => answer.metadata.response_code = code,
    }
    answer.to_vec().ok()
}

/// The addresses that a question is answered with; none for a kind of record that is never answered.
async fn find(boundary: &Arc<Boundary>, question: &Query) -> Result<(Vec<Ipv4Addr>, u32), ResponseCode> {
    let asked = question.name().to_ascii();
    let deny = |reason: Reason| {
        let name = asked.chars().take(256).collect();
        boundary.deny(Kind::Dns, reason, Subject { name: Some(name), ..Subject::default() });
    };
    if !boundary.queries.try_take(Instant::now()) {
        deny(Reason::Rate);
        return Err(ResponseCode::Refused);
    }
    if question.query_class() != DNSClass::IN {
        deny(Reason::RecordType);
        return Err(ResponseCode::Refused);
    }
    let Ok(name) = Name::parse(&asked) else {
        deny(Reason::NoRule);
        return Err(ResponseCode::NXDomain);
    };
    let active = boundary.active();
    let taped = active.rules.replays().is_some();
    let on_tape = taped && active.tape.as_ref().is_some_and(|tape| tape.has_host(name.as_str()));
    if !on_tape && let Err(reason) = active.rules.resolves(&name) {
        deny(reason);
        // "No such name", rather than "refused": programs then say at once what is wrong, and do not ask again.
        return Err(ResponseCode::NXDomain);
    }
    if question.query_type() != RecordType::A {
        // "No such record": clients then go on with the address of IPv4. Not worth a line for the usual pair of questions.
        if question.query_type() != RecordType::AAAA {
            deny(Reason::RecordType);
        }
        return Ok((Vec::new(), 0));
    }
    if taped {
        let address = boundary.told().stand_in(&name, Instant::now());
        return Ok((vec![address], DNS_TTL_SECONDS_DEFAULT));
    }
    let found = look_up(boundary, &name).await.map_err(|(reason, code)| {
        deny(reason);
        code
    })?;
    // A name that leads into a private range is not told: the same is checked once more when a connection is made.
    let mut refused = None;
    let addresses: Vec<_> = found
        .addresses
        .into_iter()
        .filter(|address| active.rules.reaches(IpAddr::V4(*address)).map_err(|why| refused = Some(why)).is_ok())
        .collect();
    if let (true, Some(reason)) = (addresses.is_empty(), refused) {
        deny(reason);
        return Err(ResponseCode::NXDomain);
    }
    let now = Instant::now();
    for address in &addresses {
        boundary.told().tell(&name, *address, now);
    }
    let first = addresses.first().map(|address| IpAddr::V4(*address));
    boundary.allow(Kind::Dns, Reason::Rule, Subject { name: Some(name.to_string()), address: first, port: None });
    Ok((addresses, found.ttl))
}

/// Asks the resolver, where the answer is not known already and there is room for one more question; or why not, and what the
/// client is told.
async fn look_up(boundary: &Arc<Boundary>, name: &Name) -> Result<resolve::Addresses, (Reason, ResponseCode)> {
    let resolver = &boundary.shared.resolver;
    if let Some(known) = resolver.known(name, Instant::now()) {
        return Ok(known);
    }
    let _lookup = boundary.look_up().ok_or((Reason::Lookups, ResponseCode::ServFail))?;
    match resolver.resolve(name).await {
        Ok(found) => Ok(found),
        Err(resolve::Error::NoName | resolve::Error::NoAddress) => Err((Reason::Unreachable, ResponseCode::NXDomain)),
        Err(error) => {
            let sandbox = boundary.log.sandbox();
            tracing::warn!(sandbox, name = %name, error = %error, "failed to resolve a name for a sandbox");
            Err((Reason::Unreachable, ResponseCode::ServFail))
        }
    }
}

/// For whoever configures a resolver by text: `system`, or an address with or without a port.
///
/// # Errors
/// Says what was expected.
pub fn upstream_of(text: &str) -> Result<resolve::Upstream, String> {
    if text == "system" {
        return Ok(resolve::Upstream::System);
    }
    let server = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, super::keeper::DNS_PORT)))
        .map_err(|_| format!("{text:?} is neither `system` nor the address of a resolver"))?;
    Ok(resolve::Upstream::Server(server))
}
