//! Work on whole trees: what was changed, export and import, archives that are hostile.

use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::request::ChangeKind;
use mote_sandboxd::filesystem::Filesystem;
use mote_sandboxd::filesystem::keeper::Origin;
use mote_sandboxd::filesystem::recipe::Lower;
use mote_sandboxd::filesystem::work::Source;
use mote_sandboxd::filesystem::worker::{Compression, Unpacked};

use crate::served::serve;
use crate::stage::{BACKENDS, Stage, id};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs with the stage's keeper behind its socket; the stage's own is stopped meanwhile.
pub(crate) fn with_served<T>(stage: &mut Stage, run: impl AsyncFnOnce(Filesystem) -> T) -> T {
    stage.pause();
    let options = stage.options.clone();
    let result = runtime().block_on(async { run(serve(options)).await });
    stage.resume();
    result
}

fn archive(build: impl FnOnce(&mut tar::Builder<fs::File>)) -> fs::File {
    let mut builder = tar::Builder::new(tempfile::tempfile().unwrap());
    build(&mut builder);
    let mut file = builder.into_inner().unwrap();
    file.rewind().unwrap();
    file
}

fn header(kind: tar::EntryType, size: usize, mode: u32, owner: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mtime(1_000_000_000);
    header
}

fn file(builder: &mut tar::Builder<fs::File>, path: &str, text: &str) {
    let mut header = header(tar::EntryType::Regular, text.len(), 0o644, 0);
    raw_path(&mut header, path);
    header.set_cksum();
    builder.append(&header, text.as_bytes()).unwrap();
}

/// Past the library's own refusal of names that lead out.
fn raw_path(header: &mut tar::Header, path: &str) {
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
}

fn link(builder: &mut tar::Builder<fs::File>, kind: tar::EntryType, path: &str, target: &str) {
    let mut header = header(kind, 0, 0o777, 0);
    raw_path(&mut header, path);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    builder.append(&header, std::io::empty()).unwrap();
}

async fn fill(filesystem: &Filesystem, layer: &str, archives: Vec<fs::File>) -> Result<Unpacked, Failure> {
    let filling = filesystem.fill(layer, None).await?;
    let mut last = Unpacked::default();
    for archive in archives {
        last = filling.add(archive.into(), Compression::None, true).await?;
    }
    filling.keep().await?;
    Ok(last)
}

fn layer(stage: &Stage, name: &str) -> std::path::PathBuf {
    stage.pool().join("layers").join(name).join("upper")
}

#[test]
fn a_diff_tells_what_was_added_modified_and_removed_and_nothing_else() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let image = stage.folder.path().join("image");
        for file in ["keep/one", "keep/two", "gone/deep/file", "replaced/inner", "mode"] {
            fs::create_dir_all(image.join(file).parent().unwrap()).unwrap();
            fs::write(image.join(file), "image").unwrap();
        }
        let at = stage.root_new("one", None);
        fs::write(at.join("keep/one"), "changed").unwrap();
        fs::create_dir(at.join("added")).unwrap();
        fs::write(at.join("added/file"), "12345").unwrap();
        fs::remove_dir_all(at.join("gone")).unwrap();
        // Removed and made again: what lay below is hidden.
        fs::remove_dir_all(at.join("replaced")).unwrap();
        fs::create_dir(at.join("replaced")).unwrap();
        fs::write(at.join("replaced/other"), "").unwrap();
        fs::set_permissions(at.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at.join("link")).unwrap();
        let difference =
            with_served(&mut stage, async |filesystem| filesystem.diff(Source::Root(id("one")), 100).await).unwrap();
        let told: Vec<_> =
            difference.changes.iter().map(|change| (change.kind, change.path.as_str(), change.size)).collect();
        assert_eq!(
            told,
            [
                (ChangeKind::Added, "/added", 0),
                (ChangeKind::Added, "/added/file", 5),
                (ChangeKind::Removed, "/gone", 0),
                (ChangeKind::Modified, "/keep/one", 7),
                (ChangeKind::Added, "/link", 0),
                (ChangeKind::Modified, "/mode", 5),
                (ChangeKind::Removed, "/replaced/inner", 5),
                (ChangeKind::Added, "/replaced/other", 0),
            ],
            "{backend:?}"
        );
        assert!(!difference.truncated);
        let difference =
            with_served(&mut stage, async |filesystem| filesystem.diff(Source::Root(id("one")), 3).await).unwrap();
        assert_eq!((difference.changes.len(), difference.truncated), (3, true));
    }
}

