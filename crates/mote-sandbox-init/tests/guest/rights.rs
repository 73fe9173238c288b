//! Root's rights on behalf of a user, files that are written in place, and metadata.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use mote_sandbox_api::error::Code;
use mote_sandbox_api::guest::{FileTarget, Kind, Reply, Request, Rights, Writing};

use crate::client::{Init, entry, nobodys, target};

const NOBODY: u32 = 65_534;

fn as_root(path: impl AsRef<Path>) -> FileTarget {
    nobodys(path).with(Rights::Root)
}

fn in_place() -> Writing {
    Writing { in_place: true, ..Writing::default() }
}

#[test]
fn what_is_made_with_roots_rights_is_the_users() {
    let init = Init::start();
    let folder = init.folder();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = folder.join("a/b/file");
    assert_eq!(init.write_as(nobodys(&path), in_place(), b"x").unwrap_err().code, Code::Forbidden);
    for (writing, text) in [(in_place(), b"one"), (Writing::default(), b"two")] {
        init.write_as(as_root(&path), writing, text).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), text);
        for (made, mode) in [("a", 0o755), ("a/b", 0o755), ("a/b/file", 0o644)] {
            let made = std::fs::metadata(folder.join(made)).unwrap();
            assert_eq!((made.uid(), made.mode() & 0o777), (NOBODY, mode));
        }
    }
    std::fs::write(folder.join("old"), "old").unwrap();
    init.write_as(as_root(folder.join("old")), in_place(), b"new").unwrap();
    assert_eq!(std::fs::metadata(folder.join("old")).unwrap().uid(), NOBODY, "who writes a file owns it");
    assert_eq!(init.read(as_root(folder.join("old")), 0, None).unwrap(), b"new");
    let made = entry(init.ask(&Request::MakeDirectory(as_root(folder.join("m/n")))).unwrap()).unwrap();
    assert_eq!((made.owner.as_str(), made.path.as_str()), ("nobody", folder.join("m/n").to_str().unwrap()));
    let to = folder.join("o/p").to_str().unwrap().into();
    assert!(init.ask(&Request::Move { from: as_root(folder.join("m")), to }).is_ok());
    assert_eq!(std::fs::metadata(folder.join("o")).unwrap().uid(), NOBODY);
    assert_eq!(init.ask(&Request::Remove(as_root(folder.join("o")))), Ok(Reply::Done));
    assert_eq!(init.code(&Request::Stat(nobodys(&path))), Code::Forbidden, "only who asks for them has them");
}

#[test]
fn roots_rights_do_not_follow_where_another_user_points() {
    let init = Init::start();
    let folder = init.folder();
    std::fs::create_dir(folder.join("secret")).unwrap();
    std::fs::set_permissions(folder.join("secret"), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(folder.join("secret/file"), "kept").unwrap();
    std::fs::create_dir(folder.join("own")).unwrap();
    chown(folder.join("own"), Some(NOBODY), Some(NOBODY)).unwrap();
    let link = |to: &str, name: &str, uid| {
        symlink(to, folder.join(name)).unwrap();
        std::os::unix::fs::lchown(folder.join(name), Some(uid), Some(uid)).unwrap();
    };
    link("../secret", "own/folder", NOBODY);
    link("../secret/file", "own/file", NOBODY);
    link("../secret/new", "own/new", NOBODY);
    link("../own/plain", "own/allowed", NOBODY);
    link("../secret/file", "own/of-root", 0);
    let at = |name: &str| as_root(folder.join("own").join(name));
    for name in ["folder/file", "folder/other", "file", "new"] {
        for writing in [in_place(), Writing::default()] {
            assert_eq!(init.write_as(at(name), writing, b"taken").unwrap_err().code, Code::Forbidden, "{name}");
        }
    }
    assert_eq!(init.read(at("file"), 0, None).unwrap_err().code, Code::Forbidden);
    assert_eq!(init.code(&Request::MakeDirectory(at("folder/made"))), Code::Forbidden);
    assert_eq!(init.code(&Request::Remove(at("folder/file"))), Code::Forbidden);
    assert_eq!(init.code(&Request::Watch { target: at("folder"), recursive: true }), Code::Forbidden);
    let to = folder.join("own/folder/moved").to_str().unwrap().into();
    std::fs::write(folder.join("own/mine"), "x").unwrap();
    assert_eq!(init.code(&Request::Move { from: at("mine"), to }), Code::Forbidden);
    assert_eq!(std::fs::read(folder.join("secret/file")).unwrap(), b"kept");
    assert_eq!(std::fs::read_dir(folder.join("secret")).unwrap().count(), 1);
    // What the user may itself it may through a link, too; and a link of root's leads where root lets it.
    init.write_as(at("allowed"), in_place(), b"x").unwrap();
    assert_eq!(std::fs::read(folder.join("own/plain")).unwrap(), b"x");
    assert_eq!(init.read(at("of-root"), 0, None).unwrap(), b"kept");
    assert_eq!(init.ask(&Request::Remove(at("file"))), Ok(Reply::Done), "the link itself");
    assert!(folder.join("secret/file").exists());
}

#[test]
fn metadata_is_replaced_whole_and_bounded() {
    let init = Init::start();
    let path = init.folder().join("file");
    let with = |pairs: &[(&str, &str)]| {
        let metadata = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Writing { metadata: Some(metadata), ..in_place() }
    };
    let kept = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let written = init.write_as(target(&path), with(&[("a", "1"), ("b", "2")]), b"x").unwrap();
    assert_eq!(written.metadata, kept(&[("a", "1"), ("b", "2")]));
    let whole = Writing { in_place: false, ..with(&[("c", "3")]) };
    assert_eq!(init.write_as(target(&path), whole, b"y").unwrap().metadata, kept(&[("c", "3")]));
    init.write_as(target(&path), in_place(), b"z").unwrap();
    let found = || entry(init.ask(&Request::Stat(target(&path))).unwrap()).unwrap().metadata;
    assert_eq!(found(), kept(&[("c", "3")]), "what is not said stays");
    // What is no text is not told, and does not hide the rest.
    rustix::fs::setxattr(&path, "user.e2b.raw", b"\xff", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&path, "user.other", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    assert_eq!(found(), kept(&[("c", "3")]));
    init.write_as(target(&path), with(&[]), b"z").unwrap();
    assert_eq!(found(), kept(&[]));
    let long = "v".repeat(4097);
    for pairs in [&[("", "x")][..], &[(&long[..247], "")], &[("k", &long)]] {
        let failure = init.write_as(target(init.folder().join("none")), with(pairs), b"x").unwrap_err();
        assert_eq!((failure.code, failure.context["field"].as_str()), (Code::Invalid, "metadata"));
    }
    assert!(!init.folder().join("none").exists(), "nothing was written");
}

#[test]
fn a_write_in_place_that_is_cut_short_is_seen() {
    let init = Init::start();
    let path = init.folder().join("file");
    std::fs::write(&path, "old").unwrap();
    let mut broken = init.open(&Request::Write { target: target(&path), writing: in_place() });
    broken.send(Kind::Data, b"ne");
    crate::client::eventually("it has begun to write", || std::fs::read(&path).unwrap() == b"ne");
    drop(broken);
    for place in ["/dev/null", "/usr"] {
        assert_eq!(init.write_as(target(place), in_place(), b"x").unwrap_err().code, Code::Invalid, "{place}");
    }
}
