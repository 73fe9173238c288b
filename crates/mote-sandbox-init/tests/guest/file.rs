//! Files, in the name of a user.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::{EntryKind, FileTarget, Kind, RawPath, Reply, Request, Writing};

use crate::client::{Init, entry, eventually, nobodys, target};

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_written_looked_at_read_moved_and_removed() {
    let init = Init::start();
    let path = init.path("new/folder/file");
    let contents: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let written = init.write(nobodys(&path), None, &contents).unwrap();
    assert_eq!((written.name.as_str(), written.path.as_str(), written.kind), ("file", path.as_str(), EntryKind::File));
    assert_eq!((written.size, written.mode, written.owner.as_str()), (4_000_000, 0o100_644, "nobody"));
    assert_eq!(init.ask(&Request::Stat(target(&path))), Ok(Reply::Entry(Box::new(written.clone()))));
    assert!(init.read(target(&path), 0, None).unwrap() == contents);
    assert_eq!(init.read(target(&path), 3_999_990, None).unwrap(), &contents[3_999_990..]);
    assert_eq!(init.read(target(&path), 10, Some(5)).unwrap(), &contents[10..15]);
    assert_eq!(init.read(target(&path), 5_000_000, None).unwrap(), b"");
    let to = init.path("other/place/moved");
    let moved = entry(init.ask(&Request::Move { from: nobodys(&path), to: to.clone().into() }).unwrap()).unwrap();
    assert_eq!((moved.path, moved.size), (to.clone(), 4_000_000));
    assert_eq!(init.code(&Request::Stat(target(&path))), Code::NotFound);
    assert_eq!(init.ask(&Request::Remove(target(&to))), Ok(Reply::Done));
    assert_eq!(init.code(&Request::Remove(target(&to))), Code::NotFound);
}

#[test]
fn permissions_are_the_users() {
    let init = Init::start();
    let private = init.path("private");
    std::fs::create_dir(&private).unwrap();
    std::fs::write(format!("{private}/secret"), "s").unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    let inside = format!("{private}/secret");
    assert_eq!(init.read(nobodys(&inside), 0, None).unwrap_err().code, Code::Forbidden);
    assert_eq!(init.write(nobodys(&inside), None, b"x").unwrap_err().code, Code::Forbidden);
    assert_eq!(init.code(&Request::Stat(nobodys(&inside))), Code::Forbidden);
    assert_eq!(init.code(&Request::Remove(nobodys(&inside))), Code::Forbidden);
    assert_eq!(init.code(&Request::List { target: nobodys(&private), depth: 1 }), Code::Forbidden);
    assert_eq!(init.code(&Request::MakeDirectory(nobodys("/usr/made-by-nobody"))), Code::Forbidden);
    assert_eq!(init.code(&Request::Watch { target: nobodys(&private), recursive: false }), Code::Forbidden);
    let unknown = FileTarget::new(inside.clone(), Some("nosuch".to_owned()));
    assert_eq!(init.ask(&Request::Stat(unknown)).unwrap_err().context["kind"], "user");
    assert_eq!(init.read(target(&inside), 0, None).unwrap(), b"s");
}

#[test]
fn a_write_keeps_mode_and_owner_and_goes_through_links() {
    let init = Init::start();
    let (path, link) = (init.path("script"), init.path("link"));
    init.write(nobodys(&path), Some(0o4750), b"first").unwrap();
    symlink("script", &link).unwrap();
    let written = init.write(target(&link), None, b"second").unwrap();
    assert_eq!((written.name.as_str(), written.link.as_deref()), ("link", Some("script")));
    let metadata = std::fs::metadata(&path).unwrap();
    // It keeps what anybody may do with it, and not that it runs in its owner's name.
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o750, 65_534));
    assert_eq!(std::fs::read(&path).unwrap(), b"second");
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    let dangling = init.path("dangling");
    symlink("made/by/write", &dangling).unwrap();
    assert_eq!(init.write(target(&dangling), None, b"x").unwrap_err().code, Code::NotFound);
    assert_eq!(names(&init.folder()), ["dangling", "link", "script"]);
}

