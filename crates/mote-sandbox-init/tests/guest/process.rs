//! Starting, following, feeding and signalling processes.

use std::collections::BTreeMap;
use std::net::Shutdown;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::{Configuration, Exit, Kind, Reply, Request, Selector, Start, TerminalSize};

use crate::client::{Init, command, eventually, shell, tag};

#[test]
fn a_process_tells_its_output_and_how_it_ended() {
    let init = Init::start();
    let outcome = init.shell("echo to-out; echo to-err >&2; exit 3");
    assert_eq!((outcome.out, outcome.err), (b"to-out\n".to_vec(), b"to-err\n".to_vec()));
    assert_eq!((outcome.exit, outcome.timed_out), (Exit::Code(3), false));
    assert_eq!(init.shell("kill -TERM $$").exit, Exit::Signal(15));
}

#[test]
fn a_process_is_its_users_with_its_own_environment_and_session() {
    let init = Init::start();
    let env = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let configuration = Configuration {
        env: env(&[("SHARED", "one"), ("OVER", "shared")]),
        user: Some("nobody".to_owned()),
        cwd: Some("/usr".to_owned()),
    };
    assert_eq!(init.ask(&Request::Configure(configuration)), Ok(Reply::Done));
    let script = "id -un; pwd; echo $SHARED $OVER $USER $HOME; test $(ps -o sid= -p $$) = $$ && echo leads";
    let outcome = init.run(Start { env: env(&[("OVER", "own")]), ..shell(script) });
    assert_eq!(outcome.text(), "nobody\n/usr\none own nobody /nonexistent\nleads");
    let root =
        init.run(Start { user: Some("0".to_owned()), cwd: Some("/etc".to_owned()), ..shell("id -un; pwd; id -G") });
    assert!(root.text().starts_with("root\n/etc\n0"), "{root:?}");
    let number = init.run(Start { user: Some("4242".to_owned()), ..shell("id -u; id -g; id -G") });
    // As Docker does: an id without an account has root's group.
    assert_eq!(number.text(), "4242\n0\n0");
    let both = init.run(Start { user: Some("4242:4243".to_owned()), ..shell("id -u; id -g; id -G") });
    assert_eq!(both.text(), "4242\n4243\n4243");
}

#[test]
fn a_user_can_open_the_standard_streams_by_name() {
    let init = Init::start();
    let script = "echo out >/dev/stdout; echo err >/dev/stderr; echo more | tee -a /dev/stdout >/proc/self/fd/1";
    for user in ["root", "nobody", "4242:4243"] {
        let outcome = init.run(Start { user: Some(user.to_owned()), ..shell(script) });
        assert_eq!((outcome.text().as_str(), &*outcome.err), ("out\nmore\nmore", &b"err\n"[..]), "{user}");
        let start = Start { user: Some(user.to_owned()), stdin: true, ..shell("cat /dev/stdin /dev/fd/0") };
        let (_, mut client) = init.start_process(start);
        client.send(Kind::Stdin, b"typed");
        client.send(Kind::Stdin, &[]);
        assert_eq!(client.outcome().text(), "typed", "{user}");
        let on_terminal = Start {
            user: Some(user.to_owned()),
            terminal: Some(TerminalSize { cols: 80, rows: 24 }),
            ..shell("echo seen >/dev/stdout; echo seen >/dev/tty")
        };
        let outcome = init.run(on_terminal);
        assert_eq!(outcome.terminal, b"seen\r\nseen\r\n", "{user}");
    }
}

#[test]
fn the_sandboxs_own_working_directory_is_made_and_a_commands_is_not() {
    let init = Init::start();
    let path = init.path("deep/work");
    let configuration =
        Configuration { cwd: Some(path.clone()), user: Some("nobody".to_owned()), ..Configuration::default() };
    assert_eq!(init.ask(&Request::Configure(configuration)), Ok(Reply::Done));
    assert_eq!(init.shell("pwd; stat -c '%U %a' .").text(), format!("{path}\nroot 755"));
    let asked = Start { cwd: Some(init.path("none")), ..shell("true") };
    assert_eq!(init.code(&Request::Start(asked)), Code::NotFound);
    assert!(!std::path::Path::new(&init.path("none")).exists());
}

#[test]
fn a_program_sees_default_signals_and_no_descriptor_of_ours() {
    let init = Init::start();
    let outcome = init.shell("grep -E 'SigBlk|SigIgn' /proc/self/status | cut -f2; ls /proc/self/fd | tr '\\n' ' '");
    assert_eq!(outcome.text(), "0000000000000000\n0000000000000000\n0 1 2 3");
}

