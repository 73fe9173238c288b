//! The code interpreter over the native API: what ends a cell, and what its context keeps through that.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// A language: its name; a cell that sets `x`, says so and never ends; a cell that prints `x`; the error of an interrupt.
struct Language {
    name: &'static str,
    endless: &'static str,
    print: &'static str,
    interrupted: &'static str,
}

const LANGUAGES: [Language; 3] = [
    Language {
        name: "python",
        endless: "x = 42\nprint('begun', flush=True)\nwhile True: pass",
        print: "print(x)",
        interrupted: "KeyboardInterrupt",
    },
    Language {
        name: "javascript",
        endless: "var x = 42; console.log('begun'); while (true) {}",
        print: "console.log(x)",
        interrupted: "Interrupted",
    },
    Language { name: "bash", endless: "x=42; echo begun; while :; do :; done", print: "echo $x", interrupted: "" },
];

/// A cell that runs: its messages as they come.
struct Running {
    response: Response,
    buffer: Vec<u8>,
}

impl Running {
    /// The next message; none at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.buffer.extend_from_slice(&self.response.chunk().await.unwrap()?);
        }
    }

    /// Waits until it has printed something.
    async fn begun(&mut self) {
        while let Some(message) = self.next().await {
            if message["type"] == "stdout" {
                assert_eq!(message["text"].as_str().unwrap().trim(), "begun");
                return;
            }
        }
        panic!("the cell ended before it printed anything");
    }

    /// The rest of it: what it printed, and its error's name and text where it failed.
    async fn ended(mut self) -> (String, Option<(String, String)>) {
        let (mut printed, mut error, mut last) = (String::new(), None, Value::Null);
        while let Some(message) = self.next().await {
            match message["type"].as_str().unwrap() {
                "stdout" => printed.push_str(message["text"].as_str().unwrap()),
                "error" => {
                    let text = |name: &str| message[name].as_str().unwrap().to_owned();
                    error = Some((text("name"), text("value")));
                }
                _ => {}
            }
            last = message;
        }
        assert_eq!(last["type"], "end_of_execution", "the last message says that it is the last");
        (printed, error)
    }
}

async fn execute(daemon: &Daemon, id: &str, body: Value) -> Running {
    let path = format!("/v1/sandboxes/{id}/code/execute");
    let response = daemon.request(Method::POST, &path).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{body}");
    Running { response, buffer: Vec::new() }
}

async fn context(daemon: &Daemon, id: &str, language: &str) -> String {
    let body = json!({ "language": language, "cwd": "/tmp" });
    let made = daemon.done(Method::POST, &format!("/v1/sandboxes/{id}/code/contexts"), body).await;
    made["id"].as_str().unwrap().to_owned()
}

/// What a context prints for `x`.
async fn kept(daemon: &Daemon, id: &str, context: &str, language: &Language) -> String {
    let (printed, error) =
        execute(daemon, id, json!({ "code": language.print, "context_id": context })).await.ended().await;
    assert_eq!(error, None, "{}", language.name);
    printed.trim().to_owned()
}

#[tokio::test]
async fn an_interrupt_ends_the_cell_and_the_context_keeps_what_it_had() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let mut cell = execute(&daemon, &id, json!({ "code": language.endless, "context_id": context })).await;
        cell.begun().await;
        let interrupt = format!("/v1/sandboxes/{id}/code/contexts/{context}/interrupt");
        let response = daemon.request(Method::POST, &interrupt).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let (_, error) = cell.ended().await;
        let (name, value) = error.unwrap_or_else(|| panic!("{}: it ended as if it were done", language.name));
        assert!(name.contains(language.interrupted), "{}: {name}: {value}", language.name);
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
        // With nothing under way there is nothing to interrupt, and nothing breaks.
        assert!(daemon.request(Method::POST, &interrupt).send().await.unwrap().status().is_success());
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
    }
}

