//! Tools that suspend their calls and tools that spend: registered from outside, and like any other to the rest.

use mote_core::Spend;

use super::*;
use crate::tools::{Answer, Resumption, Suspension, Wait};

/// A backend that asks before it acts, or works on by itself; it keeps nothing between the two but what it left in the journal.
struct Desk {
    definition: ToolDefinition,
    wait: Wait,
    until_ms: Option<u64>,
    /// What it was resumed with.
    resumed: Mutex<Vec<Resumption>>,
}

impl Desk {
    fn new(wait: Wait, until_ms: Option<u64>) -> Arc<Self> {
        let input_schema = json!({"type": "object"});
        let definition = ToolDefinition { name: "order".into(), description: String::new(), input_schema };
        Arc::new(Self { definition, wait, until_ms, resumed: Mutex::new(Vec::new()) })
    }
}

#[async_trait]
impl Tool for Desk {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }
    fn effect(&self) -> Effect {
        Effect::Write
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }
    fn key_ttl(&self) -> Option<Duration> {
        None
    }
    fn needs_approval(&self) -> bool {
        false
    }
    fn digest(&self) -> [u8; 32] {
        [3; 32]
    }
    async fn call(&self, _: Invocation) -> Result<Progress, Failure> {
        let until = self.until_ms.map(|ms| crate::clock::Clock::now_ms(&System) + ms);
        let asks = (self.wait != Wait::Remote).then(|| json!({"message": "how many?"}));
        Ok(Progress::Suspended(Suspension { wait: self.wait, until, asks, state: json!({"remote": "r-1"}) }))
    }
    async fn resume(&self, _: Invocation, resumption: Resumption) -> Result<Progress, Failure> {
        self.resumed.lock().unwrap().push(resumption);
        Ok(Output::free("ordered", false).into())
    }
}

fn tools(tool: &Arc<Desk>) -> Vec<Arc<dyn Tool>> {
    vec![Arc::clone(tool) as Arc<dyn Tool>]
}

fn world(agent: Agent, replies: Vec<Result<Reply, model::Error>>, tools: &[Arc<dyn Tool>]) -> World {
    World::with_tools(agent, replies, tools, None)
}

#[tokio::test]
async fn a_call_whose_backend_asks_a_person_rests_and_another_worker_goes_on_with_the_answer() {
    let (first, second) = (Desk::new(Wait::Input, None), Desk::new(Wait::Input, None));
    let world = world(agent(), vec![calls("order", json!({}))], &tools(&first));
    let task = world.submit(ask("go")).await;
    let waiting = world.reach(&task, |task| task.status == Status::Waiting).await.waiting.unwrap();
    let waiting: Value = serde_json::from_str(&waiting).unwrap();
    assert_eq!((&waiting[0]["kind"], &waiting[0]["tool"]), (&json!("question"), &json!("order")));
    assert_eq!(waiting[0]["asks"], json!({"message": "how many?"}));
    world.runner.drain(Duration::from_secs(5)).await;

    let (next, _model) = start_with(agent(), &world.store, vec![says("done")], &tools(&second));
    let answer = Mail::Input { call: None, approve: None, content: Some(json!(3)) };
    next.post(&task, answer).await.unwrap();
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"done\""));
    let went_on = Resumption { state: json!({"remote": "r-1"}), answer: Some(Answer::Said(json!(3))) };
    assert_eq!(*second.resumed.lock().unwrap(), [went_on]);
    assert!(first.resumed.lock().unwrap().is_empty());
    let effects = world.store.effects(&task).await.unwrap();
    assert_eq!((effects.len(), effects[0].outcome.as_str()), (1, "done"), "one effect, and its end is known");
}

#[tokio::test]
async fn work_elsewhere_is_asked_after_when_its_time_comes() {
    let desk = Desk::new(Wait::Remote, Some(50));
    let world = world(agent(), vec![calls("order", json!({})), says("done")], &tools(&desk));
    let task = world.submit(ask("go")).await;
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"done\""));
    assert_eq!(*desk.resumed.lock().unwrap(), [Resumption { state: json!({"remote": "r-1"}), answer: None }]);
    assert_eq!(results(&world.last_request()), ["ordered"]);
    let kinds = world.kinds(&task).await;
    assert!(kinds.contains(&"call.suspended".to_owned()), "{kinds:?}");
}

/// A tool that spends.
struct Agency {
    definition: ToolDefinition,
    spends: Spend,
}

#[async_trait]
impl Tool for Agency {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }
    fn effect(&self) -> Effect {
        Effect::Read
    }
    fn timeout(&self) -> Duration {
        Duration::from_secs(5)
    }
    fn key_ttl(&self) -> Option<Duration> {
        None
    }
    fn needs_approval(&self) -> bool {
        false
    }
    fn digest(&self) -> [u8; 32] {
        [4; 32]
    }
    fn spends(&self) -> Spend {
        self.spends
    }
    async fn call(&self, _: Invocation) -> Result<Progress, Failure> {
        let spend = Spend { input: 40, output: 2, nano_usd: 9_000 };
        Ok(Output { content: "advice".into(), is_error: false, spend }.into())
    }
}

fn agency(nano_usd: u64) -> Arc<dyn Tool> {
    let input_schema = json!({"type": "object"});
    let definition = ToolDefinition { name: "agency".into(), description: String::new(), input_schema };
    Arc::new(Agency { definition, spends: Spend { input: 100, output: 100, nano_usd } })
}

/// A shared budget of this much money an hour.
fn bounded(nano_usd: u64) -> Agent {
    let bound = Bound { nano_usd: Some(nano_usd), tokens: None };
    let every = Duration::from_secs(3_600);
    let budget = config::Budgets { agent: Some(Windowed { bound, every }), ..config::Budgets::default() };
    Agent { budget, ..agent() }
}

#[tokio::test]
async fn what_a_tool_spends_is_reserved_booked_and_attributed() {
    let replies = vec![calls("agency", json!({})), says("done")];
    let world = world(bounded(1_000_000_000), replies, &[agency(50_000)]);
    let task = world.submit(ask("go")).await;
    let task = world.end(&task).await;
    // Two replies at 100 tokens in and 10 out, and what the tool says.
    assert_eq!(task.cost_nano_usd, 2 * (100 * 1_000 + 10 * 5_000) + 9_000);
    assert_eq!((task.usage.input, task.usage.output), (240, 22));
}

#[tokio::test]
async fn a_shared_budget_that_does_not_carry_a_call_is_told_to_the_model_and_the_run_goes_on() {
    let replies = vec![calls("agency", json!({})), says("done")];
    let world = world(bounded(100_000_000), replies, &[agency(100_000_000)]);
    let task = world.submit(ask("go")).await;
    assert_eq!(world.end(&task).await.result.as_deref(), Some("\"done\""));
    let told = results(&world.last_request());
    assert!(told[0].starts_with("the call was not made: a budget does not carry"), "{told:?}");
    let kinds = world.kinds(&task).await;
    assert!(kinds.contains(&"budget.refused".to_owned()), "{kinds:?}");
}
