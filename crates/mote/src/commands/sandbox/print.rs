//! Sandboxes for people to read.
//!
//! It shows what the daemon says; with `--json` in the daemon's own words.

use std::time::Duration;

use mote_sandbox_api::capability::{Capabilities, Support};
use mote_sandbox_api::request::{Change, ChangeKind, Page, Sandbox, Snapshot, Usage};
use mote_sandbox_api::units;
use reqwest::Method;
use serde_json::Value;

use super::client::{Client, segment};
use super::{Logs, Top, of};
use crate::commands::exit::Exit;
use crate::commands::terminal::{Style, Terminal, sanitized, shorten};

/// How often `top` and `logs --follow` look again.
const REFRESH: Duration = Duration::from_secs(1);

fn in_json(value: &impl serde::Serialize, terminal: &mut Terminal) -> Result<(), Exit> {
    Ok(terminal.line(&serde_json::to_string(value).map_err(anyhow::Error::new)?)?)
}

/// A line a sandbox: id, state, profile, metadata.
pub(super) fn sandboxes(sandboxes: &[Sandbox], json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    for sandbox in sandboxes {
        if json {
            in_json(sandbox, terminal)?;
            continue;
        }
        let metadata: Vec<String> =
            sandbox.metadata.iter().map(|(key, value)| format!("{}={}", sanitized(key), sanitized(value))).collect();
        let profile = format!("{:?}", sandbox.profile).to_lowercase();
        let line = format!("{}  {:<12} {profile:<10}  {}", sandbox.id, sandbox.state.to_string(), metadata.join(" "));
        terminal.line(shorten(&line, 400).trim_end())?;
    }
    Ok(())
}

/// A line a snapshot: id, when it was made here, the sandbox it was taken of, its name.
pub(super) fn snapshots(snapshots: &[Snapshot], json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    for snapshot in snapshots {
        if json {
            in_json(snapshot, terminal)?;
            continue;
        }
        let (time, name) = (mote::timestamp::format_rfc3339(snapshot.created_ms), snapshot.name.as_deref());
        let line = format!("{}  {time}  {}  {}", snapshot.id, snapshot.sandbox, name.unwrap_or_default());
        terminal.line(shorten(&line, 400).trim_end())?;
    }
    Ok(())
}

/// A line a change, as `diff` of version control does: A, M, D and the path.
pub(super) fn changes(changes: &Page<Change>, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        return in_json(changes, terminal);
    }
    for change in &changes.items {
        let (letter, style) = match change.kind {
            ChangeKind::Added => ("A", Style::Good),
            ChangeKind::Modified => ("M", Style::Care),
            ChangeKind::Removed => ("D", Style::Bad),
        };
        let letter = terminal.paint_output(style, letter);
        terminal.line(&format!("{letter} {}", sanitized(&change.path)))?;
    }
    Ok(())
}

/// What happened to a sandbox, and what happens from now on where it is followed.
pub(super) async fn logs(logs: &Logs, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let mut after = 0;
    loop {
        let path = of(&logs.sandbox, &format!("/logs?after={after}"));
        let page: Page<Value> = client.ask(Method::GET, &path).await?;
        for line in &page.items {
            after = line["number"].as_u64().unwrap_or(after);
            if json {
                terminal.line(&line.to_string())?;
                continue;
            }
            let time = mote::timestamp::format_rfc3339(line["at_ms"].as_u64().unwrap_or(0));
            let level = line["level"].as_str().unwrap_or_default();
            terminal.line(&format!("{time} {level:<5} {}", sanitized(line["message"].as_str().unwrap_or_default())))?;
        }
        if !logs.follow {
            return Ok(());
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// A line a sandbox with what it uses, again every second where people look on.
pub(super) async fn top(top: &Top, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let once = top.once || json || !terminal.is_interactive();
    let mut before: std::collections::HashMap<String, u64> = std::collections::HashMap::new();
    loop {
        let page: Page<Sandbox> =
            client.ask(Method::GET, "/v1/sandboxes?limit=1000&state=running,paused,snapshotting,forking").await?;
        if !once {
            // Home and clear to the end of the screen (ECMA-48).
            terminal.raw(b"\x1b[H\x1b[J")?;
        }
        if !json {
            terminal.line(&format!(
                "{:<22}  {:<12} {:>7} {:>10} {:>6} {:>10} {:>4}",
                "SANDBOX", "STATE", "CPU", "MEMORY", "PIDS", "DISK", "OOM"
            ))?;
        }
        for sandbox in &page.items {
            let path = format!("/v1/sandboxes/{}/usage", segment(&sandbox.id));
            // One that has just gone is no error.
            let Ok(usage) = client.ask::<Usage>(Method::GET, &path).await else { continue };
            if json {
                terminal.line(&serde_json::json!({"id": sandbox.id, "usage": usage}).to_string())?;
                continue;
            }
            let cpu = before
                .insert(sandbox.id.clone(), usage.cpu_us)
                .map_or_else(|| "-".to_owned(), |before| format!("{}%", usage.cpu_us.saturating_sub(before) / 10_000));
            terminal.line(&format!(
                "{:<22}  {:<12} {cpu:>7} {:>10} {:>6} {:>10} {:>4}",
                sandbox.id,
                sandbox.state.to_string(),
                short(usage.memory_bytes),
                usage.pids,
                usage.disk_bytes.map_or_else(|| "-".to_owned(), short),
                usage.oom_kills,
            ))?;
        }
        if once {
            return Ok(());
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// A size in whole units, rounded down: for people.
fn short(bytes: u64) -> String {
    let shift = [40, 30, 20, 10].into_iter().find(|shift| bytes >> shift >= 10).unwrap_or(0);
    units::format_size(bytes >> shift << shift)
}

/// What the host can do, and what the profiles give.
pub(super) fn capabilities(capabilities: &Capabilities, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        return in_json(capabilities, terminal);
    }
    terminal.line(&format!("mote-sandboxd {}  API {}", capabilities.version, capabilities.api))?;
    for (title, supports) in [
        ("substrates", &capabilities.substrates),
        ("enforcement", &capabilities.enforcement),
        ("features", &capabilities.features),
    ] {
        terminal.line(&format!("\n{title}"))?;
        for (name, Support { available, detail }) in supports {
            let (word, style) = if *available { ("yes", Style::Good) } else { ("no ", Style::Bad) };
            let word = terminal.paint_output(style, word);
            terminal.line(&format!("  {word} {name:<22} {}", sanitized(detail)))?;
        }
    }
    for (name, profile) in &capabilities.profiles {
        let text = serde_json::to_string_pretty(profile).map_err(anyhow::Error::new)?;
        terminal.line(&format!("\nprofile {}\n{text}", format!("{name:?}").to_lowercase()))?;
    }
    Ok(())
}