#[tokio::test]
async fn a_cells_own_time_limit_ends_it_alone() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let body = json!({ "code": language.endless, "context_id": context, "timeout_ms": 2000 });
        let (printed, error) = execute(&daemon, &id, body).await.ended().await;
        assert_eq!(printed.trim(), "begun", "{}", language.name);
        let (name, value) = error.unwrap_or_else(|| panic!("{}: it ended as if it were done", language.name));
        assert_eq!(name, "TimeoutError", "{}", language.name);
        assert!(value.contains("2000 ms"), "{}: {value}", language.name);
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
    }
    for wrong in [json!(0), json!(100_000_000_000_u64), json!(-1)] {
        let body = json!({ "code": "1", "timeout_ms": wrong });
        let (status, _) = daemon.ask(Method::POST, &format!("/v1/sandboxes/{id}/code/execute"), body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

/// A client goes away amid a cell, and then the daemon does: whoever comes next finds the context with what was set.
#[tokio::test]
async fn a_context_outlives_its_client_and_the_daemon() {
    let mut daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    let mut contexts = Vec::new();
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let mut cell = execute(&daemon, &id, json!({ "code": language.endless, "context_id": context })).await;
        cell.begun().await;
        drop(cell);
        assert_eq!(kept(&daemon, &id, &context, language).await, "42", "{}", language.name);
        contexts.push(context);
    }
    // Another client's connection finds them all.
    let listed = daemon.done(Method::GET, &format!("/v1/sandboxes/{id}/code/contexts"), Value::Null).await;
    for context in &contexts {
        assert!(listed.to_string().contains(context.as_str()), "{listed}");
    }
    let mut cells = Vec::new();
    for (language, context) in LANGUAGES.iter().zip(&contexts) {
        let code = language.endless.replace("42", "43");
        let mut cell = execute(&daemon, &id, json!({ "code": code, "context_id": context })).await;
        cell.begun().await;
        cells.push(cell);
    }
    daemon.restart().await;
    drop(cells);
    for (language, context) in LANGUAGES.iter().zip(&contexts) {
        assert_eq!(kept(&daemon, &id, context, language).await, "43", "{}", language.name);
    }
}

#[tokio::test]
async fn a_restart_begins_a_context_anew_also_amid_a_cell() {
    let daemon = Daemon::start().await;
    let id = daemon.create(json!({})).await;
    for language in &LANGUAGES {
        let context = context(&daemon, &id, language.name).await;
        let mut cell = execute(&daemon, &id, json!({ "code": language.endless, "context_id": context })).await;
        cell.begun().await;
        let restart = format!("/v1/sandboxes/{id}/code/contexts/{context}/restart");
        let response = daemon.request(Method::POST, &restart).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let (_, error) = tokio::time::timeout(Duration::from_secs(60), cell.ended()).await.unwrap();
        assert_eq!(error.map(|(name, _)| name).as_deref(), Some("UnexpectedEndOfExecution"), "{}", language.name);
        let body = json!({ "code": language.print, "context_id": context });
        let (printed, error) = execute(&daemon, &id, body).await.ended().await;
        // Bash prints an empty line for what is not set.
        assert!(error.is_some() || printed.trim().is_empty(), "{}: {printed}", language.name);
    }
}

/// All that a cell told.
#[derive(Debug, Default)]
struct Told {
    out: String,
    err: String,
    results: Vec<Value>,
    error: Option<(String, String)>,
}

impl Told {
    /// Text of the last result.
    fn text(&self) -> &str {
        self.results.last().and_then(|result| result["text"].as_str()).unwrap_or_default()
    }
}

async fn told(daemon: &Daemon, id: &str, body: Value) -> Told {
    let mut cell = execute(daemon, id, body).await;
    let mut told = Told::default();
    while let Some(message) = cell.next().await {
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap() {
            "stdout" => told.out.push_str(&text("text")),
            "stderr" => told.err.push_str(&text("text")),
            "error" => told.error = Some((text("name"), text("value"))),
            "result" => told.results.push(message),
            _ => {}
        }
    }
    told
}

async fn python(daemon: &Daemon, id: &str, code: &str) -> Told {
    told(daemon, id, json!({ "code": code })).await
}

#[tokio::test]
async fn python_knows_what_notebooks_know() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    // A cell, what it prints, and the text of its last result.
    for (code, out, text) in [
        ("x = !echo a; echo b\nx", "", "['a', 'b']"),
        ("!echo one \\\n    two\n!echo three", "one two\nthree\n", ""),
        ("for n in range(2):\n    !echo {n} $n $HOME", "0 0 /home/user\n1 1 /home/user\n", ""),
        ("text = '''\n!no\n%no\n'''\nlen(text)", "", "9"),
        ("    a = 1\n    b = 2\n    a + b", "", "3"),
        ("\n\n  a + b\n", "", "3"),
        (">>> a + b", "", "3"),
        ("%%bash\ncd /\npwd", "/\n", ""),
        ("%%writefile /tmp/written.txt\nline {a}\n", "Writing /tmp/written.txt\n", ""),
        ("!cat /tmp/written.txt", "line {a}\n", ""),
        ("%cd /tmp", "/tmp\n", ""),
        ("%pwd", "", "/tmp"),
        ("%env NAME=value\n!echo $NAME", "env: NAME=value\nvalue\n", ""),
        ("%env NAME", "", "value"),
        ("x = (7\n%4)\nx", "", "3"),
        ("%%capture kept\nprint('unseen')", "", ""),
        ("kept.stdout", "", "unseen\\n"),
        ("get_ipython().run_line_magic('pwd', '')", "", "/tmp"),
        ("1 + 1", "", "2"),
        ("_ + 40", "", "42"),
        ("print('no newline', end='')", "no newline", ""),
        ("d = {}\nd['k'] = !echo v\nd", "", "{'k': ['v']}"),
        (
            "%pip --version >/dev/null && echo found || echo found",
            "found\nNote: you may need to restart the kernel to use updated packages.\n",
            "",
        ),
        ("a != 5", "", "True"),
    ] {
        let told = python(&daemon, id, code).await;
        assert_eq!((told.out.as_str(), told.text(), &told.error), (out, text, &None), "{code}: {told:?}");
    }
    let timed = python(&daemon, id, "%%time\nz = 5\nz + 1").await;
    assert!(timed.out.contains("Wall time") && timed.text() == "6", "{timed:?}");
    let asked = python(&daemon, id, "len?").await;
    assert!(asked.out.contains("len(obj, /)") && asked.out.contains("number of items"), "{asked:?}");
    for (code, name, value) in [
        ("%nothing", "UsageError", "Line magic function `%nothing` not found."),
        ("input('?')", "StdinNotImplementedError", "raw_input was called"),
        ("import getpass; getpass.getpass()", "StdinNotImplementedError", "getpass was called"),
        ("%%bash\nexit 3", "CalledProcessError", "status 3"),
    ] {
        let (found, text) = python(&daemon, id, code).await.error.unwrap_or_else(|| panic!("{code} did not fail"));
        assert!(found == name && text.contains(value), "{code}: {found}: {text}");
    }
}

