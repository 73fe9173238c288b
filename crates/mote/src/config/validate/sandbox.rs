//! The agent's sandbox: what it may do there, how it is made, how long it is kept.
//!
//! Whether the daemon has the image or takes the key is found out when the sandbox is made.

use std::net::IpAddr;
use std::time::Duration;

use mote_sandbox_api::limits::{ENV_ENTRIES_MAX, NAME_BYTES_MAX, NETWORK_RULES_MAX};
use mote_sandbox_api::network::{Policy, Rule, SecretBinding, Verdict};
use mote_sandbox_api::spec::{ImageSource, OnLeaseEnd, Profile, Resources, Spec};

use super::super::diagnostic::FieldPath;
use super::super::findings::Findings;
use super::super::sandbox::{self, Facility, Release, SANDBOX_URL_VARIABLE, SandboxTool};
use super::super::{raw, units};
use super::tool::output_max;
use super::{Surroundings, check_variable, duration, http_url, optional_duration, secret};
use crate::limits::SANDBOX_TIMEOUT_MAX;

const LEASE: Duration = Duration::from_secs(40 * 60);
const TIMEOUT: Duration = Duration::from_secs(120);

/// One entry of `tools`; `path` is that of its `sandbox`.
pub(super) fn sandbox(
    raw: raw::Sandbox,
    path: &FieldPath,
    around: &Surroundings<'_>,
    findings: &mut Findings<'_>,
) -> SandboxTool {
    let allow = allowed(&raw.allow, &path.key("allow"), findings);
    let release = match raw.release {
        Some(raw::Release::Turn) => Release::Turn,
        Some(raw::Release::Idle) => Release::Idle,
        Some(raw::Release::Session) | None => Release::Session,
    };
    let timeout = duration(raw.timeout.as_ref(), TIMEOUT, &path.key("timeout"), findings);
    let lease = duration(raw.lease.as_ref(), LEASE.max(timeout), &path.key("lease"), findings);
    let deadline = optional_duration(raw.deadline.as_ref(), &path.key("deadline"), findings);
    if timeout > SANDBOX_TIMEOUT_MAX {
        findings.error(&path.key("timeout"), "is longer than a day");
    } else if lease < timeout {
        let hint =
            "a command that still runs when the lease ends would be stopped: make the lease the longer of the two";
        findings.error_hint(&path.key("lease"), "is shorter than `timeout`", hint);
    }
    if deadline.is_some_and(|deadline| deadline < lease) {
        findings.error(&path.key("deadline"), "is shorter than `lease`");
    }
    let url = url(raw.url, path, findings);
    let spec = Spec {
        image: raw.image.and_then(|text| image(&text, &path.key("image"), findings)),
        profile: match raw.profile {
            Some(raw::Profile::Training) => Profile::Training,
            Some(raw::Profile::Production) | None => Profile::Production,
        },
        env: raw.env,
        user: raw.user,
        resources: resources(&raw.resources.unwrap_or_default(), &path.key("resources"), findings),
        network: raw.network.map(|network| self::network(network, &path.key("network"), findings)),
        lease: Some(lease),
        on_lease_end: Some(if release == Release::Idle { OnLeaseEnd::Remove } else { OnLeaseEnd::Pause }),
        deadline,
        auto_resume: Some(true),
        ..Spec::default()
    };
    check_spec(&spec, path, findings);
    let ca = raw.ca.map(|ca| around.resolve(&ca.file));
    if ca.is_some() && !url.starts_with("https://") {
        findings.error(&path.key("ca"), "only an https address has a certificate");
    }
    SandboxTool {
        url,
        ca,
        key: match raw.key {
            Some(key) => Some(secret(key, &path.key("key"), around, findings)),
            None => sandbox::default_key(),
        },
        allow,
        spec,
        release,
        timeout,
        output_max: output_max(raw.output_max.as_ref(), &path.key("output_max"), findings),
        approval: raw.approval.unwrap_or(false),
    }
}

fn allowed(raw: &[raw::Facility], path: &FieldPath, findings: &mut Findings<'_>) -> Vec<Facility> {
    let mut allow = Vec::new();
    for (index, facility) in raw.iter().enumerate() {
        let facility = match facility {
            raw::Facility::Shell => Facility::Shell,
            raw::Facility::Python => Facility::Python,
            raw::Facility::Files => Facility::Files,
        };
        let path = path.index(index);
        if allow.contains(&facility) && !findings.is_broken(&path) {
            findings.error(&path, format!("`{}` is written twice", facility.name()));
        }
        allow.push(facility);
    }
    if raw.is_empty() && !findings.is_broken(path) {
        findings.error_hint(path, "allows nothing", "write `[shell, python, files]`, or some of these");
    }
    allow.sort_unstable();
    allow.dedup();
    allow
}

fn url(raw: Option<String>, path: &FieldPath, findings: &mut Findings<'_>) -> String {
    let url = match raw {
        Some(url) => {
            let _ = http_url(&url, &path.key("url"), findings);
            url
        }
        None => {
            let url = sandbox::default_url();
            if !reqwest::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
                let message = format!("the environment variable {SANDBOX_URL_VARIABLE} is not an http or https URL");
                findings.error_hint(path, message, "correct it, or write `url`");
            }
            url
        }
    };
    url.trim_end_matches('/').to_owned()
}

