//! What `mote check` says of a file: messages, places, hints.

use std::path::{Path, PathBuf};

use super::load::from_text;
use super::*;
use crate::tools::Effect;

const GOOD: &str = r#"apiVersion: mote/v1
kind: Agent
name: support-triage
version: 1.4.0
prompt: Sort the ticket.
model:
  provider: anthropic
  name: claude-sonnet-5
  base_url: http://127.0.0.1:9999
tools:
  - name: get_ticket
    description: Reads a ticket.
    http: {method: GET, url: "https://tickets.internal/{id}"}
    input: {type: object, required: [id], properties: {id: {type: string}}}
    effect: read
    timeout: 10s
  - builtin: wait_until
limits: {steps: 10, active: 5m}
budget: {per_run: {usd: 0.50, tokens: 200k}, agent: {usd: 100, every: 1d}}
context: {window: 120k, reserve: 8k}
state: sqlite
server: {listen: "127.0.0.1:8080"}
telemetry: {otlp: "http://127.0.0.1:4318", content: off}
"#;

pub(super) fn parse(text: &str) -> Result<Loaded, Vec<Diagnostic>> {
    from_text(text, Path::new("/nonexistent"), &Options { compile_schemas: true, ..Options::default() })
}

pub(super) fn rendered(list: &[Diagnostic]) -> Vec<String> {
    list.iter().map(|diagnostic| diagnostic.render(Path::new("agent.yaml"))).collect()
}

/// Every error of the text, as it is printed.
#[track_caller]
pub(super) fn check(text: &str, expected: &[&str]) {
    let found = parse(text).err().map(|list| rendered(&list)).unwrap_or_default();
    let expected: Vec<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    assert_eq!(found, expected, "found:\n{}", found.join("\n"));
}

/// The good file with one line replaced.
pub(super) fn with(line: &str, replacement: &str) -> String {
    assert!(GOOD.contains(line), "{line}");
    GOOD.replacen(line, replacement, 1)
}

#[test]
fn every_limit_the_endpoint_of_telemetry_and_what_a_change_does_are_read_as_they_are_written() {
    let limits = "limits: {steps: 7, tool_calls: 8, parallel: 3, active: 9s, expires: 2h}";
    let telemetry = "telemetry: {otlp: \"http://127.0.0.1:4999\", content: on}";
    for (written, expected) in [("continue", OnChange::Continue), ("fail", OnChange::Fail)] {
        let text = with("limits: {steps: 10, active: 5m}", limits)
            .replace("telemetry: {otlp: \"http://127.0.0.1:4318\", content: off}", telemetry);
        let agent = parse(&format!("{text}on_change: {written}\n")).unwrap().agent;
        let read = agent.limits;
        assert_eq!((read.steps, read.tool_calls, read.parallel), (7, 8, 3));
        assert_eq!((read.active, read.expires), (Duration::from_secs(9), Duration::from_secs(7200)));
        assert_eq!((agent.telemetry.otlp.as_deref(), agent.telemetry.content), (Some("http://127.0.0.1:4999"), true));
        assert_eq!(agent.on_change, expected);
    }
    let unknown = rendered(&parse(&format!("{GOOD}on_change: perhaps\n")).unwrap_err());
    assert!(unknown[0].contains("on_change") && unknown[0].contains("`continue`"), "{unknown:?}");
}

