//! The contexts of one sandbox, those that an earlier daemon left included.
//!
//! It does not run cells: `execution` does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_sandbox_api::error::{Code, Failure};
use tokio::sync::OnceCell;

use super::context::{Context, SharedClockHandle};
use super::{Language, TAG};
use crate::clock::new_id;
use crate::guest::Guest;
use crate::limits::CODE_CONTEXTS_MAX;

/// The contexts of one sandbox.
#[derive(Debug)]
pub(super) struct Room {
    clock: SharedClockHandle,
    contexts: Mutex<Vec<Arc<Context>>>,
    adopted: OnceCell<()>,
    /// One is made at a time, so that a language has one default context.
    making: tokio::sync::Mutex<()>,
}

impl Room {
    pub(super) fn new(clock: SharedClockHandle) -> Self {
        Self { clock, contexts: Mutex::default(), adopted: OnceCell::new(), making: tokio::sync::Mutex::default() }
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
                match Context::adopt(guest, self.clock.clone(), (id, language, is_default), place).await {
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

    pub(super) fn all(&self) -> Vec<Arc<Context>> {
        self.contexts().clone()
    }

    pub(super) fn context(&self, id: &str) -> Result<Arc<Context>, Failure> {
        let found = self.contexts().iter().find(|context| context.id == id).cloned();
        found.ok_or_else(|| Failure::not_found("code context", id))
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
        let id = new_id("cx")?;
        debug_assert!(!id.contains(':'), "tags that begin with {TAG} are split at colons");
        let context = Context::start(guest, self.clock.clone(), (id, language, is_default), cwd).await?;
        let context = Arc::new(context);
        self.contexts().push(Arc::clone(&context));
        Ok(context)
    }
}