fn image(text: &str, path: &FieldPath, findings: &mut Findings<'_>) -> Option<ImageSource> {
    let image = match sandbox::image_source(text) {
        Ok(image) => image,
        Err(message) => {
            findings.error(path, message);
            return None;
        }
    };
    match &image {
        ImageSource::Directory(place) | ImageSource::Tarball(place) | ImageSource::OciLayout(place)
            if !place.starts_with('/') =>
        {
            findings.error(path, "the path is the daemon's and must be absolute");
        }
        ImageSource::Snapshot(name) | ImageSource::Registry(name) if name.is_empty() => {
            findings.error(path, "nothing stands behind the colon");
        }
        ImageSource::Name(name) if name.contains(char::is_whitespace) => {
            findings.error(path, "the name of an image has no blanks");
        }
        _ => {}
    }
    Some(image)
}

fn resources(raw: &raw::Resources, path: &FieldPath, findings: &mut Findings<'_>) -> Resources {
    let mut size = |raw: Option<&raw::Size>, name: &str| match units::size(&raw?.0) {
        Ok(0) => {
            findings.error(&path.key(name), "must be more than zero");
            None
        }
        Ok(bytes) => Some(bytes),
        Err(error) => {
            findings.error(&path.key(name), error.to_string());
            None
        }
    };
    Resources {
        memory: size(raw.memory.as_ref(), "memory"),
        cpu_milli: raw.cpu_milli,
        pids: raw.pids,
        disk: size(raw.disk.as_ref(), "disk"),
        io: size(raw.io.as_ref(), "io"),
    }
}

fn network(raw: raw::Network, path: &FieldPath, findings: &mut Findings<'_>) -> Policy {
    let mut rules = Vec::new();
    for (verdict, name, list) in [(Verdict::Allow, "allow", raw.allow), (Verdict::Deny, "deny", raw.deny)] {
        for (index, to) in list.into_iter().enumerate() {
            check_destination(&to, &path.key(name).index(index), findings);
            rules.push(Rule {
                verdict,
                to,
                ports: Vec::new(),
                inspect: false,
                headers: Vec::new(),
                plain_http: false,
                over_deny: false,
            });
        }
    }
    if rules.len() > NETWORK_RULES_MAX {
        findings.error(path, format!("has more than {NETWORK_RULES_MAX} rules (NETWORK_RULES_MAX)"));
    }
    for (index, range) in raw.private_ranges.iter().enumerate() {
        if !is_block(range) {
            findings.error(&path.key("private_ranges").index(index), "is not a CIDR block, such as 10.0.0.0/8");
        }
    }
    let path = path.key("secrets");
    let bind = |(index, raw): (usize, raw::SecretBinding)| {
        let path = path.index(index);
        check_variable(&raw.env, &path.key("env"), findings);
        if raw.secret.is_empty() || raw.secret.len() > NAME_BYTES_MAX {
            findings.error(&path.key("secret"), format!("must be 1 to {NAME_BYTES_MAX} characters"));
        }
        if raw.hosts.is_empty() && !findings.is_broken(&path) {
            findings.error(&path.key("hosts"), "names no host: nobody could receive the secret");
        }
        for (index, host) in raw.hosts.iter().enumerate() {
            check_destination(host, &path.key("hosts").index(index), findings);
        }
        let raw::SecretBinding { secret, env, hosts, headers, query, body, upgrade } = raw;
        SecretBinding { secret, env, hosts, headers, query, body, upgrade }
    };
    let secrets = raw.secrets.into_iter().enumerate().map(bind).collect();
    Policy { rules, secrets, private_ranges: raw.private_ranges, ..Policy::default() }
}

/// A name, `*.NAME`, an address, a CIDR block, or `*`.
fn check_destination(to: &str, path: &FieldPath, findings: &mut Findings<'_>) {
    let name = to.strip_prefix("*.").unwrap_or(to);
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = !name.is_empty() && name.chars().all(plain) && name.split('.').all(|label| !label.is_empty());
    if to != "*" && !is_name && !is_block(to) && to.parse::<IpAddr>().is_err() {
        let hint = "write a name (pypi.org), *.NAME, an address, a CIDR block, or * for every public destination";
        findings.error_hint(path, format!("{to:?} is not a destination"), hint);
    }
}

fn is_block(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let longest = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= longest)
}

fn check_spec(spec: &Spec, path: &FieldPath, findings: &mut Findings<'_>) {
    if spec.env.len() > ENV_ENTRIES_MAX {
        findings.error(&path.key("env"), format!("has more than {ENV_ENTRIES_MAX} variables (ENV_ENTRIES_MAX)"));
    }
    for name in spec.env.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            findings.error(&path.key("env").key(name), format!("{name:?} is not the name of a variable"));
        }
    }
    if let Some(user) = &spec.user
        && (user.is_empty() || user.len() > NAME_BYTES_MAX || user.contains([':', '\0', '\n', '/']))
    {
        findings.error(&path.key("user"), "is not a user's name or number");
    }
}