#[tokio::test]
async fn python_shows_what_notebooks_show() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let shown = python(&daemon, id, "from IPython.display import HTML, Image, Markdown, display\ndisplay(HTML('<b>1</b>'), Markdown('*2*'))\nHTML('<i>3</i>')").await;
    assert_eq!(shown.results.len(), 3, "{shown:?}");
    assert_eq!((&shown.results[0]["html"], &shown.results[1]["markdown"]), (&json!("<b>1</b>"), &json!("*2*")));
    assert_eq!((&shown.results[2]["html"], &shown.results[2]["is_main_result"]), (&json!("<i>3</i>"), &json!(true)));
    let raw = python(&daemon, id, "display({'text/html': '<p>', 'application/x-own': [1]}, raw=True)").await;
    assert_eq!(
        (&raw.results[0]["html"], &raw.results[0]["extra"]),
        (&json!("<p>"), &json!({"application/x-own": [1]}))
    );
    let image = python(&daemon, id, "Image(data=b'\\x89PNG...')").await;
    assert_eq!(image.results[0]["png"], "iVBORy4uLg==", "{image:?}");
    // What shows itself, as charts do, is not shown once more.
    let own =
        "class Chart:\n    def _ipython_display_(self):\n        display({'text/html': '<svg>'}, raw=True)\nChart()";
    let own = python(&daemon, id, own).await;
    assert_eq!((own.results.len(), &own.results[0]["html"]), (1, &json!("<svg>")), "{own:?}");
    // What is set for this process alone does not reach others, which could not import it.
    let backend =
        python(&daemon, id, "import os\nos.environ.get('MPLBACKEND'), os.environ.get('PLOTLY_RENDERER')").await;
    assert_eq!(backend.text(), "(None, None)");
}

