//! What a build is made of, as E2B's builder sends it, and the same once it was checked.
//!
//! It runs nothing; [`super::step`] does. The key of a step is the digest of what it and those before it are made from: a step
//! whose key was built before is not run again.

use mote_oci::digest::Digest;
use mote_oci::registry::Credentials;
use mote_sandbox_api::error::Failure;
use serde::{Deserialize, Serialize};

use crate::limits::{
    TEMPLATE_ARGUMENT_BYTES_MAX, TEMPLATE_ARGUMENTS_MAX, TEMPLATE_ENVIRONMENT_MAX, TEMPLATE_STEPS_MAX,
};

/// Version of what the steps of a build do: with another one, nothing that was built before is taken as it is.
const STEPS_VERSION: u32 = 1;
/// User of a registry that takes the JSON of a service account as password (Google's documentation, "JSON key").
const SERVICE_ACCOUNT: &str = "_json_key";
/// Digits of a SHA-256.
const HASH_DIGITS: usize = 64;

/// `TemplateBuildStartV2`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Order {
    from_image: Option<String>,
    from_template: Option<String>,
    from_image_registry: Option<RegistryOrder>,
    force: Option<bool>,
    steps: Vec<StepOrder>,
    start_cmd: Option<String>,
    ready_cmd: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StepOrder {
    #[serde(rename = "type")]
    kind: String,
    args: Vec<String>,
    files_hash: Option<String>,
    force: Option<bool>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum RegistryOrder {
    Registry {
        username: String,
        password: String,
    },
    Gcp {
        #[serde(rename = "serviceAccountJson")]
        account: String,
    },
    #[serde(other)]
    Other,
}

impl std::fmt::Debug for RegistryOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryOrder").finish_non_exhaustive()
    }
}

/// What a build is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it begins with.
    pub base: Base,
    /// In their order.
    pub steps: Vec<Step>,
    /// Nothing that was built before is taken, from the base on.
    pub force: bool,
    /// Command that runs in every sandbox.
    pub start: Option<String>,
    /// Command that succeeds once a sandbox is ready.
    pub ready: Option<String>,
}

/// What a build begins with.
#[derive(Clone, Debug)]
pub enum Base {
    /// An image by the name of the daemon's store, or of a registry.
    Image(String, Option<Credentials>),
    /// A template, with its environment, user, directory and commands.
    Template(String),
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub work: Work,
    /// For the log.
    pub title: String,
    /// It and what follows are done, also where they were done before.
    pub force: bool,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Work {
    /// Runs a line in a login shell.
    Run {
        /// The line.
        command: String,
        /// As another user than the template's.
        user: Option<String>,
    },
    /// Puts uploaded files into place.
    Copy(Copy),
    /// Sets variables.
    Env(Vec<(String, String)>),
    /// Sets the directory, and makes it.
    Workdir(String),
    /// Sets the user, and makes it.
    User {
        /// Its name.
        name: String,
        /// It may become root without a password.
        sudo: bool,
    },
}

/// Files to put into place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copy {
    /// Path within the upload, without a pattern: `.` for all of it.
    pub source: String,
    /// Path inside, absolute or of the working directory.
    pub target: String,
    /// Who owns them; the template's user where absent.
    pub owner: Option<String>,
    /// Permission bits in octal digits.
    pub mode: Option<String>,
    /// By which they were uploaded.
    pub files: String,
}

impl Order {
    /// The plan, once everything in it was found to be well formed.
    ///
    /// # Errors
    /// `invalid`, naming the field; `unsupported` for credentials that need another service.
    pub fn check(self) -> Result<Plan, Failure> {
        let full = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let credentials = self.from_image_registry.map(credentials).transpose()?;
        let base = match (full(self.from_image), full(self.from_template)) {
            (Some(image), None) => Base::Image(bounded("fromImage", image)?, credentials),
            (None, Some(template)) => Base::Template(bounded("fromTemplate", template)?),
            _ => return Err(Failure::invalid("fromImage", "exactly one of fromImage and fromTemplate is needed")),
        };
        if self.steps.len() > TEMPLATE_STEPS_MAX {
            let message = format!("a build has at most {TEMPLATE_STEPS_MAX} steps");
            return Err(Failure::invalid("steps", message).with("limit", TEMPLATE_STEPS_MAX));
        }
        let mut force = self.force.unwrap_or(false);
        let mut steps = Vec::with_capacity(self.steps.len());
        for (at, step) in self.steps.into_iter().enumerate() {
            force |= step.force.unwrap_or(false);
            let title = format!("{} {}", step.kind.to_ascii_uppercase(), step.args.join(" "));
            let work = work(&format!("steps[{at}]"), step)?;
            steps.push(Step { work, title, force });
        }
        Ok(Plan {
            base,
            steps,
            force: self.force.unwrap_or(false),
            start: full(self.start_cmd).map(|text| bounded("startCmd", text)).transpose()?,
            ready: full(self.ready_cmd).map(|text| bounded("readyCmd", text)).transpose()?,
        })
    }
}