#[test]
fn a_file_that_nothing_can_replace_is_written_in_place() {
    let init = Init::start();
    // Only the file is its user's to write.
    let shared = init.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let path = format!("{shared}/file");
    std::fs::write(&path, "a longer text than what follows").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    let written = init.write(nobodys(&path), None, b"short").unwrap();
    assert_eq!((written.size, std::fs::read(&path).unwrap().as_slice()), (5, &b"short"[..]));
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.uid(), after.mode()), (before.ino(), before.uid(), before.mode()));
    assert_eq!(init.write(nobodys(format!("{shared}/new")), None, b"x").unwrap_err().code, Code::Forbidden);
    // In a directory where only a file's owner may replace it.
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    init.write(nobodys(&path), None, b"sticky").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"sticky");
    assert_eq!(names(Path::new(&shared)), ["file"], "nothing is left of the attempt");
    // A file that is a mount, as /etc/hosts is.
    let mount = init.path("mount");
    std::fs::write(&mount, "").unwrap();
    let made = init.shell(&format!("mount --bind {path} {mount} && echo mounted"));
    assert_eq!(made.text(), "mounted", "{made:?}");
    init.write(target(&mount), None, &[b'm'; 300_000]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 300_000);
    assert_eq!(names(&init.folder()), ["mount", "shared"]);
}

#[test]
fn names_are_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let init = Init::start();
    let folder = init.folder();
    let path = folder.join(OsStr::from_bytes(b"d\xe9/f\xff"));
    let written = init.write(target(&path), None, b"bytes").unwrap();
    assert_eq!((written.name.as_str(), written.path_base64.is_some()), ("f\u{fffd}", true));
    assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
    let bytes = |text: &Option<String>| RawPath::from_base64("path_base64", text.as_deref().unwrap()).unwrap();
    std::fs::write(folder.join("plain"), "").unwrap();
    let listed = init.list(folder.to_str().unwrap(), 2).unwrap();
    assert_eq!(listed.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["d\u{fffd}", "f\u{fffd}", "plain"]);
    assert_eq!(bytes(&listed[1].path_base64).as_bytes(), path.as_os_str().as_bytes());
    assert_eq!(listed[2].path_base64, None);
    let found = FileTarget::new(bytes(&listed[1].path_base64), None);
    assert_eq!(init.read(found.clone(), 0, None).unwrap(), b"bytes");
    let to = RawPath::new([folder.as_os_str().as_bytes(), b"/\xfe"].concat());
    let link = FileTarget::new(to.clone(), None);
    let made = entry(init.ask(&Request::Link { target: link.clone(), to: found.path.clone() }).unwrap()).unwrap();
    assert_eq!((bytes(&made.link_base64), made.size), (found.path.clone(), 5));
    assert_eq!(init.code(&Request::Link { target: link, to: "x".into() }), Code::Conflict);
    let moved = entry(init.ask(&Request::Move { from: found, to: to.clone() }).unwrap()).unwrap();
    assert_eq!(bytes(&moved.path_base64), to);
    assert_eq!(init.ask(&Request::Remove(FileTarget::new(to, None))), Ok(Reply::Done));
    assert_eq!(names(&folder.join(OsStr::from_bytes(b"d\xe9"))), [""; 0]);
}

#[test]
fn a_tilde_is_the_users_home() {
    let init = Init::start();
    let home = FileTarget::new("~", Some("root".to_owned()));
    assert_eq!(entry(init.ask(&Request::Stat(home)).unwrap()).unwrap().path, "/root");
    assert_eq!(init.code(&Request::Stat(target("~nobody/x"))), Code::Invalid);
}

#[test]
fn what_is_no_file_is_neither_read_nor_written() {
    let init = Init::start();
    let pipe = init.path("pipe");
    init.shell(&format!("mkfifo {pipe}"));
    for path in [pipe.as_str(), "/dev/null", "/"] {
        assert_eq!(init.read(target(path), 0, None).unwrap_err().code, Code::Invalid, "{path}");
    }
    for path in [pipe.as_str(), "/dev/null", "/usr"] {
        assert_eq!(init.write(target(path), None, b"x").unwrap_err().code, Code::Invalid, "{path}");
    }
    assert_eq!(init.code(&Request::Remove(target("/"))), Code::Invalid);
    // It tells no size, and has contents.
    assert!(init.read(target("/proc/self/status"), 0, None).unwrap().starts_with(b"Name:"));
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let init = Init::start();
    let folder = init.folder();
    let path = folder.join("file");
    std::fs::write(&path, "old").unwrap();
    let request = Request::Write { target: target(&path), writing: Writing::default() };
    let mut broken = init.open(&request);
    broken.send(Kind::Data, &[1; 100_000]);
    drop(broken);
    let mut wrong = init.open(&request);
    wrong.send(Kind::Stdin, b"x");
    assert_eq!(wrong.reply().unwrap_err().code, Code::Invalid);
    let mut waiting = init.open(&request);
    waiting.send(Kind::Data, &[1; 100_000]);
    // The first process is killed while it writes.
    let pid = rustix::process::Pid::from_raw(init.pid()).unwrap();
    eventually("it has begun to write", || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
        files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).any(|to| to.starts_with(&folder))
    });
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(waiting.frame(), None);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(names(&folder), ["file"]);
}

