//! `mote task`: a client of a running service.
//!
//! A file each for the connection, for watching, for printing. It speaks HTTP alone and never touches the store.

mod again;
mod client;
mod print;
mod watch;

use std::io::Read;

use anyhow::Context;
use mote::limits::REQUEST_BODY_BYTES_MAX;
use serde_json::{Value, json};

use super::exit::Exit;
use super::terminal::{Style, Terminal};
use client::Client;
pub(crate) use client::segment;

/// The service that is asked where no other is named.
const URL: &str = "http://127.0.0.1:8080";

/// What is said of a task that a restored store holds back.
const HELD: &str = "the task is held until `mote store release`";

const AFTER_HELP: &str = "\
Every command takes --url and --key, or MOTE_URL and MOTE_KEY. A key in the environment does not
show in `ps`.

Examples:
  mote task submit \"Sort ticket 42\" --session s-42 --watch
  mote task list --status waiting
  mote task input task_01jx… --approve
  mote task signal task_01jx… ci-result --payload '{\"passed\": true}'

Exit codes: 0 done; 1 the task failed or was cancelled (watch, submit --watch); 3 not reachable
or overloaded; 4 refused by the service.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

// Not a doc comment, nor above `Answer`: it would stand in the help instead of the command's own.
// Where the service is, and how answers are printed.
#[derive(Debug, clap::Args)]
struct Connection {
    /// The service
    #[arg(long, global = true, env = "MOTE_URL", value_name = "URL", default_value = URL)]
    url: String,
    /// The API key
    #[arg(long, global = true, env = "MOTE_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print the service's JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Submit(Box<Submit>),
    /// Show a task
    Get(One),
    List(List),
    Watch(Watch),
    /// Cancel a task
    Cancel(One),
    Input(Input),
    Signal(Signal),
    /// Let a failed or cancelled task go on from its last good step
    Resume(One),
    Rerun(Rerun),
}

/// Give the service a task
#[derive(Debug, clap::Args)]
struct Submit {
    /// The task; `-` reads stdin
    input: String,
    /// Tasks of one session share a transcript and run one at a time
    #[arg(long)]
    session: Option<String>,
    /// Whose task it is
    #[arg(long)]
    user: Option<String>,
    /// The tenant; a key that is bound to one sets it
    #[arg(long)]
    tenant: Option<String>,
    /// A label for listing; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Facts that stand beside the input
    #[arg(long, value_name = "JSON", value_parser = json_value)]
    context: Option<Value>,
    /// The most the run may spend, in USD; narrows the agent's budget
    #[arg(long, value_name = "USD", value_parser = usd, allow_negative_numbers = true)]
    usd: Option<f64>,
    /// The most tokens the run may use, such as 50k; narrows the agent's budget
    #[arg(long, value_parser = tokens)]
    tokens: Option<u64>,
    /// Working time, waits excluded, such as 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    active: Option<String>,
    /// Wall time, such as 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<String>,
    /// Two submissions with this key are one
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Follow it to its end
    #[arg(long)]
    watch: bool,
}

// Not a doc comment: that would stand in the help instead of the commands' own.
// The task that is meant.
#[derive(Debug, clap::Args)]
struct One {
    /// The task's id
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task: String,
}

/// List tasks, newest first
#[derive(Debug, clap::Args)]
struct List {
    /// Only these: queued, running, waiting, completed, failed, cancelled
    #[arg(long, value_parser = ["queued", "running", "waiting", "completed", "failed", "cancelled"])]
    status: Option<String>,
    /// Only this session's
    #[arg(long)]
    session: Option<String>,
    /// Only this user's
    #[arg(long)]
    user: Option<String>,
    /// Only this tenant's
    #[arg(long)]
    tenant: Option<String>,
    /// Only those with this label; repeatable, all must match
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Only the dead letters
    #[arg(long)]
    dead: bool,
    /// Only those submitted later than this, such as 2026-11-23T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    created_after: Option<String>,
    /// Only those submitted earlier than this
    #[arg(long, value_name = "TIME", value_parser = time)]
    created_before: Option<String>,
    /// Tasks a page
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=200))]
    limit: u16,
    /// The next page: what the page before ended with
    #[arg(long)]
    cursor: Option<String>,
}

/// Follow a task to its end, live
#[derive(Debug, clap::Args)]
struct Watch {
    /// The task's id
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task: String,
    /// Only events behind this one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
}

/// Run a failed or cancelled task again from its beginning
#[derive(Debug, clap::Args)]
struct Rerun {
    /// The task's id
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task: String,
    /// Do not ask, although what it did through tools may then be done again
    #[arg(long)]
    yes: bool,
}