fn credentials(order: RegistryOrder) -> Result<Credentials, Failure> {
    match order {
        RegistryOrder::Registry { username, password } => Ok(Credentials { user: username, password }),
        RegistryOrder::Gcp { account } => Ok(Credentials { user: SERVICE_ACCOUNT.to_owned(), password: account }),
        RegistryOrder::Other => {
            let why = "keys of AWS would have to be exchanged for a registry's own with a service of Amazon's";
            Err(Failure::unsupported("templates.fromImageRegistry", why)
                .remedy("give what `aws ecr get-login-password` prints as the password of the user AWS"))
        }
    }
}

fn bounded(field: &str, text: String) -> Result<String, Failure> {
    if text.len() > TEMPLATE_ARGUMENT_BYTES_MAX {
        let message = format!("it is longer than {TEMPLATE_ARGUMENT_BYTES_MAX} bytes");
        return Err(Failure::invalid(field, message).with("limit", TEMPLATE_ARGUMENT_BYTES_MAX));
    }
    if text.contains('\0') {
        return Err(Failure::invalid(field, "it may not hold a zero"));
    }
    Ok(text)
}

fn work(field: &str, step: StepOrder) -> Result<Work, Failure> {
    let StepOrder { kind, args, files_hash, .. } = step;
    let wrong = |name: &str, why: &str| Failure::invalid(&format!("{field}.{name}"), why.to_owned());
    if args.len() > TEMPLATE_ARGUMENTS_MAX {
        return Err(wrong("args", &format!("a step has at most {TEMPLATE_ARGUMENTS_MAX} arguments")));
    }
    let mut given = Vec::with_capacity(args.len());
    for argument in args {
        given.push(bounded(&format!("{field}.args"), argument)?);
    }
    let at = |place: usize| given.get(place).filter(|text| !text.is_empty()).cloned();
    let needed = |what: &str| at(0).ok_or_else(|| wrong("args", &format!("{what} is needed")));
    match kind.to_ascii_uppercase().as_str() {
        "RUN" => Ok(Work::Run { command: needed("a command")?, user: at(1) }),
        "COPY" | "ADD" => {
            let target = at(1).ok_or_else(|| wrong("args", "a source and a target are needed"))?;
            let source = source(&needed("a source")?)
                .ok_or_else(|| wrong("args", "the source leads out of the folder that was uploaded"))?;
            let mode = at(3);
            let is_octal = |mode: &String| mode.len() <= 5 && mode.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
            if mode.as_ref().is_some_and(|mode| !is_octal(mode)) {
                return Err(wrong("args", "a mode is up to four octal digits"));
            }
            let owner = at(2);
            if owner.as_deref().is_some_and(|owner| !is_owner(owner)) {
                return Err(wrong("args", "an owner is a user, or a user and a group with ':' between them"));
            }
            let files = files_hash.filter(|hash| is_hash(hash));
            let files = files.ok_or_else(|| wrong("filesHash", "64 hexadecimal digits in lower case are needed"))?;
            Ok(Work::Copy(Copy { source, target, owner, mode, files }))
        }
        "ENV" | "ARG" => {
            if given.is_empty() || given.len() % 2 != 0 || given.len() > 2 * TEMPLATE_ENVIRONMENT_MAX {
                return Err(wrong("args", "names and values are needed, in turn"));
            }
            let pairs: Vec<_> = given.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            if pairs.iter().any(|(name, _)| name.is_empty() || name.contains('=')) {
                return Err(wrong("args", "a variable's name is not empty and holds no '='"));
            }
            Ok(Work::Env(pairs))
        }
        "WORKDIR" => Ok(Work::Workdir(needed("a path")?)),
        "USER" => {
            let name = needed("a user")?;
            if !is_owner(&name) {
                return Err(wrong("args", "a user's name holds letters, digits, '.', '_', '-'"));
            }
            Ok(Work::User { name, sudo: at(1).as_deref() == Some("true") })
        }
        _ => Err(wrong("type", &format!("{kind:?} is none of RUN, COPY, ENV, WORKDIR, USER"))),
    }
}

/// A name or number, or two of them with a colon between; nothing that a program takes for an option.
fn is_owner(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name = |part: &str| !part.is_empty() && !part.starts_with('-') && part.len() <= 64 && part.chars().all(good);
    match text.split_once(':') {
        Some((user, group)) => name(user) && name(group),
        None => name(text),
    }
}

