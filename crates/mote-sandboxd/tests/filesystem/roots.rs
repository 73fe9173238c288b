//! Roots: made, written to, snapshotted, rolled back, forked, committed, removed, bounded, and found again after a crash.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use mote_sandbox_api::error::Code;
use mote_sandboxd::filesystem::Backend;
use mote_sandboxd::filesystem::keeper::{Origin, Outcome, Verb};
use mote_sandboxd::filesystem::recipe::Lower;

use crate::stage::{BACKENDS, Stage, id};

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_root_shows_its_image_and_keeps_what_is_written_apart() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let (one, two) = (stage.root_new("one", None), stage.root_new("two", None));
        fs::write(one.join("kept"), "changed").unwrap();
        assert_eq!(read(one.join("kept")), "changed");
        assert_eq!(read(two.join("kept")), "from the image");
        assert_eq!(read(stage.folder.path().join("image/kept")), "from the image");
    }
}

#[test]
fn a_rollback_brings_back_what_the_snapshot_holds_and_the_snapshot_stays() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let at = stage.root_new("one", None);
        fs::write(at.join("new"), "before").unwrap();
        fs::remove_file(at.join("etc/hosts")).unwrap();
        let mut at = stage.snapshot_mounted("one", "sn1", at);
        for round in 0..3 {
            fs::write(at.join("new"), format!("after {round}")).unwrap();
            fs::write(at.join("etc/hosts"), "again").unwrap();
            fs::remove_file(at.join("kept")).unwrap();
            at = stage.rollback_mounted("one", "sn1", &at);
            assert_eq!(read(at.join("new")), "before", "{backend:?}, round {round}");
            assert!(!at.join("etc/hosts").exists());
            assert_eq!(read(at.join("kept")), "from the image");
        }
    }
}

#[test]
fn a_snapshot_of_an_untouched_root_needs_no_new_mount() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        stage.root_new("one", None);
        assert!(!stage.snapshot("one", "sn1"), "{backend:?}");
    }
}

#[test]
fn a_plain_snapshot_is_refused_while_something_runs_and_a_btrfs_one_is_not() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let at = stage.root_new("one", None);
        fs::write(at.join("new"), "written").unwrap();
        let verb = Verb::Snapshot { sandbox: id("one"), snapshot: id("sn1"), quiet: false };
        let answer = stage.ask(verb);
        match backend {
            Backend::Btrfs => assert!(matches!(answer, Ok(Outcome::Taken { remount: false }))),
            Backend::Plain => {
                assert_eq!(answer.unwrap_err().code, Code::Busy);
                // Nothing is left of the attempt: the id is free.
                stage.snapshot("one", "sn1");
            }
        }
    }
}

#[test]
fn a_snapshot_while_files_are_written_holds_whole_files_only() {
    let mut stage = Stage::new(Backend::Btrfs);
    let at = stage.root_new("one", None);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Written beside, made durable, then renamed: as a careful program does.
                let mut file = fs::File::create(at.join("next")).unwrap();
                file.write_all(format!("{round:08}").repeat(1000).as_bytes()).unwrap();
                file.sync_all().unwrap();
                fs::rename(at.join("next"), at.join("current")).unwrap();
                round += 1;
            }
        });
        while !at.join("current").exists() {
            std::thread::yield_now();
        }
        for number in 0..20 {
            let verb = Verb::Snapshot { sandbox: id("one"), snapshot: id(&format!("sn{number}")), quiet: false };
            stage.ask(verb).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for number in 0..20 {
        let origin = Origin::Snapshot(id(&format!("sn{number}")));
        let name = format!("copy{number}");
        stage.ask(Verb::RootNew { sandbox: id(&name), origin, quota_bytes: None }).unwrap();
        let copy = stage.mount(&name);
        let text = read(copy.join("current"));
        assert_eq!(text.len(), 8000);
        assert_eq!(text[..8].repeat(1000), text, "a file is torn");
        stage.unmount(&copy);
    }
}

#[test]
fn forks_of_forks_go_their_own_ways() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let mut at = stage.root_new("f0", None);
        for generation in 0..4 {
            fs::write(at.join(format!("file{generation}")), "written").unwrap();
            let (from, to) = (format!("f{generation}"), format!("f{}", generation + 1));
            let taken = stage.ask(Verb::Fork { from: id(&from), to: id(&to), quiet: true }).unwrap();
            if matches!(taken, Outcome::Taken { remount: true }) {
                stage.unmount(&at);
                at = stage.mount(&from);
            }
            fs::write(at.join("late"), "only here").unwrap();
            at = stage.mount(&to);
            assert!(
                !at.join("late").exists(),
                "{backend:?}: what is written after a fork stays with the one that wrote"
            );
            for earlier in 0..=generation {
                assert_eq!(read(at.join(format!("file{earlier}"))), "written");
            }
        }
    }
}

