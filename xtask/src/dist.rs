//! `cargo xtask dist`: the binaries that ship, static where the musl target installs, at `target/dist/`.
//!
//! It does not sign or publish them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{process, workspace};

const MUSL: &str = "x86_64-unknown-linux-musl";

/// Leaves the tables for unwinding, 0.8 MiB, out of the static build: `force-unwind-tables=no` does not keep link-time
/// optimisation from making them. A panic says what and where; its back-trace, without symbols in any case, is empty.
const WITHOUT_UNWINDING: &str = "xtask/without-unwinding.ld";

/// What the static build is given, each for its size; a release that links dynamically goes without.
const SETTINGS: [(&str, &str); 4] = [
    // A panic aborts, so nothing unwinds. Relocations of a static position-independent binary take 24 bytes each in the
    // usual form and about 2 in the packed one.
    (
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS",
        "-C force-unwind-tables=no -C link-arg=-Wl,-z,pack-relative-relocs",
    ),
    ("CFLAGS_x86_64_unknown_linux_musl", "-fno-asynchronous-unwind-tables -fno-unwind-tables"),
    // AES-GCM for AVX-512 alone is 660 KiB; the AVX2 and AES-NI forms stay.
    ("AWS_LC_SYS_CFLAGS", "-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX"),
    // Full-text and spatial indexes that nothing here uses. Then memory that each connection takes at once: 20 pages, and
    // 48 KiB of small pieces; statements are prepared once, so that few such pieces come and go.
    (
        "LIBSQLITE3_FLAGS",
        "-USQLITE_ENABLE_FTS3 -USQLITE_ENABLE_FTS3_PARENTHESIS -USQLITE_ENABLE_FTS5 -USQLITE_ENABLE_RTREE \
         -DSQLITE_DEFAULT_PCACHE_INITSZ=0 -DSQLITE_DEFAULT_LOOKASIDE=1200,12",
    ),
];

/// Options of `dist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Takes what is installed as it is.
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// Builds, checks and places it; returns where it is.
pub(crate) fn run(options: &Options) -> Result<PathBuf> {
    let root = workspace::root();
    let target = workspace::Metadata::read()?.target_directory;
    let musl = cfg!(target_arch = "x86_64") && musl_ready(&root, !options.no_install);
    let mut arguments = vec!["rustc", "--package", "mote", "--bin", "mote", "--profile", "dist"];
    let script = format!("link-arg=-Wl,-T,{}", root.join(WITHOUT_UNWINDING).display());
    if musl {
        arguments.extend(["--target", MUSL, "--", "-C", "link-arg=-Wl,--no-eh-frame-hdr", "-C", &script]);
    } else {
        println!(
            "xtask: the target {MUSL} or musl-gcc is missing (packages musl-tools; rustup target add {MUSL}): linking dynamically"
        );
    }
    let mut build = process::cargo(&root, &arguments);
    if musl {
        build.envs(SETTINGS);
    }
    process::run(&mut build)?;
    let built = if musl { target.join(MUSL).join("dist/mote") } else { target.join("dist/mote") };
    let image = std::fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
    let is_static = !has_interpreter(&image)?;
    if musl && !is_static {
        bail!("failed to link {} statically: it names a program interpreter", built.display());
    }
    let mut places = vec![target.join("dist/mote"), root.join("target/dist/mote")];
    places.dedup();
    for place in &places {
        put(&built, place)?;
    }
    sandbox(&root, &target, musl)?;
    let kind = if is_static { "static" } else { "dynamic" };
    println!("xtask: {} ({kind}, {} bytes, {:.2} MiB)", places[0].display(), image.len(), mib(image.len()));
    Ok(places.swap_remove(0))
}

/// The sandbox runtime's daemon and, beside it, the first process of sandboxes.
fn sandbox(root: &Path, target: &Path, musl: bool) -> Result<()> {
    let programs = ["mote-sandboxd", "mote-sandbox-init"];
    let mut arguments = vec!["build", "--profile", "dist"];
    programs.iter().for_each(|program| arguments.extend(["--package", program]));
    if musl {
        arguments.extend(["--target", MUSL]);
    }
    let mut build = process::cargo(root, &arguments);
    if musl {
        build.envs(SETTINGS);
    }
    process::run(&mut build)?;
    let folder = if musl { target.join(MUSL).join("dist") } else { target.join("dist") };
    for program in programs {
        let built = folder.join(program);
        let image = std::fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
        if musl && has_interpreter(&image)? {
            bail!("failed to link {} statically: it names a program interpreter", built.display());
        }
        let place = target.join("dist").join(program);
        put(&built, &place)?;
        println!("xtask: {} ({} bytes, {:.2} MiB)", place.display(), image.len(), mib(image.len()));
    }
    Ok(())
}

