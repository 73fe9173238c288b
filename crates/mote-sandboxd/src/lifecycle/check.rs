//! Whether a specification asks for what may be asked: bounds, names, paths. The first mistake is named with its field.
//!
//! It looks at nothing outside the specification: whether a volume or an image exists is found out later.

use std::collections::BTreeMap;

use mote_sandbox_api::error::Failure;
use mote_sandbox_api::limits::{
    ENV_BYTES_MAX, ENV_ENTRIES_MAX, METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, NAME_BYTES_MAX, NETWORK_RULES_MAX,
    PATH_BYTES_MAX, VOLUMES_MAX,
};
use mote_sandbox_api::network::{PORT_PLACEHOLDER, Policy};
use mote_sandbox_api::spec::Spec;

use crate::limits::{
    CPU_MILLI_MIN, INGRESS_HOST_BYTES_MAX, INGRESS_TLS_PORTS_MAX, LEASE_MAX, MEMORY_BYTES_MIN, PIDS_MIN,
};

/// Checks a specification, the profile's defaults filled in or not.
///
/// # Errors
/// `invalid`, naming the field.
pub fn spec(spec: &Spec) -> Result<(), Failure> {
    metadata(&spec.metadata)?;
    env("spec.env", &spec.env)?;
    if let Some(user) = &spec.user
        && (user.is_empty() || user.len() > NAME_BYTES_MAX || user.contains([':', '\0', '\n', '/']))
    {
        return Err(Failure::invalid("spec.user", format!("{user:?} is not a user's name or number")));
    }
    if let Some(cwd) = &spec.cwd {
        path("spec.cwd", cwd)?;
    }
    resources(spec)?;
    if spec.secure == Some(false) {
        return Err(Failure::unsupported("spec.secure", "the data plane of a sandbox is never open to everybody")
            .remedy("leave it out: the answer to a creation carries the sandbox's access token"));
    }
    if let Some(policy) = &spec.network {
        network("spec.network", policy)?;
    }
    if spec.volumes.len() > VOLUMES_MAX {
        return Err(Failure::invalid("spec.volumes", format!("{} are more than {VOLUMES_MAX}", spec.volumes.len()))
            .with("limit", VOLUMES_MAX));
    }
    for (at, volume) in spec.volumes.iter().enumerate() {
        name(&format!("spec.volumes[{at}].name"), &volume.name)?;
        path(&format!("spec.volumes[{at}].path"), &volume.path)?;
    }
    for (at, data) in spec.data.iter().enumerate() {
        path(&format!("spec.data[{at}].source"), &data.source)?;
        path(&format!("spec.data[{at}].path"), &data.path)?;
    }
    for (field, span) in [("spec.lease", spec.lease), ("spec.deadline", spec.deadline)] {
        if let Some(span) = span
            && (span.is_zero() || span > LEASE_MAX)
        {
            let most = mote_sandbox_api::units::format_duration(LEASE_MAX);
            return Err(Failure::invalid(field, format!("it must be more than 0 and at most {most}")));
        }
    }
    Ok(())
}

fn resources(spec: &Spec) -> Result<(), Failure> {
    let least = |field: &str, value: Option<u64>, least: u64| match value {
        Some(value) if value < least => {
            Err(Failure::invalid(field, format!("{value} is less than {least}")).with("limit", least))
        }
        _ => Ok(()),
    };
    least("spec.resources.memory", spec.resources.memory, MEMORY_BYTES_MIN)?;
    least("spec.resources.cpu_milli", spec.resources.cpu_milli.map(u64::from), u64::from(CPU_MILLI_MIN))?;
    least("spec.resources.pids", spec.resources.pids.map(u64::from), u64::from(PIDS_MIN))?;
    least("spec.resources.disk", spec.resources.disk, MEMORY_BYTES_MIN)?;
    least("spec.resources.io", spec.resources.io, 4096)
}

/// Checks metadata.
///
/// # Errors
/// `invalid`.
pub fn metadata(metadata: &BTreeMap<String, String>) -> Result<(), Failure> {
    if metadata.len() > METADATA_ENTRIES_MAX {
        let message = format!("{} entries are more than {METADATA_ENTRIES_MAX}", metadata.len());
        return Err(Failure::invalid("spec.metadata", message).with("limit", METADATA_ENTRIES_MAX));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.len() > METADATA_BYTES_MAX || value.len() > METADATA_BYTES_MAX {
            let message = format!("a key or value is empty or longer than {METADATA_BYTES_MAX} bytes");
            return Err(Failure::invalid("spec.metadata", message).with("limit", METADATA_BYTES_MAX));
        }
    }
    Ok(())
}

