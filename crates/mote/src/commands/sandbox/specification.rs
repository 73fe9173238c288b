//! `mote sandbox create`: options to a specification.
//!
//! It sets no defaults: the daemon's profiles do.

use std::time::Duration;

use mote::tools::sandbox::config::image_source;
use mote_sandbox_api::network::{Policy, Rule, Verdict};
use mote_sandbox_api::request::{Create as Request, Outcome, Page, Sandbox};
use mote_sandbox_api::spec::{DataMount, ImageSource, OnLeaseEnd, Profile, Resources, Spec, VolumeMount};
use mote_sandbox_api::units;
use reqwest::Method;

use super::client::Client;
use super::{outcomes, printed};
use crate::commands::exit::Exit;
use crate::commands::terminal::Terminal;

/// Make a sandbox and print its id
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// NAME, snapshot:ID, dir:PATH, tar:PATH, oci:PATH[:TAG], registry:HOST/REPO[:TAG], or host
    #[arg(long, short, value_parser = image_source)]
    image: Option<ImageSource>,
    /// The set of defaults
    #[arg(long, value_parser = ["production", "training"], default_value = "production")]
    profile: String,
    /// How many; their ids come one a line
    #[arg(long)]
    count: Option<u32>,
    /// A variable of every process's environment; repeatable
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// A key and value to list by; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// User of processes that name none
    #[arg(long, short)]
    user: Option<String>,
    /// Memory, such as 512MiB
    #[arg(long, value_parser = size)]
    memory: Option<u64>,
    /// Thousandths of a processor
    #[arg(long, value_name = "MILLI")]
    cpu: Option<u32>,
    /// Processes and threads
    #[arg(long)]
    pids: Option<u32>,
    /// Disk, such as 2GiB
    #[arg(long, value_parser = size)]
    disk: Option<u64>,
    /// A destination that may be reached: a name, *.name, an address, a CIDR block, or *; repeatable
    #[arg(long, value_name = "TO")]
    allow: Vec<String>,
    /// A volume: NAME:PATH[:ro]; repeatable
    #[arg(long, value_parser = volume)]
    volume: Vec<VolumeMount>,
    /// A directory of the host, read-only: SOURCE:PATH; repeatable
    #[arg(long, value_parser = data)]
    data: Vec<DataMount>,
    /// Time without renewal after which it is paused, stopped or removed, such as 40m
    #[arg(long, value_parser = duration)]
    lease: Option<Duration>,
    /// What happens when the lease runs out
    #[arg(long, value_parser = ["pause", "stop", "remove"])]
    on_lease_end: Option<String>,
    /// Wall time after which it is removed whatever happens, such as 30d
    #[arg(long, value_parser = duration)]
    deadline: Option<Duration>,
}

pub(super) async fn create(create: Create, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let request = Request { count: create.count, spec: specification(create) };
    if request.count.is_some() {
        let made: Page<Outcome> = client.tell(Method::POST, "/v1/sandboxes", &request).await?;
        return outcomes(&made, json, terminal);
    }
    let sandbox: Sandbox = client.tell(Method::POST, "/v1/sandboxes", &request).await?;
    printed(&sandbox, &sandbox.id, json, terminal)
}

fn specification(create: Create) -> Spec {
    let allow = |to: String| Rule {
        verdict: Verdict::Allow,
        to,
        ports: vec![],
        over_deny: false,
        plain_http: false,
        inspect: false,
        headers: vec![],
    };
    let rules: Vec<Rule> = create.allow.into_iter().map(allow).collect();
    Spec {
        image: create.image,
        profile: if create.profile == "training" { Profile::Training } else { Profile::Production },
        metadata: create.metadata.into_iter().collect(),
        env: create.env.into_iter().collect(),
        user: create.user,
        resources: Resources {
            memory: create.memory,
            cpu_milli: create.cpu,
            pids: create.pids,
            disk: create.disk,
            io: None,
        },
        network: (!rules.is_empty()).then(|| Policy { rules, ..Policy::default() }),
        volumes: create.volume,
        data: create.data,
        lease: create.lease,
        on_lease_end: create.on_lease_end.map(|end| match end.as_str() {
            "remove" => OnLeaseEnd::Remove,
            "stop" => OnLeaseEnd::Stop,
            _ => OnLeaseEnd::Pause,
        }),
        deadline: create.deadline,
        ..Spec::default()
    }
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text)
}

fn size(text: &str) -> Result<u64, String> {
    units::parse_size(text)
}

fn volume(text: &str) -> Result<VolumeMount, String> {
    let (text, read_only) = text.strip_suffix(":ro").map_or((text, false), |text| (text, true));
    let (name, path) = text.split_once(':').ok_or("write NAME:PATH or NAME:PATH:ro")?;
    Ok(VolumeMount { name: name.to_owned(), path: path.to_owned(), read_only })
}

fn data(text: &str) -> Result<DataMount, String> {
    let (source, path) = text.split_once(':').ok_or("write SOURCE:PATH")?;
    Ok(DataMount { source: source.to_owned(), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_may_be_read_only() {
        assert_eq!(
            volume("data:/mnt:ro"),
            Ok(VolumeMount { name: "data".to_owned(), path: "/mnt".to_owned(), read_only: true })
        );
        assert!(volume("data").is_err());
    }
}