#[test]
fn a_good_file_is_accepted() {
    let agent = parse(GOOD).unwrap().agent;
    assert_eq!(agent.name, "support-triage");
    assert_eq!(agent.limits.steps, 10);
    assert_eq!(agent.limits.active, Duration::from_secs(300));
    assert_eq!(agent.limits.tool_calls, 60);
    assert_eq!(agent.budget.per_run, Bound { nano_usd: Some(500_000_000), tokens: Some(200_000) });
    assert_eq!(agent.budget.agent.map(|window| window.every), Some(Duration::from_secs(86_400)));
    assert_eq!(agent.tools[0].effect, Effect::Read);
    assert_eq!(agent.builtins, [Builtin::WaitUntil]);
    assert_eq!(agent.context, Context { window: 120_000, reserve: 8_000, low_water: 60 });
    assert!(!agent.telemetry.content);
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    let text = r#"apiVersion: mote/v2
kind: Agent
name: Support Triage
version: 1.4
prompt: {file: missing.md}
model:
  provider: antropic
  timout: 10s
  timeout: 10
tools:
  - name: get_ticket
    description: Reads a ticket.
    http: {url: "https://tickets.internal/{ticket}"}
    input: {type: object, properties: {id: {type: strin}}}
    timeout: soon
  - name: get_ticket
    description: Again.
    http: {url: "https://tickets.internal/all", method: DELETE}
    input: {type: object}
    effect: read
limits: {steps: 0}
budgets: {}
"#;
    check(
        text,
        &[
            "agent.yaml:1:13: error: apiVersion: must be `mote/v1`",
            "agent.yaml:3:7: error: name: must be lower-case letters, digits and hyphens, at most 63, starting and ending with a letter or digit",
            "agent.yaml:4:10: error: version: must be text, not a number\n    hint: a version is text: put it in quotes, such as \"1.4.0\"",
            "agent.yaml:5:16: error: prompt.file: failed to read /nonexistent/missing.md: No such file or directory (os error 2)\n    hint: a relative path starts at the folder of agent.yaml",
            "agent.yaml:7:13: error: model.provider: must be one of `anthropic`, `openai`, `scripted`, `cassette`\n    hint: did you mean `anthropic`?",
            "agent.yaml:8:3: error: model.timout: unknown field `timout`\n    hint: did you mean `timeout`?",
            "agent.yaml:9:12: error: model.timeout: must be text, not a number\n    hint: write a unit: 250ms, 10s, 5m, 2h or 30d",
            "agent.yaml:11:5: error: tools[0].effect: `effect` is missing\n    hint: say what repeating a call means: `effect: read`, `idempotent` or `write`; it decides what may be retried after a failure",
            "agent.yaml:13:17: error: tools[0].http.url: `{ticket}` is no property of `input`\n    hint: describe `ticket` under `input.properties`",
            "agent.yaml:14:51: error: tools[0].input.properties.id.type: `type` must be one of array, boolean, integer, null, number, object, string\n    hint: did you mean `string`?",
            "agent.yaml:15:14: error: tools[0].timeout: \"soon\" does not start with a number; write a duration such as 250ms, 10s, 5m, 2h or 30d",
            "agent.yaml:16:11: error: tools[1].name: two tools are named `get_ticket`",
            "agent.yaml:20:13: error: tools[1].effect: a DELETE request is not a `read`\n    hint: write `effect: idempotent` if the backend honours Idempotency-Key or the call may be repeated, else `effect: write`",
            "agent.yaml:21:17: error: limits.steps: must be from 1 to 100000",
            "agent.yaml:22:1: error: budgets: unknown field `budgets`\n    hint: did you mean `budget`?",
        ],
    );
}

#[test]
fn an_inline_key_is_refused_and_not_repeated() {
    let text = with("  name: claude-sonnet-5\n", "  name: claude-sonnet-5\n  key: sk-ant-123\n");
    let shown = rendered(&parse(&text).unwrap_err());
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].starts_with(
        "agent.yaml:9:8: error: model.key: must be a mapping, not text\n    hint: a secret is never written"
    ));
    assert!(!shown[0].contains("sk-ant-123"));
    let text = with(
        "\"https://tickets.internal/{id}\"}",
        "\"https://tickets.internal/{id}\", headers: {Authorization: Bearer sk-1}}",
    );
    let shown = rendered(&parse(&text).unwrap_err());
    assert!(shown[0].contains("`authorization` carries a secret, which stands here in the open"), "{shown:?}");
    assert!(!shown[0].contains("sk-1"));
}

#[test]
fn url_templates_agree_with_the_schema() {
    let check_url = |url: &str, expected: &str| {
        check(
            &with("https://tickets.internal/{id}", url),
            &[&format!("agent.yaml:13:30: error: tools[0].http.url: {expected}")],
        );
    };
    check_url(
        "https://{id}.internal/",
        "the scheme, host and port of a tool's URL are fixed; `{…}` may stand in the path and the query only",
    );
    check_url("https://tickets.internal/{id", "`{` without `}` behind it");
    check_url("ftp://tickets.internal/{id}", "must be an http or https URL, not ftp");
    check_url(
        "https://me:pw@tickets.internal/{id}",
        "a URL must not hold credentials\n    hint: send credentials in a header: `authorization: {env: VARIABLE, prefix: \"Bearer \"}`",
    );
    check_url("https://tickets.internal/{Id}", "`{Id}` is no property of `input`\n    hint: did you mean `{id}`?");
    check(
        &with("required: [id], ", ""),
        &[
            "agent.yaml:13:30: error: tools[0].http.url: `{id}` is not in `input.required`\n    hint: add it: `required: [id]`",
        ],
    );
}