#[test]
fn what_is_exported_is_imported_the_same_and_has_the_same_digest() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let at = stage.root_new("one", None);
        fs::write(at.join("file"), "content").unwrap();
        fs::set_permissions(at.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::hard_link(at.join("file"), at.join("other name")).unwrap();
        std::os::unix::fs::symlink("../file", at.join("etc/link")).unwrap();
        std::os::unix::fs::chown(at.join("kept"), Some(1000), Some(1001)).unwrap();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
        fs::create_dir(at.join("d".repeat(120))).unwrap();
        fs::write(at.join(&long), "long").unwrap();
        rustix::fs::setxattr(at.join("kept"), "user.note", b"noted\n", rustix::fs::XattrFlags::empty()).unwrap();
        with_served(&mut stage, async |filesystem| {
            let mut first = tempfile::tempfile().unwrap();
            let source = || Source::Root(id("one"));
            let packed = filesystem.export(source(), first.try_clone().unwrap().into()).await.unwrap();
            let again = filesystem.export(source(), tempfile::tempfile().unwrap().into()).await.unwrap();
            assert_eq!(packed, again, "{backend:?}: the same tree is the same stream");
            first.rewind().unwrap();
            let unpacked = fill(&filesystem, "imported", vec![first]).await.unwrap();
            assert_eq!(unpacked.digest, packed.digest);
            let image = Source::Image(vec![Lower::Layer(id("imported"))]);
            let third = filesystem.export(image, tempfile::tempfile().unwrap().into()).await.unwrap();
            assert_eq!(third.digest, packed.digest, "{backend:?}");
            let origin = Origin::Image(vec![Lower::Layer(id("imported"))]);
            filesystem.root_new("two", origin, None).await.unwrap();
        });
        let at = stage.mount("two");
        assert_eq!(fs::metadata(at.join("file")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(at.join("file")).unwrap().ino(), fs::metadata(at.join("other name")).unwrap().ino());
        assert_eq!(fs::metadata(at.join("kept")).unwrap().uid(), 1000);
        assert_eq!(fs::read_to_string(at.join(&long)).unwrap(), "long");
        assert_eq!(fs::read_to_string(at.join("etc/link")).unwrap(), "content");
    }
}

#[test]
fn a_hostile_archive_does_not_leave_its_tree() {
    let mut stage = Stage::new(BACKENDS[0]);
    let outside = stage.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let target = outside.display().to_string();
    let attacks: Vec<(&str, fs::File, bool)> = vec![
        ("dotdot", archive(|tar| file(tar, "../../../../../../escape", "")), true),
        ("inner-dotdot", archive(|tar| file(tar, "a/../../escape", "")), true),
        ("hard link out", archive(|tar| link(tar, tar::EntryType::Link, "stolen", "../../../etc/passwd")), true),
        (
            "through a link",
            archive(|tar| {
                link(tar, tar::EntryType::Symlink, "way", &target);
                file(tar, "way/escape", "");
            }),
            true,
        ),
        (
            "through a relative link",
            archive(|tar| {
                link(tar, tar::EntryType::Symlink, "way", "../../../../../../../..");
                file(tar, &format!("way{target}/escape"), "");
            }),
            false,
        ),
        ("absolute", archive(|tar| file(tar, &format!("{target}/escape"), "")), false),
        ("whiteout of the parent", archive(|tar| file(tar, ".wh...", "")), false),
    ];
    with_served(&mut stage, async |filesystem| {
        for (number, (name, attack, refused)) in attacks.into_iter().enumerate() {
            let result = fill(&filesystem, &format!("l{number}"), vec![attack]).await;
            assert_eq!(result.is_err(), refused, "{name}: {result:?}");
        }
        // A hard link to what stands outside, by a link inside.
        let attack = archive(|tar| {
            link(tar, tar::EntryType::Symlink, "way", "/etc");
            link(tar, tar::EntryType::Link, "stolen", "way/passwd");
        });
        assert!(fill(&filesystem, "l-link", vec![attack]).await.is_err());
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was written outside");
}

#[test]
fn devices_are_not_made_and_owners_stay_in_the_range() {
    let mut stage = Stage::new(BACKENDS[1]);
    let hostile = archive(|tar| {
        let mut device = header(tar::EntryType::Block, 0, 0o666, 0);
        raw_path(&mut device, "disk");
        device.set_device_major(8).unwrap();
        device.set_cksum();
        tar.append(&device, std::io::empty()).unwrap();
        let mut foreign = header(tar::EntryType::Regular, 0, 0o644, 1_000_000);
        raw_path(&mut foreign, "foreign");
        foreign.set_cksum();
        tar.append(&foreign, std::io::empty()).unwrap();
    });
    let unpacked =
        with_served(&mut stage, async |filesystem| fill(&filesystem, "devices", vec![hostile]).await).unwrap();
    assert_eq!((unpacked.skipped, unpacked.unmapped), (1, 2));
    let tree = layer(&stage, "devices");
    assert!(!tree.join("disk").exists());
    assert_eq!(fs::metadata(tree.join("foreign")).unwrap().uid(), 65_534);
}

#[test]
fn whiteouts_remove_what_earlier_layers_made_and_not_what_their_own_does() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let first = archive(|tar| {
            for name in ["keep", "gone", "dir/old", "dir/deep/old", "tree/file"] {
                file(tar, name, "first");
            }
        });
        let second = archive(|tar| {
            file(tar, ".wh.gone", "");
            file(tar, "dir/new", "second");
            file(tar, "dir/.wh..wh..opq", "");
            file(tar, ".wh.tree", "");
        });
        with_served(&mut stage, async |filesystem| fill(&filesystem, "image", vec![first, second]).await).unwrap();
        let tree = layer(&stage, "image");
        let has = |name: &str| tree.join(name).exists();
        assert!(has("keep") && has("dir/new"), "{backend:?}");
        assert!(!has("gone") && !has("dir/old") && !has("dir/deep") && !has("tree"), "{backend:?}");
    }
}

