//! Running other programs: echoed, with an error that says which one failed and how.
//!
//! It does not decide what to run, and it never runs a program through a shell.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command in `folder`, not yet started.
pub(crate) fn command(folder: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    command
}

/// `cargo` in `folder`: the one that started this program, so that the toolchain is the same.
pub(crate) fn cargo(folder: &Path, arguments: &[&str]) -> Command {
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    command(folder, &program, arguments)
}

/// How a person would type the command.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Prints and runs the command with its output shown; an error unless it ends with zero.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = shown(command);
    println!("xtask: {line}");
    let status = command.status().with_context(|| format!("failed to start `{line}`"))?;
    if !status.success() {
        bail!("failed to run `{line}`: {status}");
    }
    Ok(())
}

/// Runs the command silently and returns what it printed; an error, with what it said, unless it ends with zero.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("failed to start `{line}`"))?;
    if !output.status.success() {
        bail!("failed to run `{line}`: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program of that name is found on the path, or where an administrator's path would lead.
pub(crate) fn found(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    let administrators = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(administrators).any(|folder| folder.join(program).is_file())
}