#[test]
fn a_commit_is_an_image_that_outlives_its_sandbox() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let at = stage.root_new("one", None);
        fs::write(at.join("tool"), "installed").unwrap();
        fs::remove_file(at.join("kept")).unwrap();
        let verb = Verb::Commit { sandbox: id("one"), layer: id("layer1"), quiet: true };
        let Outcome::Committed { lower, .. } = stage.ask(verb).unwrap() else { panic!() };
        assert_eq!(lower[0], Lower::Layer(id("layer1")));
        stage.unmount(&at);
        stage.ask(Verb::RemoveRoot(id("one"))).unwrap();
        stage.ask(Verb::RootNew { sandbox: id("two"), origin: Origin::Image(lower), quota_bytes: None }).unwrap();
        let at = stage.mount("two");
        assert_eq!(read(at.join("tool")), "installed");
        assert!(!at.join("kept").exists());
    }
}

#[test]
fn a_quota_bounds_what_is_written_and_a_fork_does_not_refresh_it() {
    let mut stage = Stage::new(Backend::Btrfs);
    let fill = |at: &Path, mib: usize| -> std::io::Result<()> {
        let mut file = fs::File::create(at.join(format!("fill{mib}")))?;
        let block = vec![7; 1 << 20];
        for _ in 0..mib {
            file.write_all(&block)?;
        }
        file.sync_all()
    };
    let at = stage.root_new("bounded", Some(32 << 20));
    let full = fill(&at, 40).unwrap_err();
    assert!(matches!(full.kind(), std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::StorageFull), "{full:?}");
    fs::remove_file(at.join("fill40")).unwrap();
    let free = stage.root_new("free", None);
    fill(&free, 40).unwrap();

    let at = stage.root_new("parent", Some(32 << 20));
    fill(&at, 20).unwrap();
    stage.ask(Verb::Fork { from: id("parent"), to: id("child"), quiet: false }).unwrap();
    let child = stage.mount("child");
    assert!(fill(&child, 21).is_err(), "what a fork inherited counts");
    let Outcome::Usage { bytes, bytes_max } = stage.ask(Verb::Usage(id("child"))).unwrap() else { panic!() };
    assert!(bytes.unwrap() >= 20 << 20, "{bytes:?}");
    assert_eq!(bytes_max, Some(32 << 20));
}

#[test]
fn nothing_that_a_crash_left_half_made_survives_the_next_start() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let at = stage.root_new("one", None);
        fs::write(at.join("new"), "written").unwrap();
        stage.snapshot_mounted("one", "sn1", at);
        let pool = stage.pool();
        for half in ["roots/two.new", "snapshots/sn2.new", "layers/l.new", "volumes/v.new", "roots/one.next"] {
            fs::create_dir_all(pool.join(half).join("upper/deep")).unwrap();
        }
        stage.stop();
        stage.start();
        let Outcome::Pool(description) = stage.ask(Verb::Pool).unwrap() else { panic!() };
        assert_eq!(description.recovered, 5, "{backend:?}");
        for folder in ["roots", "snapshots", "layers", "volumes"] {
            for entry in fs::read_dir(pool.join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(!name.ends_with(".new") && !name.ends_with(".next"), "{backend:?}: {folder}/{name} is left");
            }
        }
        let at = stage.mount("one");
        assert_eq!(read(at.join("new")), "written");
        stage.rollback_mounted("one", "sn1", &at);
    }
}

#[test]
fn a_seal_that_a_crash_cut_in_two_is_completed_at_the_next_start() {
    let mut stage = Stage::new(Backend::Plain);
    let at = stage.root_new("one", None);
    fs::write(at.join("new"), "written").unwrap();
    stage.snapshot_mounted("one", "sn1", at);
    stage.stop();
    // As if the new tree had not been put in place yet.
    let roots = stage.pool().join("roots");
    fs::rename(roots.join("one"), roots.join("one.next")).unwrap();
    stage.start();
    let at = stage.mount("one");
    assert_eq!(read(at.join("new")), "written");
}

#[test]
fn a_clean_stop_gives_the_loop_device_back_and_a_start_finds_everything() {
    let mut stage = Stage::new(Backend::Btrfs);
    let at = stage.root_new("one", None);
    fs::write(at.join("new"), "written").unwrap();
    stage.stop();
    let file = fs::canonicalize(stage.options.state.join("pool.img")).unwrap();
    let attached = || {
        fs::read_dir("/sys/block").unwrap().flatten().any(|entry| {
            fs::read_to_string(entry.path().join("loop/backing_file"))
                .is_ok_and(|backing| Path::new(backing.trim_end()) == file)
        })
    };
    // The kernel frees it when the last reference is gone, a moment after the unmount.
    while attached() {
        std::thread::yield_now();
    }
    stage.start();
    let at = stage.mount("one");
    assert_eq!(read(at.join("new")), "written");
}