#[test]
fn providers_know_their_fields() {
    check(
        &with("  base_url: http://127.0.0.1:9999\n", ""),
        &[
            "agent.yaml:7:3: error: model: https://api.anthropic.com needs a key\n    hint: write `key: {env: ANTHROPIC_API_KEY}`, or a `base_url` of an endpoint that needs none",
        ],
    );
    check(
        &with("  name: claude-sonnet-5\n", "  plan: plan.yaml\n"),
        &[
            "agent.yaml:7:3: error: model: provider `anthropic` needs `name`",
            "agent.yaml:8:9: error: model.plan: provider `anthropic` has no `plan`",
        ],
    );
}

#[test]
fn a_window_must_hold_something() {
    check(
        &with("window: 120k, reserve: 8k", "window: 12k, reserve: 8k"),
        &[
            "agent.yaml:20:19: error: context.window: a window of 12000 tokens leaves nothing for the transcript: `reserve` takes 8000, the reply (`output_max`) 4000\n    hint: give the model's whole window, or lower the other two",
        ],
    );
}

#[test]
fn an_open_address_needs_a_word_about_auth() {
    let open = with("127.0.0.1:8080", "0.0.0.0:8080");
    let shown = rendered(&parse(&open).unwrap_err());
    assert!(
        shown[0].contains("22:18: error: server.listen: 0.0.0.0:8080 is open to others and nothing is said of `auth`"),
        "{shown:?}"
    );
    let waived = parse(&format!("{open}auth: none\n")).unwrap();
    assert!(waived.warnings.iter().any(|warning| warning.message.contains("everybody who reaches 0.0.0.0:8080")));
    // The command line is held to the same rule.
    let options = Options { listen: Some("0.0.0.0:80".parse().unwrap()), ..Options::default() };
    assert!(from_text(GOOD, Path::new("."), &options).is_err());
}

#[test]
fn empty_fields_repeated_keys_and_bad_patterns_are_refused() {
    check(
        &with("state: sqlite\n", "state: sqlite\noutput:\n"),
        &["agent.yaml:22:7: error: output: must be a mapping, not empty"],
    );
    check(
        &with("state: sqlite\n", "state: sqlite\nstate: sqlite\n"),
        &["agent.yaml:22:1: error: state: `state` is written twice"],
    );
    let text = with("{id: {type: string}}", "{id: {type: string, pattern: \"[\"}}");
    let shown = rendered(&parse(&text).unwrap_err());
    assert!(shown[0].starts_with("agent.yaml:14:12: error: tools[0].input: is not a usable JSON Schema"), "{shown:?}");
}

#[test]
fn not_even_a_mapping() {
    check(
        "just text\n",
        &[
            "agent.yaml:1:1: error: must be a mapping, not text\n    hint: an agent.yaml is a mapping; see docs/agent-yaml.md",
        ],
    );
}

#[test]
fn a_budget_in_usd_that_a_model_without_a_price_never_reaches_is_refused() {
    let text = GOOD.replace("claude-sonnet-5", "my-llm");
    let said = |bound: &str| {
        let message = "bounds nothing: the price of `my-llm` is not known, its cost counts as 0";
        let hint = "give the model a `price: {input: …, output: …}` in USD per million tokens (zeros if it is free), or bound `tokens`";
        format!("{bound}.usd: {message}\n    hint: {hint}")
    };
    let found = rendered(&parse(&text).unwrap_err());
    assert_eq!(found.len(), 2, "{found:?}");
    for (found, bound) in found.iter().zip(["budget.per_run", "budget.agent"]) {
        assert!(found.ends_with(&said(bound)), "{found}");
    }
    let free = text.replace("  name: my-llm\n", "  name: my-llm\n  price: {input: 0, output: 0}\n");
    assert!(parse(&free).is_ok());
}

/// The good file with a model of the command line.
fn chosen(text: &str, model: &str, price: Option<&str>) -> Result<Loaded, Vec<Diagnostic>> {
    let mut choice = ModelChoice::parse(model, Some("http://127.0.0.1:11434/v1".to_owned())).unwrap();
    choice.price = price.map(|price| ModelChoice::parse_price(price).unwrap());
    from_text(text, Path::new("/nonexistent"), &Options { model: Some(choice), ..Options::default() })
}

