//! Watching directories.

use std::path::Path;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::{EventKind, Kind, Reply, Request, Writing};

use crate::client::{Client, Init, target};

fn watch(init: &Init, folder: &Path, recursive: bool) -> Client {
    let mut client = init.open(&Request::Watch { target: target(folder), recursive });
    assert_eq!(client.reply(), Ok(Reply::Done));
    client
}

/// Events until this one has come.
fn until(client: &mut Client, name: &str, kind: EventKind) -> Vec<(String, EventKind)> {
    let mut seen = Vec::new();
    loop {
        let Ok(Reply::Event { name: at, kind: what }) = client.reply() else { panic!("{name} never came: {seen:?}") };
        seen.push((at, what));
        if seen.last().is_some_and(|(at, what)| at == name && *what == kind) {
            return seen;
        }
    }
}

#[test]
fn what_happens_in_a_directory_is_told() {
    let init = Init::start();
    let folder = init.folder();
    let mut client = watch(&init, &folder, false);
    std::fs::write(folder.join("file"), "x").unwrap();
    until(&mut client, "file", EventKind::Create);
    until(&mut client, "file", EventKind::Write);
    init.shell(&format!("chmod 600 {}/file", folder.display()));
    until(&mut client, "file", EventKind::Chmod);
    std::fs::rename(folder.join("file"), folder.join("other")).unwrap();
    until(&mut client, "file", EventKind::Rename);
    until(&mut client, "other", EventKind::Create);
    std::fs::remove_file(folder.join("other")).unwrap();
    until(&mut client, "other", EventKind::Remove);
    std::fs::create_dir(folder.join("sub")).unwrap();
    until(&mut client, "sub", EventKind::Create);
    std::fs::write(folder.join("sub/not-told"), "").unwrap();
    std::fs::write(folder.join("last"), "").unwrap();
    let seen = until(&mut client, "last", EventKind::Create);
    assert!(!seen.iter().any(|(name, _)| name.contains("not-told")), "{seen:?}");
}

#[test]
fn directories_below_are_watched_as_they_come_and_move() {
    let init = Init::start();
    let folder = init.folder();
    std::fs::create_dir_all(folder.join("there/before")).unwrap();
    let mut client = watch(&init, &folder, true);
    std::fs::write(folder.join("there/before/one"), "").unwrap();
    until(&mut client, "there/before/one", EventKind::Create);
    // Made at once: the deeper ones are there before they can be watched.
    std::fs::create_dir_all(folder.join("new/a/b/c")).unwrap();
    until(&mut client, "new/a/b/c", EventKind::Create);
    std::fs::write(folder.join("new/a/b/c/two"), "").unwrap();
    until(&mut client, "new/a/b/c/two", EventKind::Create);
    std::fs::rename(folder.join("new/a"), folder.join("there/a")).unwrap();
    until(&mut client, "there/a", EventKind::Create);
    std::fs::write(folder.join("there/a/b/three"), "").unwrap();
    until(&mut client, "there/a/b/three", EventKind::Create);
}

#[test]
fn a_watch_ends_with_its_directory_and_needs_one() {
    let init = Init::start();
    let folder = init.folder().join("short");
    std::fs::create_dir(&folder).unwrap();
    let mut client = watch(&init, &folder, false);
    std::fs::remove_dir(&folder).unwrap();
    until(&mut client, "", EventKind::Remove);
    assert_eq!(client.frame(), None);
    assert_eq!(init.code(&Request::Watch { target: target(&folder), recursive: true }), Code::NotFound);
    assert_eq!(init.code(&Request::Watch { target: target("/etc/passwd"), recursive: true }), Code::Invalid);
}

#[test]
fn events_that_are_lost_are_told_as_lost() {
    let init = Init::start();
    let folder = init.folder();
    let mut client = watch(&init, &folder, false);
    let queued: usize =
        std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Nobody reads meanwhile, so that the kernel's queue is filled behind this side's buffers.
    for number in 0..queued * 2 {
        std::fs::write(folder.join(format!("{}-{number}", "n".repeat(100))), "").unwrap();
    }
    until(&mut client, "", EventKind::Overflow);
    std::fs::write(folder.join("after"), "").unwrap();
    until(&mut client, "after", EventKind::Create);
}

/// What is told when it is asked for, up to the answer.
fn asked(client: &mut Client) -> Vec<(String, EventKind)> {
    client.send(Kind::Data, &[]);
    let mut seen = Vec::new();
    loop {
        match client.reply().unwrap() {
            Reply::Event { name, kind } => seen.push((name, kind)),
            Reply::Done => return seen,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_has_happened_is_told_before_the_answer_to_who_asks() {
    let init = Init::start();
    let folder = init.folder();
    let mut client = watch(&init, &folder, true);
    assert_eq!(asked(&mut client), []);
    for number in 0..50 {
        let name = format!("{number}/file");
        std::fs::create_dir(folder.join(number.to_string())).unwrap();
        std::fs::write(folder.join(&name), "text").unwrap();
        let seen = asked(&mut client);
        assert!(seen.contains(&(number.to_string(), EventKind::Create)), "{seen:?}");
        assert!(
            seen.contains(&(name, EventKind::Write)),
            "it may have been written before its folder was watched: {seen:?}"
        );
    }
    client.send(Kind::Data, b"x");
    assert_eq!(client.reply().unwrap_err().code, Code::Invalid, "only an empty frame asks");
}

#[test]
fn a_file_that_is_written_in_place_is_told_as_e2bs_server_writes_it() {
    let init = Init::start();
    let folder = init.folder();
    let mut client = watch(&init, &folder, false);
    let of = |name: &str, kinds: &[EventKind]| kinds.iter().map(|kind| (name.to_owned(), *kind)).collect::<Vec<_>>();
    let in_place = Writing { in_place: true, ..Writing::default() };
    init.write_as(target(folder.join("a")), in_place.clone(), b"text").unwrap();
    assert_eq!(asked(&mut client), of("a", &[EventKind::Create, EventKind::Chmod, EventKind::Write]));
    init.write_as(target(folder.join("a")), in_place, b"").unwrap();
    assert_eq!(asked(&mut client), of("a", &[EventKind::Chmod, EventKind::Write]));
    init.write_as(target(folder.join("whole")), Writing::default(), b"text").unwrap();
    assert_eq!(asked(&mut client), of("whole", &[EventKind::Create]), "it appears with what is in it");
    init.write_as(target(folder.join("whole")), Writing::default(), b"other").unwrap();
    assert_eq!(
        asked(&mut client),
        of("whole", &[EventKind::Write]),
        "what it was written to meanwhile is nobody's business"
    );
    std::fs::write(folder.join("#1"), "").unwrap();
    init.shell(&format!("chmod 600 '{}/#1'", folder.display()));
    assert!(asked(&mut client).contains(&("#1".to_owned(), EventKind::Chmod)), "a file of such a name is told");
}
