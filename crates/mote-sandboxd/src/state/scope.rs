//! Scopes of API keys: what a key is for.
//!
//! It decides nothing about requests: who serves a route asks [`Scopes::check`] for the scope that the route needs.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use mote_sandbox_api::error::{Code, Failure};

use crate::lifecycle::check;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Make and use sandboxes, snapshots and volumes.
    Sandbox,
    /// Build, name, tag and remove templates; import, commit and remove images.
    Template,
    /// Keep, bind and remove secrets.
    Secret,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Sandbox, Self::Template, Self::Secret, Self::Admin];

    /// The word by which it is kept and named.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Template => "template",
            Self::Secret => "secret",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Scope {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|scope| scope.word() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::word).join(", ");
            Failure::invalid("scope", format!("{text:?} is none of {known}, {BINDING}NAME"))
        })
    }
}

/// What a key is given: a scope, or one secret that it may bind to sandboxes (`secret:NAME`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// A scope.
    Scope(Scope),
    /// To bind the secret of this name, and nothing else of it.
    Binding(String),
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scope(scope) => f.write_str(scope.word()),
            Self::Binding(name) => write!(f, "{BINDING}{name}"),
        }
    }
}

impl FromStr for Grant {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        match text.strip_prefix(BINDING) {
            Some(name) => check::name("scope", name).map(|()| Self::Binding(name.to_owned())),
            None => text.parse().map(Self::Scope),
        }
    }
}

/// Before the name of a secret that may be bound.
const BINDING: &str = "secret:";

/// The scopes of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Grant>);

impl Scopes {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self(BTreeSet::from([Grant::Scope(Scope::Admin)]))
    }

    /// Whether they hold `scope`; [`Scope::Admin`] holds every other.
    #[must_use]
    pub fn hold(&self, scope: Scope) -> bool {
        [Scope::Admin, scope].into_iter().any(|scope| self.0.contains(&Grant::Scope(scope)))
    }

    /// Whether they hold `scope`, as a refusal.
    ///
    /// # Errors
    /// `forbidden`, naming the scope.
    pub fn check(&self, scope: Scope) -> Result<(), Failure> {
        if self.hold(scope) {
            return Ok(());
        }
        Err(Failure::new(Code::Forbidden, format!("the API key lacks the scope {scope:?}", scope = scope.word()))
            .with("scope", scope)
            .remedy(format!("use a key made with `mote-sandboxd key new --scope {scope}`")))
    }

    /// Whether they allow to bind a secret, as a refusal: that one, or every one.
    ///
    /// # Errors
    /// `forbidden`, naming the scope and the secret.
    pub fn check_binding(&self, secret: &str) -> Result<(), Failure> {
        if self.0.contains(&Grant::Binding(secret.to_owned())) {
            return Ok(());
        }
        self.check(Scope::Secret).map_err(|failure| {
            failure
                .with("secret", secret)
                .remedy(format!("use a key made with `mote-sandboxd key new --scope sandbox,{BINDING}{secret}`"))
        })
    }

    /// As they are kept: words with commas between them.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// What [`Self::text`] wrote. A word that is not known, of a newer daemon, grants nothing.
    pub(super) fn read(text: &str) -> Self {
        Self(text.split(',').filter_map(|word| word.parse().ok()).collect())
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        scopes.into_iter().map(Grant::Scope).collect()
    }
}

impl FromIterator<Grant> for Scopes {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_held_by_name_or_by_admin() {
        let builder: Scopes = [Scope::Sandbox, Scope::Template].into_iter().collect();
        assert!(builder.hold(Scope::Template) && !builder.hold(Scope::Secret) && !builder.hold(Scope::Admin));
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::all().hold(scope)));
        assert!(Scope::ALL.into_iter().all(|scope| !Scopes::default().hold(scope)));
        let failure = builder.check(Scope::Secret).unwrap_err();
        assert_eq!((failure.code, failure.context["scope"].as_str()), (Code::Forbidden, "secret"));
    }

    #[test]
    fn scopes_are_read_as_they_were_written_and_unknown_words_grant_nothing() {
        let words = ["template", "sandbox", "secret:openai"];
        let scopes: Scopes = words.into_iter().map(|word| word.parse::<Grant>().unwrap()).collect();
        assert_eq!(Scopes::read(&scopes.text()), scopes);
        for none in ["secret:", "secret:a b", "secret:a,b", "secret:../a"] {
            assert!(none.parse::<Grant>().is_err(), "{none}");
        }
        assert_eq!(Scopes::read("everything"), Scopes::default());
        assert_eq!(Scopes::read(""), Scopes::default());
        assert!("root".parse::<Scope>().unwrap_err().message.contains("sandbox, template, secret, admin"));
    }
}