#[test]
fn another_endpoint_does_not_switch_a_bound_on_money_off() {
    let price = |loaded: Result<Loaded, Vec<Diagnostic>>| loaded.unwrap().agent.models[0].price;
    let found = rendered(&chosen(GOOD, "openai/llama3.2", None).unwrap_err());
    let told = "error: --model openai/llama3.2: its price is not known, so that `budget.per_run.usd` would bound nothing\n    \
                hint: add --price INPUT,OUTPUT in USD per million tokens (--price 0 if it is free), or bound `tokens` \
                instead of `usd`";
    assert_eq!((found[0].as_str(), found.len()), (told, 2), "a bound each: {found:?}");
    let given = price(chosen(GOOD, "openai/llama3.2", Some("0.5,2")));
    assert_eq!((given.input, given.output), (500, 2_000));
    assert_eq!(price(chosen(GOOD, "openai/llama3.2", Some("0"))), Price::default());
    // The same model elsewhere keeps the price that the file has for it, as primary or as fallback.
    let priced = with("  name: claude-sonnet-5\n", "  name: my-llm\n  price: {input: 3, output: 9}\n");
    assert_eq!(price(chosen(&priced, "openai/my-llm", None)).output, 9_000);
    let fallback = "  base_url: http://127.0.0.1:9999\n  fallback: [{provider: openai, name: my-llm, base_url: \"http://127.0.0.1:1\", \
                    price: {input: 3, output: 9}}]\n";
    let fallback = with("  base_url: http://127.0.0.1:9999\n", fallback);
    assert_eq!(price(chosen(&fallback, "openai/my-llm", None)).output, 9_000);
    // Tokens bound any model.
    let tokens =
        GOOD.replace("{per_run: {usd: 0.50, tokens: 200k}, agent: {usd: 100, every: 1d}}", "{per_run: {tokens: 9k}}");
    assert!(chosen(&tokens, "openai/llama3.2", None).is_ok());
    for wrong in ["", "1,", "x", "1,2,3", "-1", "1;2"] {
        assert!(ModelChoice::parse_price(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn every_unpriced_model_of_a_chain_is_named() {
    let wrong = with(
        "  base_url: http://127.0.0.1:9999\n",
        "  base_url: http://127.0.0.1:9999\n  fallback:\n    - {provider: openai, name: one, base_url: \"http://127.0.0.1:1\"}\n    \
         - {provider: cassette, file: tape, record: {provider: openai, name: two, base_url: \"http://127.0.0.1:2\"}}\n",
    );
    let found = rendered(&parse(&wrong).unwrap_err()).join("\n");
    assert!(found.contains("the price of `one` is not known"), "{found}");
    // What is recorded is paid for.
    assert!(found.contains("the price of `cassette` is not known"), "{found}");
    let recorded = with(
        "  base_url: http://127.0.0.1:9999\n",
        "  base_url: http://127.0.0.1:9999\n  fallback: [{provider: cassette, file: tape, record: {provider: anthropic, name: \
         claude-sonnet-5, base_url: \"http://127.0.0.1:2\"}}]\n",
    );
    let models = parse(&recorded).unwrap().agent.models;
    assert_eq!(models[1].price, models[0].price);
}

#[test]
fn a_wrong_argument_is_blamed_and_not_the_file() {
    let options = Options { listen: Some("0.0.0.0:80".parse().unwrap()), ..Options::default() };
    let open = from_text(GOOD, Path::new("."), &options).unwrap_err();
    assert!(rendered(&open)[0].starts_with("error: --listen 0.0.0.0:80: "), "{open:?}");
    let choice = ModelChoice::parse("openai/claude-sonnet-5", Some("nonsense".to_owned())).unwrap();
    let options = Options { model: Some(choice), ..Options::default() };
    let wrong = from_text(GOOD, Path::new("."), &options).unwrap_err();
    assert!(rendered(&wrong)[0].starts_with("error: --base-url nonsense: is not a URL"), "{wrong:?}");
    // What the file says wrongly stays the file's.
    let file =
        from_text(&with("listen: \"127.0.0.1:8080\"", "listen: \"0.0.0.0:8080\""), Path::new("."), &Options::default());
    assert!(rendered(&file.unwrap_err())[0].starts_with("agent.yaml:22:"));
}

#[test]
fn warnings_say_what_production_wants() {
    let text = with("    effect: read\n", "    effect: write\n")
        .replace("budget: {per_run: {usd: 0.50, tokens: 200k}, agent: {usd: 100", "budget: {agent: {tokens: 9M")
        .replace("claude-sonnet-5", "claude-test");
    let text = text
        .replace("https://tickets", "http://tickets")
        .replace("telemetry: {otlp: \"http://127.0.0.1:4318\", content: off}\n", "");
    let messages: Vec<String> = parse(&text).unwrap().warnings.into_iter().map(|warning| warning.message).collect();
    for expected in [
        "`get_ticket` writes without a person's approval",
        "plain HTTP to tickets.internal: readable on the way",
        "nothing bounds what a run may spend",
        "no traces are sent",
        "the price of `claude-test` is not known: its cost counts as 0, and no budget in USD applies",
    ] {
        assert!(messages.iter().any(|message| message == expected), "{expected}: {messages:?}");
    }
}

#[test]
fn the_digest_covers_what_the_agent_can_do_and_nothing_else() {
    let digest = |text: &str| parse(text).unwrap().agent.digest;
    let original = digest(GOOD);
    for (line, replacement) in [
        ("Sort the ticket.", "Sort the tickets."),
        ("name: claude-sonnet-5", "name: claude-sonnet-4-5"),
        ("timeout: 10s", "timeout: 11s"),
        ("steps: 10", "steps: 11"),
        ("usd: 0.50", "usd: 0.51"),
        ("window: 120k", "window: 121k"),
        ("  - builtin: wait_until\n", ""),
    ] {
        assert_ne!(digest(&with(line, replacement)), original, "{line}");
    }
    for (line, replacement) in [
        ("127.0.0.1:8080", "127.0.0.1:8081"),
        ("127.0.0.1:4318", "127.0.0.1:4319"),
        ("name: claude-sonnet-5", "name: claude-sonnet-5 # the same"),
        ("  provider: anthropic\n  name: claude-sonnet-5", "  name: claude-sonnet-5\n  provider: anthropic"),
        ("timeout: 10s", "timeout: 10000ms"),
    ] {
        assert_eq!(digest(&with(line, replacement)), original, "{line}");
    }
}

#[test]
fn the_command_line_replaces_the_model() {
    let agent = chosen(GOOD, "openai/org/model", Some("0")).unwrap().agent;
    assert_eq!(agent.models[0].name, "org/model");
    assert_eq!(agent.models[0].provider, Provider::OpenAi);
    assert_eq!(agent.models[0].base_url, "http://127.0.0.1:11434/v1");
    assert!(ModelChoice::parse("gpt", None).is_err());
    assert!(ModelChoice::parse("mistral/x", None).is_err());
}

#[test]
fn a_folder_means_its_agent_yaml() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(file_of(folder), folder.join("agent.yaml"));
    assert_eq!(file_of(Path::new("other.yaml")), PathBuf::from("other.yaml"));
    let missing = load(Path::new("/nonexistent/agent.yaml")).unwrap_err();
    assert!(missing[0].message.starts_with("failed to read /nonexistent/agent.yaml"), "{missing:?}");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

#[test]
fn the_quickstart_is_valid() {
    let loaded = load(&repository("examples/quickstart")).map_err(|list| rendered(&list)).unwrap();
    assert!(matches!(loaded.agent.models[0].provider, Provider::Scripted { .. }));
    assert!(loaded.agent.tools.iter().any(|tool| tool.effect == Effect::Idempotent));
}

#[test]
fn the_documented_file_is_valid_and_every_field_is_documented() {
    let document = std::fs::read_to_string(repository("docs/agent-yaml.md")).unwrap();
    let example = document.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    parse(example).map_err(|list| rendered(&list)).unwrap();
    fn properties(schema: &serde_json::Value, names: &mut Vec<String>) {
        if let Some(map) = schema["properties"].as_object() {
            names.extend(map.keys().cloned());
        }
        match schema {
            serde_json::Value::Object(map) => map.values().for_each(|below| properties(below, names)),
            serde_json::Value::Array(list) => list.iter().for_each(|below| properties(below, names)),
            _ => {}
        }
    }
    let mut names = Vec::new();
    properties(&serde_json::from_str(json_schema::JSON_SCHEMA).unwrap(), &mut names);
    assert!(names.len() > 60, "{names:?}");
    let missing: Vec<&String> = names
        .iter()
        .filter(|name| !document.contains(&format!("`{name}`")) && !document.contains(&format!("{name}:")))
        .collect();
    assert!(missing.is_empty(), "docs/agent-yaml.md does not mention {missing:?}");
}

#[test]
fn the_order_of_properties_is_kept_and_changes_no_digest() {
    let line = r#"    input: {type: object, required: [id], properties: {id: {type: string}}}"#;
    let agent = |input: &str| parse(&with(line, &format!("    input: {input}"))).unwrap().agent;
    let one = agent("{type: object, required: [id], properties: {id: {type: string}, a: {type: string}}}");
    let other = agent("{properties: {a: {type: string}, id: {type: string}}, required: [id], type: object}");
    let keys =
        |agent: &Agent| agent.tools[0].input["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((keys(&one), keys(&other)), (vec!["id".into(), "a".into()], vec!["a".into(), "id".into()]));
    assert_eq!(one.digest, other.digest);
    assert_ne!(one.digest, agent("{type: object, required: [id], properties: {id: {type: string}}}").digest);
}