/// Answer an approval or a question of a waiting task
#[derive(Debug, clap::Args)]
struct Input {
    /// The task's id
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task: String,
    /// The call that asked; without it the oldest open one is answered
    #[arg(long)]
    call: Option<String>,
    #[command(flatten)]
    answer: Answer,
}

// What is answered: one of these.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Answer {
    /// Approve the call
    #[arg(long)]
    approve: bool,
    /// Refuse the call
    #[arg(long)]
    deny: bool,
    /// Answer the question with a text
    #[arg(long, value_name = "TEXT")]
    answer: Option<String>,
    /// Answer the question with JSON
    #[arg(long, value_name = "JSON", value_parser = json_value)]
    answer_json: Option<Value>,
}

/// Send a waiting task a named signal
#[derive(Debug, clap::Args)]
struct Signal {
    /// The task's id
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    task: String,
    /// The signal's name
    name: String,
    /// What it carries
    #[arg(long, value_name = "JSON", value_parser = json_value, default_value = "null")]
    payload: Value,
}

pub(crate) fn execute(arguments: Arguments, terminal: &mut Terminal) -> Result<(), Exit> {
    let Arguments { command, connection } = arguments;
    let client = Client::new(&connection.url, connection.key.as_deref())?;
    let runtime = super::runtime::single()?;
    runtime.block_on(perform(command, &client, connection.json, terminal))
}

async fn perform(command: Command, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    match command {
        Command::Submit(submit) => self::submit(*submit, client, json, terminal).await,
        Command::Get(one) => {
            let task = client.get(&format!("/tasks/{}", segment(&one.task))).await?;
            print::task(&task, json, terminal)
        }
        Command::List(list) => {
            let page = client.get(&format!("/tasks?{}", list_query(&list))).await?;
            print::page(&page, json, terminal)
        }
        Command::Watch(watch) => watch::follow(client, &watch.task, watch.after, json, terminal).await,
        Command::Cancel(one) => {
            let answer = client.post(&format!("/tasks/{}/cancel", segment(&one.task)), &json!({}), None).await?;
            told(&answer, "cancelling", &one.task, json, terminal)
        }
        Command::Input(input) => {
            let body = input_body(&input);
            let answer = client.post(&format!("/tasks/{}/input", segment(&input.task)), &body, None).await?;
            told(&answer, "answered", &input.task, json, terminal)
        }
        Command::Signal(signal) => {
            let path = format!("/tasks/{}/signals/{}", segment(&signal.task), segment(&signal.name));
            let answer = client.post(&path, &signal.payload, None).await?;
            told(&answer, "signalled", &signal.task, json, terminal)
        }
        Command::Resume(one) => {
            let answer = client.post(&format!("/tasks/{}/resume", segment(&one.task)), &json!({}), None).await?;
            told(&answer, "queued; it goes on from its last good step", &one.task, json, terminal)
        }
        Command::Rerun(rerun) => again::rerun(&rerun, client, json, terminal).await,
    }
}

async fn submit(submit: Submit, client: &Client, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    let input = if submit.input == "-" { read_stdin()? } else { submit.input };
    // As `mote run` and the service have it.
    if input.trim().is_empty() {
        return Err(Exit::usage("the INPUT is empty"));
    }
    let mut body = json!({ "input": input });
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[field] = value;
        }
    };
    set("session", submit.session.map(Value::from));
    set("user", submit.user.map(Value::from));
    set("tenant", submit.tenant.map(Value::from));
    set("context", submit.context);
    set("active", submit.active.map(Value::from));
    set("expires", submit.expires.map(Value::from));
    if !submit.labels.is_empty() {
        let labels = submit.labels.into_iter().map(|(key, value)| (key, Value::from(value)));
        set("labels", Some(Value::Object(labels.collect())));
    }
    if submit.usd.is_some() || submit.tokens.is_some() {
        let mut budget = serde_json::Map::new();
        budget.extend(submit.usd.map(|usd| ("usd".to_owned(), json!(usd))));
        budget.extend(submit.tokens.map(|tokens| ("tokens".to_owned(), json!(tokens))));
        set("budget", Some(Value::Object(budget)));
    }
    let task = client.post("/tasks", &body, submit.idempotency_key.as_deref()).await?;
    let id = task["id"].as_str().context("failed to read the answer: it has no `id`")?;
    if submit.watch {
        if !json {
            let id = terminal.paint(Style::Strong, id);
            terminal.note(&id)?;
        }
        return watch::follow(client, id, 0, json, terminal).await;
    }
    terminal.line(&if json { task.to_string() } else { id.to_owned() })?;
    Ok(())
}