#[test]
fn only_directories_that_the_operator_allows_are_images() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        for path in ["/etc", "/", "/nonexistent"] {
            let origin = Origin::Image(vec![Lower::Directory(path.into())]);
            let refused = stage.ask(Verb::RootNew { sandbox: id("one"), origin, quota_bytes: None }).unwrap_err();
            assert!(matches!(refused.code, Code::Forbidden | Code::NotFound), "{refused:?}");
        }
        let origin = Origin::Image(vec![Lower::Host]);
        let refused = stage.ask(Verb::RootNew { sandbox: id("one"), origin, quota_bytes: None }).unwrap_err();
        assert_eq!(refused.code, Code::Forbidden);
        let link = stage.folder.path().join("image/link");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        let origin = Origin::Image(vec![Lower::Directory(link)]);
        let refused = stage.ask(Verb::RootNew { sandbox: id("one"), origin, quota_bytes: None }).unwrap_err();
        assert_eq!(refused.code, Code::Forbidden, "a link may not lead out of what is allowed");
    }
}

#[test]
fn an_image_of_the_host_is_a_list_of_what_is_shown() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        stage.stop();
        stage.options.host_root = true;
        stage.start();
        let origin = Origin::Image(vec![Lower::Host]);
        stage.ask(Verb::RootNew { sandbox: id("one"), origin, quota_bytes: None }).unwrap();
        let at = stage.mount("one");
        let names = |folder: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(at.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let listed = [
            "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt", "proc",
            "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var",
        ];
        let listed: BTreeSet<String> = listed.into_iter().map(str::to_owned).collect();
        assert!(names("").is_subset(&listed), "{:?}", names(""));
        assert_eq!(names("home"), BTreeSet::from(["user".to_owned()]));
        for empty in ["boot", "media", "mnt", "opt", "root", "srv", "tmp", "usr", "var/log", "var/tmp", "etc/sudoers.d"]
        {
            assert_eq!(names(empty), BTreeSet::new(), "{empty}");
        }
        for secret in ["etc/ssh", "etc/ssl/private", "etc/gshadow", "etc/apt", "etc/environment", "etc/ld.so.preload"] {
            assert!(!at.join(secret).exists(), "{secret}");
        }
        for (own, beginning) in [("etc/passwd", "root:x:0:0:root:/root:"), ("etc/shadow", "root:*:")] {
            let text = read(at.join(own));
            assert!(text.starts_with(beginning) && text.contains("\nuser:") && !text.contains("$"), "{own}: {text}");
        }
        let bound = stage.keeper().recipe("one").unwrap().bound;
        assert!(bound.contains(&"/usr".into()) && bound.iter().all(|path| path.components().count() == 2), "{bound:?}");
    }
}

#[test]
fn what_the_host_was_stays_below_the_roots_that_were_made_of_it() {
    let mut stage = Stage::new(Backend::Plain);
    stage.stop();
    stage.options.host_root = true;
    stage.start();
    let origin = Origin::Image(vec![Lower::Host]);
    stage.ask(Verb::RootNew { sandbox: id("one"), origin, quota_bytes: None }).unwrap();
    let before = stage.keeper().recipe("one").unwrap();
    stage.stop();
    stage.start();
    stage.ask(Verb::Collect).unwrap();
    assert_eq!(stage.keeper().recipe("one").unwrap(), before);
    assert!(before.lower[0].join("etc/passwd").exists());
    stage.stop();
    stage.options.host_root = false;
    stage.start();
    assert_eq!(stage.keeper().recipe("one").unwrap_err().code, Code::Forbidden, "the operator took the host back");
}

#[test]
fn volumes_outlive_sandboxes_and_are_removed_by_name() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        stage.ask(Verb::VolumeNew { volume: id("data"), quota_bytes: None }).unwrap();
        let taken = stage.ask(Verb::VolumeNew { volume: id("data"), quota_bytes: None }).unwrap_err();
        assert_eq!(taken.code, Code::Conflict);
        fs::write(stage.keeper().volume("data").unwrap().join("file"), "kept").unwrap();
        stage.stop();
        stage.start();
        assert_eq!(read(stage.keeper().volume("data").unwrap().join("file")), "kept");
        stage.ask(Verb::RemoveVolume(id("data"))).unwrap();
        assert_eq!(stage.keeper().volume("data").unwrap_err().code, Code::NotFound);
    }
}

