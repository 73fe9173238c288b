//! Processes on a terminal.

use mote_sandbox_api::guest::{Exit, Kind, Reply, Request, Start, TerminalSize};

use crate::client::{Init, command, shell, tag};

const SIZE: Option<TerminalSize> = Some(TerminalSize { cols: 90, rows: 33 });

#[test]
fn a_terminal_has_its_size_belongs_to_the_user_and_controls_the_session() {
    let init = Init::start();
    let script = "stty size; stat -c %U $(tty); test -t 0 -a -t 1 -a -t 2 && echo three; echo $TERM; : < /dev/tty && echo controls";
    let outcome = init.run(Start { terminal: SIZE, user: Some("nobody".to_owned()), ..shell(script) });
    assert_eq!(
        String::from_utf8_lossy(&outcome.terminal).lines().collect::<Vec<_>>(),
        ["33 90", "nobody", "three", "xterm-256color", "controls"]
    );
    assert_eq!((outcome.exit, outcome.out.len()), (Exit::Code(0), 0));
}

#[test]
fn a_new_size_reaches_the_program() {
    let init = Init::start();
    let start = Start {
        terminal: SIZE,
        tag: Some("t".to_owned()),
        ..shell("trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done")
    };
    let (_, mut owner) = init.start_process(start);
    owner.read_until("up");
    let size = TerminalSize { cols: 120, rows: 50 };
    assert_eq!(init.ask(&Request::Resize { process: tag("t"), size }), Ok(Reply::Done));
    assert!(String::from_utf8_lossy(&owner.outcome().terminal).contains("50 120"));
}

#[test]
fn a_shell_controls_its_jobs() {
    let init = Init::start();
    let env = [("PS1".to_owned(), "ready> ".to_owned())].into();
    let start = Start { terminal: SIZE, env, ..command(&["bash", "--norc", "-i"]) };
    let (_, mut owner) = init.start_process(start);
    owner.read_until("ready> ");
    owner.send(Kind::Stdin, b"sh -c 'echo be\"\"gun; exec sleep 1000'\n");
    owner.read_until("begun");
    // The interrupt character ends the job in the foreground, and not the shell.
    owner.send(Kind::Stdin, b"\x03");
    owner.read_until("ready> ");
    owner.send(Kind::Stdin, b"echo code-$?\n");
    owner.read_until("code-130");
    owner.read_until("ready> ");
    owner.send(Kind::Stdin, b"sleep 1000 &\njobs\n");
    owner.read_until("Running");
    owner.read_until("ready> ");
    // The end of input.
    owner.send(Kind::Stdin, &[]);
    assert_eq!(owner.outcome().exit, Exit::Code(0));
}

#[test]
fn a_terminal_that_is_closed_ends_what_runs_on_it() {
    let init = Init::start();
    let start = Start { terminal: SIZE, ..command(&["bash", "--norc", "-i"]) };
    let (_, mut owner) = init.start_process(start);
    owner.send(Kind::Stdin, b"sleep 1000 &\nsleep 1000 | sleep 1000 &\njobs\n");
    owner.read_until("Running");
    drop(owner);
    init.wait_until_alone();
}
