//! A tool whose calls stay under way for as long as a test likes.

use super::*;

/// A tool that its backend has and never answers, unless it is told to.
pub(super) struct Stuck {
    definition: ToolDefinition,
    effect: Effect,
    /// Told when the tool was called.
    pub(super) called: Notify,
    /// Lets it answer.
    pub(super) go: Notify,
}

impl Stuck {
    pub(super) fn new(name: &str, effect: Effect) -> Arc<Self> {
        let input_schema = json!({"type": "object"});
        let definition = ToolDefinition { name: name.into(), description: String::new(), input_schema };
        Arc::new(Self { definition, effect, called: Notify::new(), go: Notify::new() })
    }
}

#[async_trait]
impl Tool for Stuck {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }
    fn effect(&self) -> Effect {
        self.effect
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(60)
    }
    fn key_ttl(&self) -> Option<Duration> {
        None
    }
    fn needs_approval(&self) -> bool {
        false
    }
    fn digest(&self) -> [u8; 32] {
        [2; 32]
    }
    async fn call(&self, _invocation: Invocation) -> Result<Progress, Failure> {
        self.called.notify_one();
        self.go.notified().await;
        Ok(Output::free("done", false).into())
    }
}
