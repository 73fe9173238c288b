//! A resolver against servers on the loopback that answer as a test says.

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::*;

/// What a server does with a question.
#[derive(Clone, Copy)]
enum Does {
    Says(ResponseCode),
    Tells(Ipv4Addr),
    /// A stranger's answer to another question comes first.
    IsForestalled(Ipv4Addr),
    KeepsSilent,
}

async fn server(does: Does) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
            let question = asked.queries[0].clone();
            answer.add_query(question.clone());
            match does {
                Does::KeepsSilent => continue,
                Does::Says(code) => answer.metadata.response_code = code,
                Does::Tells(told) | Does::IsForestalled(told) => {
                    answer.add_answer(Record::from_rdata(question.name().clone(), 9, RData::A(A(told))));
                }
            }
            if let Does::IsForestalled(_) = does {
                let mut forged = answer.clone();
                forged.metadata.id = asked.metadata.id.wrapping_add(1);
                forged.answers[0].data = RData::A(A(Ipv4Addr::new(6, 6, 6, 6)));
                socket.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            }
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

async fn asked(servers: &[Does]) -> Result<Vec<Ipv4Addr>, Error> {
    let mut addresses = Vec::new();
    for does in servers {
        addresses.push(server(*does).await);
    }
    let name = Name::parse("a.example").unwrap();
    // The patience is for a server that keeps silent; the others answer at once.
    ask(&addresses, 1, Duration::from_millis(200), &name).await.map(|found| found.addresses)
}

#[tokio::test]
async fn what_a_name_has_not_is_told_by_type() {
    let told = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(asked(&[Does::Tells(told)]).await, Ok(vec![told]));
    assert_eq!(asked(&[Does::Says(ResponseCode::NXDomain)]).await, Err(Error::NoName));
    assert_eq!(asked(&[Does::Says(ResponseCode::NoError)]).await, Err(Error::NoAddress));
    assert_eq!(asked(&[Does::Says(ResponseCode::ServFail)]).await, Err(Error::Server(ResponseCode::ServFail)));
    assert_eq!(asked(&[Does::Says(ResponseCode::Refused)]).await, Err(Error::Server(ResponseCode::Refused)));
    assert_eq!(asked(&[Does::KeepsSilent]).await, Err(Error::Timeout));
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_fails_and_not_where_it_says_no() {
    let told = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(asked(&[Does::Says(ResponseCode::ServFail), Does::Tells(told)]).await, Ok(vec![told]));
    assert_eq!(asked(&[Does::KeepsSilent, Does::Tells(told)]).await, Ok(vec![told]));
    assert_eq!(asked(&[Does::Says(ResponseCode::NXDomain), Does::Tells(told)]).await, Err(Error::NoName));
}

#[tokio::test]
async fn an_answer_to_another_question_is_passed_over() {
    let told = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(asked(&[Does::IsForestalled(told)]).await, Ok(vec![told]));
}

#[tokio::test]
async fn a_name_of_the_hosts_file_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = folder.path().join("hosts");
    std::fs::write(&hosts, "192.0.2.7 db.example db\n").unwrap();
    let resolver = Resolver::of(Source::Host(Files::new(&folder.path().join("none"), &hosts)));
    for name in ["db.example", "DB"] {
        let name = Name::parse(name).unwrap();
        assert_eq!(resolver.known(&name, Instant::now()), None);
        let found = resolver.resolve(&name).await.unwrap();
        assert_eq!(found.addresses, [Ipv4Addr::new(192, 0, 2, 7)]);
        assert_eq!(resolver.known(&name, Instant::now()).unwrap().addresses, found.addresses);
    }
}