#[test]
fn many_files_are_listed_in_order() {
    let init = Init::start();
    let folder = init.folder();
    for number in 0..10_000 {
        std::fs::write(folder.join(format!("file-{number:05}")), "").unwrap();
    }
    let entries = init.list(folder.to_str().unwrap(), 1).unwrap();
    assert_eq!(entries.len(), 10_000);
    assert!(entries.iter().enumerate().all(|(number, entry)| entry.name == format!("file-{number:05}")));
}

#[test]
fn a_listing_goes_as_deep_as_asked_and_through_no_link() {
    let init = Init::start();
    let folder = init.folder();
    std::fs::create_dir_all(folder.join("a/b/c")).unwrap();
    std::fs::write(folder.join("a/b/file"), "12345").unwrap();
    symlink("a", folder.join("link")).unwrap();
    symlink("nowhere", folder.join("lost")).unwrap();
    let listed = |depth| {
        let entries = init.list(folder.to_str().unwrap(), depth).unwrap();
        let root = folder.to_str().unwrap().to_owned() + "/";
        entries.iter().map(|entry| entry.path.strip_prefix(&root).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(1), ["a", "link", "lost"]);
    assert_eq!(listed(3), ["a", "a/b", "a/b/c", "a/b/file", "link", "lost"]);
    let entries = init.list(folder.to_str().unwrap(), 1).unwrap();
    assert_eq!(
        entries.iter().map(|e| e.kind).collect::<Vec<_>>(),
        [EntryKind::Directory, EntryKind::Directory, EntryKind::Symlink]
    );
    assert_eq!(entries[2].link.as_deref(), Some("nowhere"));
    assert_eq!(init.list(folder.to_str().unwrap(), 0).unwrap_err().code, Code::Invalid);
    assert_eq!(init.list(&init.path("a/b/file"), 1).unwrap_err().code, Code::Invalid);
}

#[test]
fn a_directory_is_made_with_those_above_it_once() {
    let init = Init::start();
    let path = init.path("x/y/z");
    let made = entry(init.ask(&Request::MakeDirectory(nobodys(&path))).unwrap()).unwrap();
    assert_eq!((made.kind, made.owner.as_str(), made.mode & 0o777), (EntryKind::Directory, "nobody", 0o755));
    assert_eq!(init.code(&Request::MakeDirectory(nobodys(&path))), Code::Conflict);
    assert_eq!(std::fs::metadata(init.path("x")).unwrap().uid(), 65_534);
}

#[test]
fn a_tree_deeper_than_descriptors_and_paths_is_removed() {
    let init = Init::start();
    let top = init.path("deep");
    std::fs::create_dir(&top).unwrap();
    let script = format!("cd {top}; for i in $(seq 1500); do mkdir -p d/e; : > d/f; cd d; done");
    init.shell(&script);
    assert_eq!(init.ask(&Request::Remove(target(&top))), Ok(Reply::Done));
    assert!(!Path::new(&top).exists());
}

#[test]
fn removing_never_reaches_through_a_link_that_is_swapped_in() {
    let init = Init::start();
    let folder = init.folder();
    let outside = folder.join("outside");
    std::fs::create_dir(&outside).unwrap();
    (0..50).for_each(|number| std::fs::write(outside.join(number.to_string()), "").unwrap());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            let (inner, aside, link) = (folder.join("tree/inner"), folder.join("aside"), folder.join("swapped"));
            while !stop.load(Ordering::Relaxed) {
                let _ = symlink(&outside, &link);
                let _ = std::fs::rename(&inner, &aside);
                let _ = std::fs::rename(&link, &inner);
                let _ = std::fs::remove_dir_all(&aside);
            }
        });
        for _ in 0..50 {
            let _ = std::fs::create_dir_all(folder.join("tree/inner"));
            (0..20).for_each(|number| drop(std::fs::write(folder.join(format!("tree/inner/{number}")), "")));
            // Whether it succeeds is the race's matter.
            let _ = init.ask(&Request::Remove(target(folder.join("tree"))));
        }
        stop.store(true, Ordering::Relaxed);
        swapping.join().unwrap();
    });
    assert_eq!(names(&outside).len(), 50);
}

#[test]
fn everything_is_written_to_the_disk_when_asked() {
    assert_eq!(Init::start().ask(&Request::Sync), Ok(Reply::Done));
}