#[test]
fn what_is_missing_is_told_apart() {
    let init = Init::start();
    let kind = |start: Start| {
        let failure = init.ask(&Request::Start(start)).unwrap_err();
        (failure.code, failure.context["kind"].clone())
    };
    assert_eq!(kind(command(&["no-such-program"])), (Code::NotFound, "program".to_owned()));
    assert_eq!(kind(Start { cwd: Some("/no/such".to_owned()), ..shell("true") }), (Code::NotFound, "cwd".to_owned()));
    assert_eq!(kind(Start { user: Some("nosuch".to_owned()), ..shell("true") }), (Code::NotFound, "user".to_owned()));
    assert_eq!(kind(command(&["/etc/passwd"])), (Code::Forbidden, "program".to_owned()));
    assert_eq!(init.code(&Request::Start(Start::default())), Code::Invalid);
    init.wait_until_alone();
}

#[test]
fn input_reaches_a_process_from_its_own_and_from_another_connection() {
    let init = Init::start();
    let (_, mut owner) = init.start_process(Start { stdin: true, tag: Some("cat".to_owned()), ..command(&["cat"]) });
    owner.send(Kind::Stdin, b"one ");
    owner.read_until("one ");
    let mut other = init.open(&Request::Input(tag("cat")));
    other.send(Kind::Stdin, b"two ");
    other.send(Kind::Stdin, &[]);
    other.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(other.reply(), Ok(Reply::Done));
    let outcome = owner.outcome();
    assert_eq!((outcome.out.as_slice(), outcome.exit), (&b"two "[..], Exit::Code(0)));
}

#[test]
fn input_that_ends_the_process_was_taken() {
    let init = Init::start();
    // Neither sender has said that this is all when the process ends of what it was sent.
    let reader = Start { stdin: true, ..shell("read line; exit 7") };
    let (pid, owner) = init.start_process(reader);
    let mut sender = init.open(&Request::Input(Selector::Pid(pid)));
    sender.send(Kind::Stdin, b"go\n");
    assert_eq!((sender.reply(), owner.outcome().exit), (Ok(Reply::Done), Exit::Code(7)));
    let (pid, owner) = init.start_process(Start { stdin: true, ..command(&["cat"]) });
    let mut sender = init.open(&Request::Input(Selector::Pid(pid)));
    sender.send(Kind::Stdin, &[]);
    assert_eq!((sender.reply(), owner.outcome().exit), (Ok(Reply::Done), Exit::Code(0)));
}

#[test]
fn input_that_the_process_did_not_take_is_not_said_to_be_taken() {
    let init = Init::start();
    let (pid, mut owner) = init.start_process(Start { stdin: true, ..shell("exec 0<&-; echo deaf; exec sleep 1000") });
    owner.read_until("deaf\n");
    let mut sender = init.open(&Request::Input(Selector::Pid(pid)));
    sender.send(Kind::Stdin, b"lost");
    sender.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(sender.reply().unwrap_err().code, Code::Conflict);
}

#[test]
fn input_for_a_process_without_is_refused_and_its_own_is_empty() {
    let init = Init::start();
    assert_eq!(init.run(command(&["cat"])).exit, Exit::Code(0));
    let (pid, _owner) = init.start_process(command(&["sleep", "1000"]));
    assert_eq!(init.code(&Request::Input(Selector::Pid(pid))), Code::Conflict);
    assert_eq!(init.code(&Request::Input(tag("none"))), Code::NotFound);
}

#[test]
fn much_input_comes_out_as_it_went_in() {
    let init = Init::start();
    let (_, owner) = init.start_process(Start { stdin: true, ..command(&["cat"]) });
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[number as usize % 3]).collect();
    let mut writer = crate::client::Client::new(owner.stream.try_clone().unwrap());
    let sent = bytes.clone();
    let sender = std::thread::spawn(move || {
        sent.chunks(200_000).for_each(|chunk| writer.send(Kind::Stdin, chunk));
        writer.send(Kind::Stdin, &[]);
    });
    let outcome = owner.outcome();
    sender.join().unwrap();
    assert!(outcome.out == bytes, "{} bytes came of {}", outcome.out.len(), bytes.len());
}

#[test]
fn a_process_that_nobody_stays_for_ends_with_the_connection() {
    let init = Init::start();
    let (_, owner) = init.start_process(shell("sleep 1000 & setsid sleep 1000 & sleep 1000"));
    drop(owner);
    init.wait_until_alone();
    assert_eq!(init.processes(), []);
}

