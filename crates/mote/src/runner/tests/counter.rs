//! A tool that tests count with.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use crate::model::ToolDefinition;
use crate::tools::{Effect, Failure, FailureKind, Invocation, Output, Progress, Tool};

/// A tool that counts its attempts and fails the first `failures` of them.
pub(in crate::runner) struct Counter {
    definition: ToolDefinition,
    effect: Effect,
    approval: bool,
    failures: u32,
    pub(super) attempts: AtomicU32,
    pub(super) keys: Mutex<Vec<String>>,
}

impl Counter {
    pub(super) fn new(name: &str, effect: Effect, failures: u32, approval: bool) -> Arc<Self> {
        let input_schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let definition = ToolDefinition { name: name.into(), description: String::new(), input_schema };
        let (attempts, keys) = (AtomicU32::new(0), Mutex::new(Vec::new()));
        Arc::new(Self { definition, effect, approval, failures, attempts, keys })
    }
}

#[async_trait]
impl Tool for Counter {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }
    fn effect(&self) -> Effect {
        self.effect
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }
    fn key_ttl(&self) -> Option<Duration> {
        None
    }
    fn needs_approval(&self) -> bool {
        self.approval
    }
    fn digest(&self) -> [u8; 32] {
        [1; 32]
    }
    async fn call(&self, invocation: Invocation) -> Result<Progress, Failure> {
        self.keys.lock().unwrap().push(invocation.key);
        if self.attempts.fetch_add(1, Ordering::SeqCst) < self.failures {
            let (kind, tool) = (FailureKind::Unknown, self.definition.name.clone());
            return Err(Failure { kind, tool, message: "reset".into(), retry_after: None });
        }
        Ok(Output::free("done", false).into())
    }
}