/// Builds the first process of sandboxes for tests: static, because it runs inside any image; returns where it is.
pub(crate) fn sandbox_init(root: &Path, target: &Path, install: bool) -> Result<PathBuf> {
    if !musl_ready(root, install) {
        bail!(
            "failed to build mote-sandbox-init: it has to be static: rustup target add {MUSL}, and package musl-tools"
        );
    }
    let arguments = ["build", "--package", "mote-sandbox-init", "--release", "--target", MUSL];
    process::run(&mut process::cargo(root, &arguments))?;
    Ok(target.join(MUSL).join("release/mote-sandbox-init"))
}

/// Builds the sandbox runtime's daemon for tests as it ships: static, so that its C library (which resolves names and starts
/// threads) is the one that users have. It has crash points, which do nothing unless one is named, and is quick to build; returns
/// where it is. The target was found by [`sandbox_init`].
pub(crate) fn sandbox_daemon(root: &Path, target: &Path) -> Result<PathBuf> {
    let arguments = ["build", "--package", "mote-sandboxd", "--bins", "--features", "crash-points", "--target", MUSL];
    process::run(&mut process::cargo(root, &arguments))?;
    let built = target.join(MUSL).join("debug/mote-sandboxd");
    let image = std::fs::read(&built).with_context(|| format!("failed to read {}", built.display()))?;
    if has_interpreter(&image)? {
        bail!("failed to link {} statically: it names a program interpreter", built.display());
    }
    // Where the next build does not replace it under a test that runs.
    let place = target.join("crash/mote-sandboxd");
    put(&built, &place)?;
    Ok(place)
}

#[allow(clippy::cast_precision_loss, reason = "a size in MiB for a person")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Copies by way of a new name, so that a running copy is not written to.
fn put(from: &Path, to: &Path) -> Result<()> {
    if from == to {
        return Ok(());
    }
    let folder = to.parent().context("failed to place the binary: no folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let fresh = folder.join(format!("mote.{}", std::process::id()));
    std::fs::copy(from, &fresh).with_context(|| format!("failed to copy {}", from.display()))?;
    std::fs::rename(&fresh, to).with_context(|| format!("failed to name {}", to.display()))
}

/// Whether the target and its C compiler are there; tries to install both where that is allowed.
fn musl_ready(root: &Path, install: bool) -> bool {
    let has_target = || {
        let listing = process::output(&mut process::command(root, "rustup", &["target", "list", "--installed"]));
        listing.is_ok_and(|listing| listing.lines().any(|line| line == MUSL))
    };
    if install && !process::found("musl-gcc") && process::found("apt-get") {
        // Fails without root; what that means is said by the caller.
        let _ = process::run(&mut process::command(root, "apt-get", &["install", "--yes", "musl-tools"]));
    }
    if install && !has_target() && process::found("rustup") {
        let _ = process::run(&mut process::command(root, "rustup", &["target", "add", MUSL]));
    }
    process::found("musl-gcc") && has_target()
}

/// Whether a 64-bit little-endian ELF image asks for a dynamic loader (a `PT_INTERP` program header, ELF-64 object file
/// format, "Program header table").
fn has_interpreter(image: &[u8]) -> Result<bool> {
    if !image.starts_with(b"\x7fELF\x02\x01") {
        bail!("failed to read the binary: not a 64-bit little-endian ELF file");
    }
    let half = |at: usize| image.get(at..at + 2).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let word = |at: usize| image.get(at..at + 4).and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    let table = image.get(32..40).and_then(|bytes| usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok());
    let (table, size, count) =
        (table.context("cut short")?, half(54).context("cut short")?, half(56).context("cut short")?);
    Ok((0..count).any(|index| word(table + index * size) == Some(3)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn elf(kinds: &[u32]) -> Vec<u8> {
        let mut image = vec![0_u8; 64];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[32] = 64;
        image[54] = 56;
        image[56] = u8::try_from(kinds.len()).unwrap();
        for kind in kinds {
            image.extend(kind.to_le_bytes());
            image.extend([0; 52]);
        }
        image
    }

    #[test]
    fn a_dynamic_binary_is_told_from_a_static_one() {
        assert!(has_interpreter(&elf(&[1, 3, 1])).unwrap());
        assert!(!has_interpreter(&elf(&[1, 1])).unwrap());
        assert!(has_interpreter(b"#!/bin/sh").is_err());
        assert!(has_interpreter(&std::fs::read("/proc/self/exe").unwrap()).unwrap());
    }
}