/// Checks an environment.
///
/// # Errors
/// `invalid`, naming the variable.
pub fn env(field: &str, env: &BTreeMap<String, String>) -> Result<(), Failure> {
    if env.len() > ENV_ENTRIES_MAX {
        let message = format!("{} variables are more than {ENV_ENTRIES_MAX}", env.len());
        return Err(Failure::invalid(field, message).with("limit", ENV_ENTRIES_MAX));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Failure::invalid(field, format!("{name:?} is not a variable's name")));
        }
        if value.contains('\0') || name.len() + value.len() > ENV_BYTES_MAX {
            let message = format!("the value of {name:?} has a zero byte or is longer than {ENV_BYTES_MAX} bytes");
            return Err(Failure::invalid(field, message));
        }
    }
    Ok(())
}

/// Checks a network policy's shape; `network` checks what its rules mean.
///
/// # Errors
/// `invalid`.
pub fn network(field: &str, policy: &Policy) -> Result<(), Failure> {
    if policy.rules.len() > NETWORK_RULES_MAX {
        let message = format!("{} rules are more than {NETWORK_RULES_MAX}", policy.rules.len());
        return Err(Failure::invalid(&format!("{field}.rules"), message).with("limit", NETWORK_RULES_MAX));
    }
    for binding in &policy.secrets {
        name(&format!("{field}.secrets"), &binding.secret)?;
    }
    if let Some(host) = &policy.ingress_host {
        ingress_host(&format!("{field}.ingress_host"), host)?;
    }
    if policy.ingress_tls_ports.len() > INGRESS_TLS_PORTS_MAX || policy.ingress_tls_ports.contains(&0) {
        let message = format!("it must be at most {INGRESS_TLS_PORTS_MAX} ports, none of them 0");
        return Err(
            Failure::invalid(&format!("{field}.ingress_tls_ports"), message).with("limit", INGRESS_TLS_PORTS_MAX)
        );
    }
    Ok(())
}

/// What stands in `Host`: a name or an address, and a port perhaps.
fn ingress_host(field: &str, host: &str) -> Result<(), Failure> {
    let shown = host.replace(PORT_PLACEHOLDER, "65535");
    let is_host = shown.len() <= INGRESS_HOST_BYTES_MAX
        && !shown.contains(['@', '$', '{', '}'])
        && shown.parse::<http::uri::Authority>().is_ok_and(|authority| !authority.host().is_empty());
    if is_host {
        return Ok(());
    }
    let message = format!(
        "{host:?} must be a host of at most {INGRESS_HOST_BYTES_MAX} bytes in ASCII, with :PORT perhaps; {PORT_PLACEHOLDER} stands for the port"
    );
    Err(Failure::invalid(field, message))
}

/// Checks a name of a snapshot, a volume, a secret or an image.
///
/// # Errors
/// `invalid`.
pub fn name(field: &str, name: &str) -> Result<(), Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/' | b':' | b'@');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.starts_with(['.', '/']) || !name.bytes().all(plain) {
        let message = format!("{name:?} must be 1 to {NAME_BYTES_MAX} letters, digits or any of - _ . / : @");
        return Err(Failure::invalid(field, message));
    }
    Ok(())
}

fn path(field: &str, path: &str) -> Result<(), Failure> {
    if !path.starts_with('/') || path.len() > PATH_BYTES_MAX || path.contains('\0') {
        return Err(Failure::invalid(field, format!("it must be an absolute path of at most {PATH_BYTES_MAX} bytes")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(Failure::invalid(field, "it must not contain \"..\""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_sandbox_api::spec::{Resources, VolumeMount};
    use std::time::Duration;

    fn check(asked: Spec, field: &str) {
        let failure = spec(&asked).expect_err(field);
        assert_eq!(failure.context["field"], field, "{failure}");
    }

    #[test]
    fn each_mistake_names_its_field() {
        check(Spec { env: BTreeMap::from([("A=B".to_owned(), String::new())]), ..Spec::default() }, "spec.env");
        check(Spec { metadata: BTreeMap::from([(String::new(), String::new())]), ..Spec::default() }, "spec.metadata");
        check(Spec { user: Some("a:b".to_owned()), ..Spec::default() }, "spec.user");
        check(Spec { cwd: Some("work".to_owned()), ..Spec::default() }, "spec.cwd");
        check(Spec { lease: Some(Duration::ZERO), ..Spec::default() }, "spec.lease");
        let small = Resources { memory: Some(1), ..Resources::default() };
        check(Spec { resources: small, ..Spec::default() }, "spec.resources.memory");
        for host in ["", "a b", "user@a", "a/b", "${HOST}", &"x".repeat(300)] {
            let network = Some(Policy { ingress_host: Some(host.to_owned()), ..Policy::default() });
            check(Spec { network, ..Spec::default() }, "spec.network.ingress_host");
        }
        let network = Some(Policy { ingress_tls_ports: vec![443, 0], ..Policy::default() });
        check(Spec { network, ..Spec::default() }, "spec.network.ingress_tls_ports");
        let volume = VolumeMount { name: "v".to_owned(), path: "/a/../b".to_owned(), read_only: false };
        check(Spec { volumes: vec![volume], ..Spec::default() }, "spec.volumes[0].path");
    }
}