#[test]
fn a_detached_process_is_found_followed_by_several_and_ended_by_a_signal() {
    let init = Init::start();
    let flag = init.path("flag");
    let script = format!(
        "trap 'echo bye; exit 9' TERM; while ! test -e {flag}; do sleep 0.01; done; echo seen; while :; do sleep 0.01; done"
    );
    let start = Start { detached: true, tag: Some("lasting".to_owned()), ..shell(&script) };
    let (pid, owner) = init.start_process(start.clone());
    drop(owner);
    let listed = init.processes();
    assert_eq!((listed.len(), listed[0].pid, listed[0].tag.as_deref()), (1, pid, Some("lasting")));
    assert_eq!(init.code(&Request::Start(start)), Code::Conflict);
    let mut followers = [tag("lasting"), Selector::Pid(pid)].map(|selector| init.open(&Request::Attach(selector)));
    for follower in &mut followers {
        assert_eq!(follower.reply(), Ok(Reply::Started { pid }));
    }
    std::fs::write(&flag, "").unwrap();
    followers[0].read_until("seen\n");
    let signal = |number| Request::Signal { process: tag("lasting"), signal: number };
    assert_eq!(init.code(&signal(99)), Code::Invalid);
    assert_eq!(init.ask(&signal(15)), Ok(Reply::Done));
    let [first, second] = followers.map(|follower| follower.outcome());
    assert_eq!((first.text(), first.exit), ("bye".to_owned(), Exit::Code(9)));
    assert_eq!((second.text(), second.exit), ("seen\nbye".to_owned(), Exit::Code(9)));
    assert_eq!(init.code(&signal(15)), Code::NotFound);
}

#[test]
fn output_that_nobody_reads_is_dropped_and_counted_and_blocks_nothing() {
    let init = Init::start();
    let flag = init.path("flag");
    let script = format!("head -c 20000000 /dev/zero; touch {flag}; sleep 1000");
    let (_, owner) = init.start_process(Start { detached: true, ..shell(&script) });
    drop(owner);
    eventually("everything was written", || std::fs::exists(&flag).unwrap());
    // What the owner's connection had taken before it closed is not dropped, and not known here.
    eventually("it was counted", || init.processes()[0].dropped_bytes > 10_000_000);
}

#[test]
fn a_slow_reader_holds_the_process_back() {
    let init = Init::start();
    let progress = init.path("progress");
    let script = format!("for i in $(seq 100); do head -c 1000000 /dev/zero; echo $i > {progress}; done");
    let (_, mut owner) = init.start_process(shell(&script));
    assert_eq!(owner.frame().unwrap().0, Kind::Stdout);
    // Another process has all the time it wants meanwhile; without back-pressure, most would be written by its end.
    assert_eq!(init.shell("sleep 0.5").exit, Exit::Code(0));
    let written = std::fs::read_to_string(&progress).map_or(0, |text| text.trim().parse::<u32>().unwrap_or(0));
    assert!(written < 10, "{written} MB were written, which no buffer here holds");
    assert!(owner.outcome().out.len() > 99_000_000);
}

#[test]
fn what_a_process_leaves_behind_neither_delays_its_end_nor_loses_its_pipes() {
    let init = Init::start();
    let (go, flag) = (init.path("go"), init.path("flag"));
    let script = format!(
        "(while ! test -e {go}; do sleep 0.01; done; head -c 1000000 /dev/zero; echo late && touch {flag}) & echo early"
    );
    let outcome = init.shell(&script);
    assert_eq!((outcome.text(), outcome.exit), ("early".to_owned(), Exit::Code(0)));
    std::fs::write(&go, "").unwrap();
    eventually("what was left behind could write on", || std::fs::exists(&flag).unwrap());
    init.wait_until_alone();
}

#[test]
fn output_before_the_end_is_whole_even_for_a_slow_reader() {
    let init = Init::start();
    let (_, owner) = init.start_process(shell("sleep 1000 & head -c 5000000 /dev/zero; echo end"));
    assert_eq!(init.shell("sleep 0.3").exit, Exit::Code(0));
    let outcome = owner.outcome();
    assert_eq!(outcome.out.len(), 5_000_004);
    assert!(outcome.out.ends_with(b"end\n"));
}

#[test]
fn where_memory_is_short_a_process_is_ended_before_the_first_one() {
    let init = Init::start();
    let outcome = init.shell("cat /proc/$PPID/oom_score_adj /proc/self/oom_score_adj");
    let scores: Vec<i32> = outcome.text().split_whitespace().map(|score| score.parse().unwrap()).collect();
    assert!(matches!(scores[..], [first, other] if other > first), "{scores:?}");
}
