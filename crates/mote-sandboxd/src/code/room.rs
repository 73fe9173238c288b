//! The contexts of one sandbox, those that an earlier daemon left included.
//!
//! It does not run cells: `execution` does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use mote_sandbox_api::guest::FileTarget;
use tokio::sync::OnceCell;

use super::context::{Context, Equipment};
use super::{About, Dead, Language, TAG};
use crate::clock::new_id;
use crate::guest::Guest;
use crate::limits::CODE_CONTEXTS_MAX;

/// The contexts of one sandbox.
#[derive(Debug)]
pub(super) struct Room {
    equipment: Equipment,
    contexts: Mutex<Vec<Arc<Context>>>,
    adopted: OnceCell<()>,
    /// One is made at a time, so that a language has one default context.
    making: tokio::sync::Mutex<()>,
    /// Where contexts begin that are told no other place: the home of the sandbox's user.
    home: OnceCell<String>,
}

/// Languages whose default contexts are listed before anybody uses them, as E2B's server starts them.
const LISTED: [Language; 2] = [Language::Python, Language::JavaScript];

/// The id of a language's default context.
fn default_id(language: Language) -> String {
    format!("default-{}", language.name())
}

/// The language whose default context has this id.
fn default_of(id: &str) -> Option<Language> {
    [Language::Python, Language::JavaScript, Language::Bash].into_iter().find(|language| default_id(*language) == id)
}

impl Room {
    pub(super) fn new(equipment: Equipment) -> Self {
        Self {
            equipment,
            contexts: Mutex::default(),
            adopted: OnceCell::new(),
            making: tokio::sync::Mutex::default(),
            home: OnceCell::new(),
        }
    }

    fn contexts(&self) -> MutexGuard<'_, Vec<Arc<Context>>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing lives in it: the sandbox is gone, or never ran code.
    pub(super) fn is_abandoned(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && !self.contexts().iter().any(|context| context.is_alive())
    }

    /// Finds the contexts that are there already, once.
    pub(super) async fn adopt(&self, guest: &Guest) -> Result<(), Failure> {
        let finding = async {
            for process in guest.processes().await? {
                let Some((language, id, is_default)) = process.tag.as_deref().and_then(Language::of_tag) else {
                    continue;
                };
                let place = (process.pid, process.cwd);
                match Context::adopt(guest, self.equipment.clone(), (id, language, is_default), place).await {
                    Ok(context) => self.contexts().push(Arc::new(context)),
                    // It ended between the list and now.
                    Err(failure) if failure.code == Code::NotFound => {}
                    Err(failure) => return Err(failure),
                }
            }
            Ok(())
        };
        self.adopted.get_or_try_init(|| finding).await.copied()
    }

    /// The default contexts, begun or not, and then the others in the order in which they were made.
    pub(super) async fn list(&self, guest: &Guest) -> Result<Vec<About>, Failure> {
        let known = self.contexts().clone();
        let (defaults, own): (Vec<_>, Vec<_>) = known.into_iter().partition(|context| context.is_default);
        let mut listed: Vec<About> = defaults.iter().map(|context| context.about()).collect();
        for language in LISTED.into_iter().filter(|language| !defaults.iter().any(|each| each.language == *language)) {
            listed.push(About { id: default_id(language), language, cwd: self.home(guest).await? });
        }
        listed.sort_by_key(|about| about.language);
        listed.extend(own.iter().map(|context| context.about()));
        Ok(listed)
    }

    async fn home(&self, guest: &Guest) -> Result<String, Failure> {
        let find = async {
            let target = FileTarget::new("~", None);
            Ok(guest.stat(target).await?.path)
        };
        self.home.get_or_try_init(|| find).await.cloned()
    }

    /// A context by its id; nothing for a default one that has not begun.
    pub(super) fn known(&self, id: &str) -> Result<Option<Arc<Context>>, Failure> {
        let found = self.contexts().iter().find(|context| context.id == id).cloned();
        if found.is_none() && default_of(id).is_none() {
            return Err(Failure::not_found("code context", id));
        }
        Ok(found)
    }

    /// A context by its id, for a cell.
    pub(super) async fn context_for(&self, guest: &Guest, id: &str, dead: Dead) -> Result<Arc<Context>, Failure> {
        match (self.known(id)?, default_of(id)) {
            (Some(context), _) => {
                if dead == Dead::Revive {
                    context.revive(guest).await?;
                }
                Ok(context)
            }
            (None, Some(language)) => self.default_context(guest, language).await,
            (None, None) => Err(Failure::not_found("code context", id)),
        }
    }

    pub(super) fn forget(&self, id: &str) {
        self.contexts().retain(|context| context.id != id);
    }

    /// The context of a language that is used where none is named.
    pub(super) async fn default_context(&self, guest: &Guest, language: Language) -> Result<Arc<Context>, Failure> {
        let _making = self.making.lock().await;
        let known = self.contexts().iter().find(|context| context.is_default && context.language == language).cloned();
        match known {
            Some(context) => {
                context.revive(guest).await?;
                Ok(context)
            }
            None => self.make(guest, language, true, None).await,
        }
    }

    pub(super) async fn create(
        &self,
        guest: &Guest,
        language: Language,
        cwd: Option<String>,
    ) -> Result<Arc<Context>, Failure> {
        let _making = self.making.lock().await;
        self.make(guest, language, false, cwd).await
    }

    async fn make(
        &self,
        guest: &Guest,
        language: Language,
        is_default: bool,
        cwd: Option<String>,
    ) -> Result<Arc<Context>, Failure> {
        if self.contexts().len() >= CODE_CONTEXTS_MAX {
            let message = format!("the sandbox has {CODE_CONTEXTS_MAX} code contexts already");
            return Err(Failure::new(Code::Exhausted, message).with("limit", CODE_CONTEXTS_MAX));
        }
        let id = if is_default { default_id(language) } else { new_id("cx")? };
        debug_assert!(!id.contains(':'), "tags that begin with {TAG} are split at colons");
        let context = Context::start(guest, self.equipment.clone(), (id, language, is_default), cwd).await?;
        let context = Arc::new(context);
        self.contexts().push(Arc::clone(&context));
        Ok(context)
    }
}