/// What a list of numbers looks like that does not fit into a line.
fn broken(numbers: std::ops::Range<u32>, indent: usize) -> String {
    let lines: Vec<String> = numbers.map(|number| number.to_string()).collect();
    format!("[{}]", lines.join(&format!(",\n{}", " ".repeat(indent + 1))))
}

#[tokio::test]
async fn python_prints_values_as_ipython_does() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let begin = "import collections, re\ndef f(x, y=2): pass\nclass A: pass\nclass Two:\n    def __repr__(self): return 'one\\ntwo'";
    assert_eq!(python(&daemon, id, begin).await.error, None);
    for (code, text) in [
        ("'text'", "text"),
        ("\"it's\"", "\"it's\""),
        ("'a\\nb'", "a\\nb"),
        ("...", "Ellipsis"),
        ("[1, 'a', (2,), {3}, frozenset()]", "[1, 'a', (2,), {3}, frozenset()]"),
        ("list(range(40))", &broken(0..40, 0)),
        ("{'b': 1, 'a': {'deep': list(range(30))}}", &format!("{{'b': 1,\n 'a': {{'deep': {}}}}}", broken(0..30, 2))),
        ("list(range(1001))", &broken(0..1000, 0).replace(']', ",\n ...]")),
        (
            "[int, A, f, print, ValueError('x', 1)]",
            "[int,\n __main__.A,\n <function __main__.f(x, y=2)>,\n <function print(*args, sep=' ', end='\\n', file=None, flush=False)>,\n ValueError('x', 1)]",
        ),
        ("[Two(), 1]", "[one\n two,\n 1]"),
        ("collections.Counter('aab'), collections.deque([1], 5)", "(Counter({'a': 2, 'b': 1}), deque([1], maxlen=5))"),
        ("collections.defaultdict(list, {'a': [1]})", "defaultdict(list, {'a': [1]})"),
        ("re.compile(r'a\\.b')", "re.compile(r'a\\.b', re.UNICODE)"),
        ("x = [1]; x.append(x); x", "[1, [...]]"),
        ("%precision 2\n[3.14159]", "[3.14]"),
    ] {
        let told = python(&daemon, id, code).await;
        assert_eq!((told.text(), &told.error), (text, &None), "{code}");
    }
    assert!(python(&daemon, id, "A()").await.text().starts_with("<__main__.A at 0x"));
    for (code, data) in [
        ("{'a': [1, 2.5, None, True], 5: (1,)}", json!({ "a": [1, 2.5, null, true], "5": [1] })),
        ("[float('nan')]", json!([null])),
        ("[{1}]", Value::Null),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n[P(1)]", json!([{ "x": 1 }])),
        ("(1, 2)", Value::Null),
    ] {
        assert_eq!(python(&daemon, id, code).await.results[0]["json"], data, "{code}");
    }
    // A cell of one line may be a magic without its sign, where nothing else has the name.
    assert_eq!(python(&daemon, id, "cd /tmp").await.out, "/tmp\n");
    assert_eq!(python(&daemon, id, "pwd").await.text(), "/tmp");
    assert_eq!(python(&daemon, id, "pwd = 5\npwd").await.text(), "5");
    assert_eq!(python(&daemon, id, "pwd").await.text(), "5");
    assert_eq!(python(&daemon, id, "t = %timeit -o -q -n 3 -r 2 1\nt.loops, t.repeat").await.text(), "(3, 2)");
    let captured = python(&daemon, id, "%%capture kept\nprint('out'); display({'text/html': '<p>'}, raw=True)").await;
    assert!(captured.out.is_empty() && captured.results.is_empty(), "{captured:?}");
    let again = python(&daemon, id, "kept.show()").await;
    assert_eq!((again.out.as_str(), &again.results[0]["html"]), ("out\n", &json!("<p>")));
    let chosen = "class H:\n    def _repr_html_(self): return '<p>'\ndisplay(H(), include=['text/html'])";
    let chosen = python(&daemon, id, chosen).await;
    assert!(chosen.results[0].get("text").is_none() && chosen.results[0]["html"] == "<p>", "{chosen:?}");
    let registered = "get_ipython().display_formatter.formatters['text/html'].for_type(A, lambda a: '<a>')\nA()";
    assert_eq!(python(&daemon, id, registered).await.results[0]["html"], "<a>");
    let failing = "class F:\n    def _repr_html_(self): 1/0\nF()";
    let failing = python(&daemon, id, failing).await;
    assert_eq!((failing.results.len(), failing.error.unwrap().0.as_str()), (1, "ZeroDivisionError"));
}

