//! An emulated machine for tests: Debian 12 with Debian's own kernel, where control groups are of version 2. Made once, below
//! the target directory; `crates/mote-sandboxd/tests/namespace/guest.rs` starts it.
//!
//! It needs no hardware virtualisation and no privilege, and it measures nothing: emulation is an order of magnitude slower.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::process;

/// What makes it, with the Debian package that brings each.
pub(crate) const PROGRAMS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("gzip", "gzip"),
];
/// The release whose kernel and root it has.
const RELEASE: &str = "bookworm";
/// Its packages beside the minimal ones: loading modules, packet filters, and what the tests run.
const ROOT_PACKAGES: &str = "ca-certificates,git,iproute2,kmod,nftables,procps,python3,sudo";
/// The disk, sparse.
const DISK_SIZE: &str = "1G";
/// Modules that it needs before it has a root; the others are loaded from the host's folder when they are used.
const EARLY_MODULES: [&str; 5] = ["virtio_pci", "virtio_blk", "ext4", "9pnet_virtio", "9p"];
/// The first program: finds the disk and the host's files, and hands over to the script that the test names.
const INIT: &str = include_str!("guest-init.sh");

/// Makes what is missing of it; returns its folder: `vmlinuz`, `initrd`, `disk`, `modules/`.
pub(crate) fn make(target: &Path) -> Result<PathBuf> {
    let folder = target.join("guest");
    let made_of = format!("{RELEASE}\n{ROOT_PACKAGES}\n{DISK_SIZE}\n{EARLY_MODULES:?}\n{INIT}");
    if std::fs::read_to_string(folder.join("made-of")).is_ok_and(|earlier| earlier == made_of) {
        return Ok(folder);
    }
    let draft = target.join("guest.new");
    if build(&draft).is_err() {
        // The package lists may be old, or absent.
        process::run(&mut process::command(target, "apt-get", &["update", "--quiet"]))?;
        build(&draft)?;
    }
    std::fs::write(draft.join("made-of"), made_of).context("failed to write what the machine is made of")?;
    std::fs::remove_dir_all(&folder).ok();
    rename(&draft, &folder)?;
    Ok(folder)
}

fn build(draft: &Path) -> Result<()> {
    std::fs::remove_dir_all(draft).ok();
    std::fs::create_dir_all(draft).with_context(|| format!("failed to make {}", draft.display()))?;
    let depends = process::output(&mut process::command(draft, "apt-cache", &["depends", "linux-image-amd64"]))?;
    let kernel = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image-")))
        .context("failed to find the kernel that linux-image-amd64 stands for")?;
    let version = kernel.trim_start_matches("linux-image-");
    unpack(draft, kernel)?;
    unpack(draft, "busybox-static")?;
    let unpacked = draft.join("unpacked");
    let place = unpacked.to_string_lossy().into_owned();
    process::run(&mut process::command(draft, "/usr/sbin/depmod", &["-b", &place, version]))?;
    disk(draft)?;
    initrd(draft, version)?;
    rename(&unpacked.join(format!("boot/vmlinuz-{version}")), &draft.join("vmlinuz"))?;
    rename(&unpacked.join("lib/modules"), &draft.join("modules"))?;
    for leftover in ["unpacked", "root", "early"] {
        std::fs::remove_dir_all(draft.join(leftover)).ok();
    }
    Ok(())
}

/// Downloads a package without installing it, and unpacks it.
fn unpack(draft: &Path, package: &str) -> Result<()> {
    process::run(&mut process::command(draft, "apt-get", &["download", "--quiet", package]))?;
    let archive = std::fs::read_dir(draft)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{package}_"))
        })
        .with_context(|| format!("failed to find what was downloaded of {package}"))?;
    let archive = archive.to_string_lossy().into_owned();
    process::run(&mut process::command(draft, "dpkg-deb", &["-x", &archive, "unpacked"]))?;
    std::fs::remove_file(&archive).with_context(|| format!("failed to remove {archive}"))
}

fn disk(draft: &Path) -> Result<()> {
    let include = format!("--include={ROOT_PACKAGES}");
    process::run(&mut process::command(
        draft,
        "mmdebstrap",
        &["--variant=minbase", "--quiet", &include, RELEASE, "root"],
    ))?;
    for mount_point in ["root/host", "root/lib/modules"] {
        std::fs::create_dir_all(draft.join(mount_point)).with_context(|| format!("failed to make {mount_point}"))?;
    }
    let arguments = ["-q", "-t", "ext4", "-d", "root", "disk", DISK_SIZE];
    process::run(&mut process::command(draft, "/usr/sbin/mke2fs", &arguments))
}

fn initrd(draft: &Path, version: &str) -> Result<()> {
    let early = draft.join("early");
    let modules = early.join("modules");
    std::fs::create_dir_all(early.join("bin")).context("failed to make the first root")?;
    std::fs::create_dir_all(&modules).context("failed to make the first root")?;
    std::fs::copy(draft.join("unpacked/bin/busybox"), early.join("bin/busybox")).context("failed to copy busybox")?;
    let mut order: Vec<String> = Vec::new();
    for module in EARLY_MODULES {
        let unpacked = draft.join("unpacked").to_string_lossy().into_owned();
        let arguments = ["-d", &unpacked, "-S", version, "--show-depends", module];
        let shown = process::output(&mut process::command(draft, "/usr/sbin/modprobe", &arguments))?;
        // `insmod PATH`, or `builtin NAME`.
        for path in shown.lines().filter_map(|line| line.strip_prefix("insmod ")).map(str::trim) {
            let name = Path::new(path).file_name().context("a module has no name")?.to_string_lossy().into_owned();
            if !order.contains(&name) {
                std::fs::copy(path, modules.join(&name)).with_context(|| format!("failed to copy {path}"))?;
                order.push(name);
            }
        }
    }
    ensure!(!order.is_empty(), "failed to find the modules of Linux {version}");
    std::fs::write(modules.join("order"), order.join("\n")).context("failed to write the order of modules")?;
    std::fs::write(early.join("init"), INIT).context("failed to write the first program")?;
    let pack = "chmod 755 init && find . | cpio --quiet -o -H newc | gzip -1 > ../initrd";
    process::run(&mut process::command(&early, "sh", &["-c", pack]))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("failed to name {}", to.display()))
}
