//! The two profiles: every default that a specification leaves open, in one place.
//!
//! It does not branch on a profile anywhere else: one code path, two sets of defaults.

use std::collections::BTreeMap;
use std::time::Duration;

use mote_sandbox_api::capability::ProfileName;
use mote_sandbox_api::network::Policy;
use mote_sandbox_api::spec::{ImageSource, OnLeaseEnd, Profile, Resources, Spec};

/// User of processes where neither the specification nor the image names one: not root. The first process makes the account in
/// an image that lacks it.
pub const USER: &str = "user";

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Rollouts: no network, short, reset by rollback.
#[must_use]
pub fn training(image: ImageSource) -> Spec {
    Spec {
        image: Some(image),
        profile: Profile::Training,
        resources: Resources {
            memory: Some(512 * MIB),
            cpu_milli: Some(1000),
            pids: Some(256),
            disk: Some(GIB),
            io: None,
        },
        network: None,
        lease: Some(Duration::from_secs(30)),
        on_lease_end: Some(OnLeaseEnd::Remove),
        deadline: Some(Duration::from_secs(HOUR)),
        auto_resume: Some(false),
        secure: Some(true),
        ..Spec::default()
    }
}

/// Sessions: egress and previews by policy (nothing, and nobody without a token, until one is given), long, paused across gaps.
#[must_use]
pub fn production(image: ImageSource) -> Spec {
    Spec {
        image: Some(image),
        profile: Profile::Production,
        resources: Resources {
            memory: Some(2 * GIB),
            cpu_milli: Some(2000),
            pids: Some(1024),
            disk: Some(8 * GIB),
            io: None,
        },
        network: Some(Policy { ingress_token: true, ..Policy::default() }),
        lease: Some(Duration::from_secs(40 * MINUTE)),
        on_lease_end: Some(OnLeaseEnd::Pause),
        deadline: Some(Duration::from_secs(30 * DAY)),
        auto_resume: Some(true),
        secure: Some(true),
        ..Spec::default()
    }
}

/// The defaults of both profiles, the operator's changes applied.
#[derive(Debug, Clone)]
pub struct Profiles {
    by_name: BTreeMap<ProfileName, Spec>,
}

impl Profiles {
    /// The built-in defaults on `image`, with what the operator's configuration sets laid over them.
    #[must_use]
    pub fn new(image: &ImageSource, changes: &BTreeMap<ProfileName, Spec>) -> Self {
        let built_in =
            [(ProfileName::Training, training(image.clone())), (ProfileName::Production, production(image.clone()))];
        let by_name = built_in
            .into_iter()
            .map(|(name, defaults)| {
                let changed = changes.get(&name).map(|change| {
                    let change = Spec { profile: defaults.profile, ..change.clone() };
                    fill(change, &defaults)
                });
                (name, changed.unwrap_or(defaults))
            })
            .collect();
        Self { by_name }
    }

    /// As `GET /v1/capabilities` prints them.
    #[must_use]
    pub fn all(&self) -> &BTreeMap<ProfileName, Spec> {
        &self.by_name
    }

    /// The specification with every field that it leaves open filled in from its profile.
    #[must_use]
    pub fn complete(&self, spec: Spec) -> Spec {
        match self.by_name.get(&ProfileName::from(spec.profile)) {
            Some(defaults) => fill(spec, defaults),
            None => spec,
        }
    }
}

/// `spec`, with the fields that it leaves open taken from `defaults`. Maps are joined; the specification's entries win.
fn fill(spec: Spec, defaults: &Spec) -> Spec {
    let join = |mut base: BTreeMap<String, String>, over: BTreeMap<String, String>| {
        base.extend(over);
        base
    };
    Spec {
        image: spec.image.or_else(|| defaults.image.clone()),
        profile: spec.profile,
        metadata: join(defaults.metadata.clone(), spec.metadata),
        env: join(defaults.env.clone(), spec.env),
        user: spec.user.or_else(|| defaults.user.clone()),
        cwd: spec.cwd.or_else(|| defaults.cwd.clone()),
        resources: Resources {
            memory: spec.resources.memory.or(defaults.resources.memory),
            cpu_milli: spec.resources.cpu_milli.or(defaults.resources.cpu_milli),
            pids: spec.resources.pids.or(defaults.resources.pids),
            disk: spec.resources.disk.or(defaults.resources.disk),
            io: spec.resources.io.or(defaults.resources.io),
        },
        network: spec.network.or_else(|| defaults.network.clone()),
        volumes: if spec.volumes.is_empty() { defaults.volumes.clone() } else { spec.volumes },
        data: if spec.data.is_empty() { defaults.data.clone() } else { spec.data },
        lease: spec.lease.or(defaults.lease),
        on_lease_end: spec.on_lease_end.or(defaults.on_lease_end),
        deadline: spec.deadline.or(defaults.deadline),
        auto_resume: spec.auto_resume.or(defaults.auto_resume),
        secure: spec.secure.or(defaults.secure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_fills_what_is_left_open_and_nothing_else() {
        let profiles = Profiles::new(&ImageSource::Host, &BTreeMap::new());
        let asked = Spec {
            profile: Profile::Training,
            resources: Resources { memory: Some(64 * MIB), ..Resources::default() },
            ..Spec::default()
        };
        let complete = profiles.complete(asked);
        assert_eq!(complete.resources.memory, Some(64 * MIB));
        assert_eq!(complete.resources.pids, Some(256));
        assert_eq!(complete.lease, Some(Duration::from_secs(30)));
        assert_eq!(complete.network, None, "training has no network");
        assert_eq!(complete.image, Some(ImageSource::Host));
    }

    #[test]
    fn an_operator_changes_one_default_and_keeps_the_others() {
        let change = Spec { lease: Some(Duration::from_secs(90)), ..Spec::default() };
        let changes = BTreeMap::from([(ProfileName::Training, change)]);
        let profiles = Profiles::new(&ImageSource::Host, &changes);
        let training = &profiles.all()[&ProfileName::Training];
        assert_eq!(training.lease, Some(Duration::from_secs(90)));
        assert_eq!(training.profile, Profile::Training);
        assert_eq!(training.on_lease_end, Some(OnLeaseEnd::Remove));
    }
}