/// A traceback names cells by their numbers and shows the lines around each frame, and what led to an error before it.
#[tokio::test]
async fn python_tells_errors_as_ipython_does() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let trace = async |code: &str| {
        let mut cell = execute(&daemon, id, json!({ "code": code })).await;
        let mut trace = String::new();
        while let Some(message) = cell.next().await {
            if message["type"] == "error" {
                trace = message["traceback"].as_str().unwrap().to_owned();
            }
        }
        trace
    };
    let rule = "-".repeat(75);
    let head = "ZeroDivisionError                         Traceback (most recent call last)";
    let expected = format!(
        "{rule}\n{head}\nCell In[1], line 3\n      1 def f(x, *, y=1):\n      2     return x / 0\n----> 3 f(1)\n\n\
         Cell In[1], line 2, in f(x, y)\n      1 def f(x, *, y=1):\n----> 2     return x / 0\n      3 f(1)\n\nZeroDivisionError: division by zero\n"
    );
    let found = trace("def f(x, *, y=1):\n    return x / 0\nf(1)").await;
    // Versions of Python differ in how they name a function.
    assert_eq!(found, expected);
    let chained = trace("try:\n    1/0\nexcept Exception as e:\n    raise ValueError('outer') from e").await;
    assert!(chained.contains("ZeroDivisionError: division by zero\n\nThe above exception was the direct cause of the following exception:\n\nValueError "));
    assert!(chained.ends_with("\nValueError: outer\n"), "{chained}");
    let endless = trace("def r(): r()\nr()").await;
    assert!(endless.len() < 4000 && endless.contains("skipping similar frames: r at line 1"), "{endless}");
    assert_eq!(trace("if True print(1)").await.lines().next().unwrap(), "  Cell In[4], line 1");
    assert!(trace("raise SystemExit(3)").await.starts_with("An exception has occurred, use %tb"));
    let plain = trace("%xmode Plain\n1/0").await;
    assert!(plain.starts_with("Traceback (most recent call last):"), "{plain}");
}

/// Tasks that a cell leaves go on while nothing runs, all in one loop.
#[tokio::test]
async fn python_tasks_go_on_between_cells() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let begin = "import asyncio, os\nasync def later():\n    await asyncio.sleep(0.05)\n    open('/tmp/done', 'w').close()\n    return 7\ntask = asyncio.create_task(later())\nloop = asyncio.get_running_loop()";
    assert_eq!(python(&daemon, id, begin).await.error, None);
    // Nothing of the context runs meanwhile.
    daemon.run(id, "until [ -e /tmp/done ]; do sleep 0.02; done").await;
    assert_eq!(python(&daemon, id, "task.result(), loop is asyncio.get_running_loop()").await.text(), "(7, True)");
    assert_eq!(python(&daemon, id, "await asyncio.gather(later(), later())").await.text(), "[7, 7]");
    let late = told(&daemon, id, json!({ "code": "await asyncio.sleep(1000)", "timeout_ms": 300 })).await;
    assert_eq!(late.error.unwrap().0, "TimeoutError");
    assert_eq!(python(&daemon, id, "await later()").await.text(), "7", "the loop lives on");
}