#[test]
fn a_failed_import_leaves_nothing() {
    for backend in BACKENDS {
        let mut stage = Stage::new(backend);
        let result = with_served(&mut stage, async |filesystem| {
            let mut garbage = tempfile::tempfile().unwrap();
            garbage.write_all(&[0x42; 4096]).unwrap();
            garbage.rewind().unwrap();
            let failed = fill(&filesystem, "broken", vec![garbage]).await;
            // The id is free as soon as the attempt's end is carried out.
            let good = archive(|tar| file(tar, "file", "text"));
            fill(&filesystem, "other", vec![good]).await.unwrap();
            failed
        });
        assert_eq!(result.unwrap_err().code, Code::Invalid);
        let names: Vec<_> = fs::read_dir(stage.pool().join("layers"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["other"], "{backend:?}");
    }
}

#[test]
fn every_compression_yields_the_same_tree() {
    let mut stage = Stage::new(BACKENDS[1]);
    let mut plain = archive(|tar| file(tar, "file", &"text ".repeat(10_000)));
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut plain, &mut bytes).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    let mut gzip = gzip.finish().unwrap();
    let mut zstd = tempfile::tempfile().unwrap();
    ruzstd::encoding::compress(bytes.as_slice(), &mut zstd, ruzstd::encoding::CompressionLevel::Fastest);
    for file in [&mut plain, &mut gzip, &mut zstd] {
        file.rewind().unwrap();
    }
    with_served(&mut stage, async |filesystem| {
        let mut digests = Vec::new();
        for (name, file, compression) in
            [("plain", plain, Compression::None), ("gzip", gzip, Compression::Gzip), ("zstd", zstd, Compression::Zstd)]
        {
            let filling = filesystem.fill(name, None).await.unwrap();
            digests.push(filling.add(file.into(), compression, false).await.unwrap().digest);
            filling.keep().await.unwrap();
        }
        assert_eq!(digests[0], digests[1]);
        assert_eq!(digests[0], digests[2]);
    });
    for name in ["plain", "gzip", "zstd"] {
        let made = fs::read_to_string(layer(&stage, name).join("file")).unwrap();
        assert!(made == "text ".repeat(10_000), "{name}: {} bytes", made.len());
    }
}

#[test]
fn a_worker_can_neither_open_the_host_nor_make_a_socket() {
    // The worker's confinement, seen from outside: its root is empty, its user nobody, its capabilities few.
    let mut stage = Stage::new(BACKENDS[1]);
    with_served(&mut stage, async |filesystem| {
        let filling = filesystem.fill("held", None).await.unwrap();
        // It serves an order only after it gave everything up.
        filling.add(archive(|tar| file(tar, "file", "")).into(), Compression::None, false).await.unwrap();
        let worker = workers().pop().unwrap();
        let status = fs::read_to_string(worker.join("status")).unwrap();
        let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        assert_eq!(line("Uid:"), "Uid:\t65534\t65534\t65534\t65534");
        assert_eq!(line("Seccomp:"), "Seccomp:\t2");
        assert_eq!(line("NoNewPrivs:"), "NoNewPrivs:\t1");
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP.
        assert_eq!(line("CapEff:"), "CapEff:\t000000008000001b");
        assert_eq!(line("CapBnd:"), "CapBnd:\t0000000000000000");
        assert_eq!(fs::read_dir(worker.join("root")).unwrap().count(), 0);
        filling.keep().await.unwrap();
    });
}

/// Workers that this test process started.
fn workers() -> Vec<std::path::PathBuf> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok()))
        .filter(|path| is_child(path))
        .collect()
}

fn is_child(path: &Path) -> bool {
    let status = fs::read_to_string(path.join("status")).unwrap_or_default();
    let parent = format!("PPid:\t{}", std::process::id());
    let serves = fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.contains("serve"));
    serves && status.lines().any(|line| line == parent)
}