#[test]
fn a_snapshot_that_finds_no_room_leaves_the_root_in_its_place() {
    // However much room is left: what a root is written to never becomes a layer under it.
    for left in 0..8 {
        let mut stage = Stage::new(Backend::Plain);
        stage.on_disk_with_files_left(left + 1);
        let upper = stage.pool().join("roots/one/upper");
        fs::write(upper.join("before"), "kept").unwrap();
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let before = inode(&upper);
        match stage.ask(Verb::Snapshot { sandbox: id("one"), snapshot: id("sn1"), quiet: true }) {
            Ok(outcome) => {
                assert!(matches!(outcome, Outcome::Taken { remount: true }), "{left}: {outcome:?}");
                assert_ne!(inode(&upper), before);
            }
            Err(failure) => {
                assert_eq!(failure.code, Code::NoSpace, "{left}: {failure}");
                assert_eq!(inode(&upper), before, "{left}: whoever writes here writes into the root");
                assert!(!stage.pool().join("snapshots/sn1").exists(), "{left}");
                assert_eq!(fs::read_dir(stage.pool().join("layers")).unwrap().count(), 0, "{left}");
            }
        }
    }
}

#[test]
fn lists_come_in_pages_that_a_message_holds() {
    use mote_sandboxd::filesystem::keeper::Kind;
    use mote_sandboxd::limits::{KEEPER_MESSAGE_BYTES_MAX, KEEPER_PAGE_MAX};

    let mut stage = Stage::new(Backend::Plain);
    let count = 2 * KEEPER_PAGE_MAX + 1;
    // The longest ids there are.
    let name = |number: usize| format!("{number:0>90}");
    for number in 0..count {
        stage.ask(Verb::VolumeNew { volume: id(&name(number)), quota_bytes: None }).unwrap();
    }
    let mut listed = Vec::new();
    loop {
        let outcome = stage.ask(Verb::List { kind: Kind::Volumes, after: listed.last().cloned() }).unwrap();
        assert!(serde_json::to_vec(&outcome).unwrap().len() < KEEPER_MESSAGE_BYTES_MAX / 2);
        match outcome {
            Outcome::Ids(page) if page.is_empty() => break,
            Outcome::Ids(page) => listed.extend(page),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(listed, (0..count).map(|number| id(&name(number))).collect::<Vec<_>>());
}

#[test]
fn five_thousand_files_are_snapshotted_rolled_back_and_removed() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let at = stage.root_new("one", None);
        for number in 0..5000 {
            fs::write(at.join(format!("file{number}")), "content").unwrap();
        }
        let at = stage.snapshot_mounted("one", "sn1", at);
        for number in 0..5000 {
            fs::remove_file(at.join(format!("file{number}"))).unwrap();
        }
        let at = stage.rollback_mounted("one", "sn1", &at);
        assert_eq!(fs::read_dir(&at).unwrap().count(), 5002, "{backend:?}");
        stage.unmount(&at);
        stage.ask(Verb::RemoveRoot(id("one"))).unwrap();
        stage.ask(Verb::RemoveSnapshot(id("sn1"))).unwrap();
        assert!(!stage.pool().join("roots/one").exists());
    }
}

#[test]
fn a_volume_with_subvolumes_inside_is_removed_with_them() {
    let mut stage = Stage::new(Backend::Btrfs);
    stage.ask(Verb::VolumeNew { volume: id("v1"), quota_bytes: Some(64 << 20) }).unwrap();
    let files = stage.keeper().volume("v1").unwrap();
    let make = |folder: &Path, name: &str| {
        mote_sandbox_sys::btrfs::create(fs::File::open(folder).unwrap(), name).unwrap();
        fs::write(folder.join(name).join("content"), vec![7; 1 << 20]).unwrap();
        folder.join(name)
    };
    // Beside each other, within each other, and below a plain folder.
    let inner = make(&make(&files, "outer"), "inner");
    make(&inner, "innermost");
    fs::create_dir(files.join("folder")).unwrap();
    for number in 0..5 {
        make(&files.join("folder"), &format!("many{number}"));
    }
    // The attempt of before: the kernel does not remove what holds others.
    let volumes = fs::File::open(stage.pool().join("volumes")).unwrap();
    let refused = mote_sandbox_sys::btrfs::destroy(&volumes, "v1").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::DirectoryNotEmpty);
    stage.ask(Verb::RemoveVolume(id("v1"))).unwrap();
    assert!(!stage.pool().join("volumes/v1").exists());
    assert_eq!(stage.ask(Verb::RemoveVolume(id("v1"))).unwrap_err().code, Code::NotFound);
}