/// Whether a text is what E2B's SDKs name an upload by.
#[must_use]
pub fn is_hash(text: &str) -> bool {
    text.len() == HASH_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The path before the first component with a pattern: the SDK has looked for what fits it. None where it leads out.
fn source(text: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/').take_while(|part| !part.contains(['*', '?', '[', '{', '\\'])) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

/// The key of a base.
#[must_use]
pub fn base_key(image: &str) -> String {
    digest(&(STEPS_VERSION, std::env::consts::ARCH, "base", image))
}

/// The key of a step behind another one. `content` is the digest of what was uploaded for it: the name of an upload is what its
/// sender says.
#[must_use]
pub fn key(before: &str, work: &Work, content: Option<&str>) -> String {
    digest(&(STEPS_VERSION, before, work, content))
}

fn digest(made_from: &impl Serialize) -> String {
    // Texts, numbers and lists of them: there is nothing in it that cannot be written.
    Digest::of(&serde_json::to_vec(made_from).unwrap_or_default()).hex().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan(order: Value) -> Result<Plan, Failure> {
        serde_json::from_value::<Order>(order).unwrap().check()
    }

    fn of_step(step: Value) -> Result<Work, Failure> {
        plan(json!({"fromImage": "x", "steps": [step]})).map(|mut plan| plan.steps.remove(0).work)
    }

    #[test]
    fn steps_are_read_as_the_builder_sends_them() {
        let hash = "ab".repeat(32);
        let run = of_step(json!({"type": "RUN", "args": ["echo a && echo b", "root"], "force": false})).unwrap();
        assert_eq!(run, Work::Run { command: "echo a && echo b".to_owned(), user: Some("root".to_owned()) });
        let copied = |source: &str| {
            let step = json!({"type": "COPY", "args": [source, "/app/", "", "0644"], "filesHash": hash});
            of_step(step).map(|work| match work {
                Work::Copy(copy) => (copy.source, copy.owner, copy.mode),
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(copied("src/*.py").unwrap(), ("src".to_owned(), None, Some("0644".to_owned())));
        assert_eq!(copied("./a/../b.txt").unwrap().0, "b.txt");
        assert_eq!(copied("*.txt").unwrap().0, ".");
        assert!(copied("../x").is_err());
        let env = of_step(json!({"type": "ENV", "args": ["A", "1", "B", ""]})).unwrap();
        assert_eq!(env, Work::Env(vec![("A".into(), "1".into()), ("B".into(), String::new())]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let hash = "ab".repeat(32);
        for (step, field) in [
            (json!({"type": "FETCH", "args": []}), "steps[0].type"),
            (json!({"type": "RUN", "args": []}), "steps[0].args"),
            (json!({"type": "COPY", "args": ["a", "/b"]}), "steps[0].filesHash"),
            (json!({"type": "COPY", "args": ["a", "/b"], "filesHash": "../../x"}), "steps[0].filesHash"),
            (json!({"type": "COPY", "args": ["a", "/b", "", "u+x"], "filesHash": hash}), "steps[0].args"),
            (json!({"type": "COPY", "args": ["a", "/b", "--reference=/x"], "filesHash": hash}), "steps[0].args"),
            (json!({"type": "ENV", "args": ["A"]}), "steps[0].args"),
            (json!({"type": "ENV", "args": ["A=B", "1"]}), "steps[0].args"),
            (json!({"type": "USER", "args": ["-x"]}), "steps[0].args"),
            (json!({"type": "USER", "args": ["a; id"]}), "steps[0].args"),
            (json!({"type": "RUN", "args": ["x".repeat(TEMPLATE_ARGUMENT_BYTES_MAX + 1)]}), "steps[0].args"),
        ] {
            let failure = of_step(step.clone()).unwrap_err();
            assert_eq!(failure.context["field"], field, "{step}: {failure}");
        }
        let registry = |kind: &str| plan(json!({"fromImage": "x", "fromImageRegistry": {"type": kind}}));
        assert_eq!(registry("aws").unwrap_err().context["feature"], "templates.fromImageRegistry");
        for order in [json!({}), json!({"fromImage": "x", "fromTemplate": "y"}), json!({"fromImage": ""})] {
            assert_eq!(plan(order).unwrap_err().context["field"], "fromImage");
        }
    }

    #[test]
    fn a_change_changes_the_keys_of_its_step_and_those_that_follow() {
        let keys = |commands: &[&str], content: &str| {
            let copy = Work::Copy(Copy {
                source: ".".into(),
                target: "/app".into(),
                owner: None,
                mode: None,
                files: "ab".repeat(32),
            });
            let mut keys = vec![key(&base_key("sha256:1"), &copy, Some(content))];
            for command in commands {
                let run = Work::Run { command: (*command).to_owned(), user: None };
                keys.push(key(keys.last().unwrap(), &run, None));
            }
            keys
        };
        let before = keys(&["a", "b", "c"], "1");
        let same = |after: &[String]| before.iter().zip(after).take_while(|(one, other)| one == other).count();
        assert_eq!(same(&keys(&["a", "b", "c"], "1")), 4);
        assert_eq!(same(&keys(&["a", "x", "c"], "1")), 2);
        assert_eq!(same(&keys(&["a", "b", "c"], "2")), 0, "what was uploaded counts, not what it is called");
    }

    #[test]
    fn force_holds_from_its_step_on() {
        let order = json!({"fromImage": "x", "steps": [
            {"type": "RUN", "args": ["a"]}, {"type": "RUN", "args": ["b"], "force": true}, {"type": "RUN", "args": ["c"]},
        ]});
        let plan = plan(order).unwrap();
        assert_eq!(plan.steps.iter().map(|step| step.force).collect::<Vec<_>>(), [false, true, true]);
    }
}