fn input_body(input: &Input) -> Value {
    let mut body = serde_json::Map::new();
    if let Some(call) = &input.call {
        body.insert("call".to_owned(), json!(call));
    }
    let answer = &input.answer;
    if answer.approve || answer.deny {
        body.insert("approve".to_owned(), json!(answer.approve));
    }
    let content = answer.answer.as_ref().map(|text| json!(text)).or_else(|| answer.answer_json.clone());
    if let Some(content) = content {
        body.insert("content".to_owned(), content);
    }
    Value::Object(body)
}

fn list_query(list: &List) -> String {
    let mut pairs = vec![("limit", list.limit.to_string())];
    let optional = [
        ("status", &list.status),
        ("session", &list.session),
        ("user", &list.user),
        ("tenant", &list.tenant),
        ("cursor", &list.cursor),
        ("created_after", &list.created_after),
        ("created_before", &list.created_before),
    ];
    pairs.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    pairs.extend(list.labels.iter().map(|(key, value)| ("label", format!("{key}={value}"))));
    if list.dead {
        pairs.push(("dead", "true".to_owned()));
    }
    let pairs = pairs.iter().map(|(name, value)| format!("{name}={}", segment(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Says that the service took it, and what holds it back; with `--json`, in the service's words.
fn told(answer: &Value, what: &str, task: &str, json: bool, terminal: &mut Terminal) -> Result<(), Exit> {
    if json {
        terminal.line(&answer.to_string())?;
    } else {
        let held = if answer["held"] == true { format!("; {HELD}") } else { String::new() };
        terminal.note(&format!("{task}: {what}{held}"))?;
    }
    Ok(())
}

/// Everything on stdin, bounded as a request body is.
pub(crate) fn read_stdin() -> Result<String, Exit> {
    let mut text = String::new();
    let limit = REQUEST_BODY_BYTES_MAX as u64;
    std::io::stdin().lock().take(limit + 1).read_to_string(&mut text).context("failed to read stdin")?;
    if text.len() as u64 > limit {
        return Err(Exit::usage(format!("stdin is longer than {limit} bytes (REQUEST_BODY_BYTES_MAX)")));
    }
    Ok(text)
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))
}

fn usd(text: &str) -> Result<f64, String> {
    let amount = text.parse().ok().filter(|amount: &f64| amount.is_finite() && *amount > 0.0);
    amount.ok_or_else(|| "write an amount of USD above zero, such as 0.50".to_owned())
}

fn tokens(text: &str) -> Result<u64, String> {
    mote::config::units::tokens(text).map_err(|error| error.to_string())
}

/// Checked here, sent as it was written.
fn time(text: &str) -> Result<String, String> {
    let parsed = mote::timestamp::parse_rfc3339_clamped(text);
    parsed.map(|_| text.to_owned()).ok_or_else(|| "write an RFC 3339 time such as 2026-11-23T09:00:00Z".to_owned())
}

/// Checked here, sent as it was written.
fn duration(text: &str) -> Result<String, String> {
    mote::config::units::duration(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Command {
        let words = ["task"].iter().chain(words);
        Line::try_parse_from(words).unwrap().arguments.command
    }

    #[test]
    fn answers_become_bodies() {
        let check = |words: &[&str], expected: Value| {
            let Command::Input(input) = parse(words) else { panic!("an input") };
            assert_eq!(input_body(&input), expected);
        };
        check(&["input", "t", "--approve"], json!({"approve": true}));
        check(&["input", "t", "--deny", "--call", "c1"], json!({"approve": false, "call": "c1"}));
        check(&["input", "t", "--answer", "yes"], json!({"content": "yes"}));
        check(&["input", "t", "--answer-json", "[1]"], json!({"content": [1]}));
        assert!(Line::try_parse_from(["task", "input", "t"]).is_err());
        assert!(Line::try_parse_from(["task", "input", "t", "--approve", "--deny"]).is_err());
    }

    #[test]
    fn filters_become_a_query() {
        let Command::List(list) = parse(&["list", "--status", "waiting", "--label", "team=a b", "--dead"]) else {
            panic!("a list")
        };
        assert_eq!(list_query(&list), "limit=50&status=waiting&label=team%3Da%20b&dead=true");
        let Command::List(list) = parse(&["list", "--created-after", "2026-11-23T09:00:00+01:00"]) else {
            panic!("a list")
        };
        assert_eq!(list_query(&list), "limit=50&created_after=2026-11-23T09%3A00%3A00%2B01%3A00");
        assert!(Line::try_parse_from(["task", "list", "--created-before", "yesterday"]).is_err());
    }
}
