//! Clients that do not keep to the protocol.

use std::io::Write;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::{Kind, Reply, Request};

use crate::client::{Client, Init, command, eventually, shell};

fn refused(mut client: Client) -> Code {
    let code = client.reply().unwrap_err().code;
    assert_eq!(client.frame(), None, "the connection is closed");
    code
}

#[test]
fn a_frame_that_is_none_is_refused_and_nothing_else_is_disturbed() {
    let init = Init::start();
    let (_, running) = init.start_process(shell("sleep 1000"));
    let raw = |bytes: &[u8]| {
        let mut client = init.connect();
        client.stream.write_all(bytes).unwrap();
        client
    };
    assert_eq!(refused(raw(&[0, 0xff, 0xff, 0xff, 0xff])), Code::Invalid);
    assert_eq!(refused(raw(&[99, 0, 0, 0, 0])), Code::Invalid);
    assert_eq!(refused(raw(&[2, 0, 0, 0, 0])), Code::Invalid);
    assert_eq!(refused(raw(b"\x00\x05\x00\x00\x00[[[[[")), Code::Invalid);
    assert_eq!(refused(raw(b"\x00\x09\x00\x00\x00{\"x\":{}}\n")), Code::Invalid);
    let nested = "[".repeat(100_000);
    let mut client = init.connect();
    client.send(Kind::Request, nested.as_bytes());
    assert_eq!(refused(client), Code::Invalid);
    // Cut short, in the header and in the payload.
    drop(raw(&[0, 1]));
    drop(raw(b"\x00\x05\x00\x00\x00[["));
    assert_eq!(init.ask(&Request::Hello), Ok(Reply::Hello { protocol: 1 }));
    drop(running);
}

#[test]
fn a_wrong_frame_among_input_ends_that_connection_and_its_process() {
    let init = Init::start();
    let (_, mut owner) = init.start_process(shell("sleep 1000"));
    owner.send(Kind::Data, b"x");
    assert_eq!(owner.reply().unwrap_err().code, Code::Invalid);
    drop(owner);
    init.wait_until_alone();
}

#[test]
fn silent_connections_hold_nobody_up_and_leave_no_thread() {
    let init = Init::start();
    let silent: Vec<Client> = (0..200).map(|_| init.connect()).collect();
    assert_eq!(init.run(command(&["echo", "x"])).text(), "x");
    drop(silent);
    let tasks = format!("/proc/{}/task", init.pid());
    eventually("one thread is left", || std::fs::read_dir(&tasks).unwrap().count() == 1);
}

#[test]
fn more_connections_than_may_be_are_refused_but_can_still_end_everything() {
    let init = Init::start();
    let tasks = format!("/proc/{}/task", init.pid());
    let silent: Vec<Client> = (0..1024).map(|_| init.connect()).collect();
    eventually("all are served", || std::fs::read_dir(&tasks).unwrap().count() == 1025);
    assert_eq!(init.code(&Request::Processes), Code::Exhausted);
    assert_eq!(init.ask(&Request::EndAll), Ok(Reply::Done));
    drop(silent);
    eventually("one thread is left", || std::fs::read_dir(&tasks).unwrap().count() == 1);
    assert_eq!(init.processes(), []);
}