/// The cell goes on only when its piece of a line was seen.
#[tokio::test]
async fn python_output_comes_before_its_line_ends() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let code = "import os, time\nprint('begun', end='')\nwhile not os.path.exists('/tmp/seen'): time.sleep(0.01)\nprint(' ended')";
    let mut cell = execute(&daemon, id, json!({ "code": code })).await;
    tokio::time::timeout(crate::fixture::PATIENCE, cell.begun()).await.unwrap();
    daemon.run(id, "touch /tmp/seen").await;
    assert_eq!(cell.ended().await, (" ended\n".to_owned(), None));
}

#[tokio::test]
async fn leaving_a_process_ends_the_cell_of_javascript_and_not_its_context() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let node = async |code: &str| told(&daemon, id, json!({ "code": code, "language": "javascript" })).await;
    let left = node("var x = 41; console.log('a'); process.exit(); console.log('b')").await;
    assert_eq!((left.out.as_str(), &left.error), ("a\n", &None));
    for code in ["process.exit(3)", "while (true) { try { process.exit(3) } catch {} }", "await null; process.exit(3)"]
    {
        let (name, value) = node(code).await.error.unwrap();
        assert!(name == "ProcessExit" && value.contains("process.exit(3)"), "{code}: {name}: {value}");
    }
    assert_eq!(node("x + 1").await.text(), "42");
}

#[tokio::test]
async fn what_a_cell_of_bash_sets_does_not_disturb_its_session() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let bash = async |code: &str| told(&daemon, id, json!({ "code": code, "language": "bash" })).await;
    assert_eq!(bash("x=41").await.error, None);
    for setting in [
        "PS1='prompt '; PROMPT_COMMAND='echo asked'",
        "alias printf=false eval=false",
        "trap 'echo bye' EXIT; trap : DEBUG",
        "set -u; set -x; set +x 2>/dev/null",
    ] {
        bash(setting).await;
        let told = bash("echo $((x + 1))").await;
        assert_eq!((told.out.as_str(), told.err.as_str(), &told.error), ("42\n", "", &None), "{setting}");
    }
    let strict = bash("set -e; echo on; false; echo never").await;
    assert_eq!((strict.out.as_str(), strict.error.unwrap().1.contains("status 1")), ("on\n", true));
    assert_eq!(bash("set +e; false; echo $x").await.out, "41\n");
    assert_eq!(bash("exec 3>&1 >/tmp/out; echo hidden").await.out, "");
    assert_eq!(bash("echo more").await.out, "", "where it leads lasts");
    let told = bash("exec >&3; cat /tmp/out").await;
    assert_eq!((told.out.as_str(), &told.error), ("hidden\nmore\n", &None));
}

/// A program that ignores the interrupt is ended, and the shell that waits for it is kept; so is what earlier cells left.
#[tokio::test]
async fn a_timeout_ends_what_bash_waits_for_and_keeps_the_shell() {
    let daemon = Daemon::start().await;
    let id = &daemon.create(json!({})).await;
    let context = context(&daemon, id, "bash").await;
    let cell = async |code: &str, ms: u64| {
        told(&daemon, id, json!({ "code": code, "context_id": context, "timeout_ms": ms })).await
    };
    assert_eq!(cell("x=42; sleep 1000 & server=$!", 60_000).await.error, None);
    // Older than the next cell by more than a clock's tick.
    daemon.run(id, "sleep 0.3").await;
    let deaf = cell("sh -c 'trap \"\" INT; while :; do sleep 1; done'; echo never", 500).await;
    assert_eq!((deaf.out.as_str(), deaf.error.unwrap().0.as_str()), ("", "TimeoutError"));
    let after = cell("echo $x; kill -0 $server && echo lives", 60_000).await;
    assert_eq!((after.out.as_str(), &after.error), ("42\nlives\n", &None), "{after:?}");
}
