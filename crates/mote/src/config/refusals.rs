//! What model providers refuse in the definition of a tool, told by `mote check` instead of by the first request, which
//! fails as a whole because of one tool.
//!
//! It is an error only where every model of the agent is at a provider's own endpoint and all of them refuse; a
//! compatible server, or a fallback that takes it, leaves a warning. It rewrites no schema: that would change its meaning.

use serde_json::{Map, Value};

use super::diagnostic::FieldPath;
use super::findings::Findings;
use super::{Agent, Model, Provider};
use crate::limits::{OPENAI_DESCRIPTION_CHARS_MAX, OPENAI_TOOLS_MAX, PROPERTY_NAME_CHARS_MAX};
use crate::model::{anthropic, openai};

/// Whom a rule is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vendor {
    OpenAi,
    Anthropic,
    Google,
}

impl Vendor {
    fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "OpenAI",
            Self::Anthropic => "Anthropic",
            Self::Google => "Google",
        }
    }
}

/// A model's endpoint: whose rules it follows, and whether it is that vendor's own.
struct Endpoint {
    vendor: Vendor,
    own: bool,
}

/// What is refused, by whom, and what to do.
struct Refusal<'a> {
    path: FieldPath,
    what: String,
    by: &'a [Vendor],
    hint: &'a str,
}

/// `OpenAI` and Anthropic.
const BOTH: &[Vendor] = &[Vendor::OpenAi, Vendor::Anthropic];
/// Keywords that may not stand at the top of a tool's schema, and who refuses them.
const TOP: [(&str, &[Vendor]); 5] =
    [("anyOf", BOTH), ("oneOf", BOTH), ("allOf", BOTH), ("enum", &[Vendor::OpenAi]), ("not", &[Vendor::OpenAi])];
/// Keywords outside the subset of `OpenAPI` that Google's function declarations are written in.
const BEYOND_OPENAPI: [&str; 14] = [
    "$dynamicRef",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "not",
    "oneOf",
    "patternProperties",
    "prefixItems",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// What Google's function declarations cannot say, besides.
const GOOGLE: &[Vendor] = &[Vendor::Google];

/// Adds what the agent's providers refuse. Called only for a file without errors.
pub(super) fn refuse(agent: &Agent, findings: &mut Findings<'_>) {
    let endpoints: Vec<Endpoint> = agent.models.iter().filter_map(endpoint).collect();
    if endpoints.is_empty() {
        return;
    }
    for tool in &agent.tools {
        let Some(path) = findings.tool_path(&tool.name) else { continue };
        let chars = tool.description.chars().count();
        if chars > OPENAI_DESCRIPTION_CHARS_MAX {
            let what = format!(
                "{chars} characters are more than the {OPENAI_DESCRIPTION_CHARS_MAX} that a description may have"
            );
            let hint = "shorten it; what belongs to an argument can stand in the argument's own description";
            say(&endpoints, Refusal { path: path.key("description"), what, by: &[Vendor::OpenAi], hint }, findings);
        }
        if let Some(schema) = tool.input.as_object() {
            top(schema, &path.key("input"), &endpoints, findings);
        }
        below(&tool.input, &path.key("input"), &endpoints, findings);
    }
    let sandbox = agent.sandbox.iter().flat_map(|sandbox| &sandbox.allow).map(|facility| facility.tools().len());
    let count = agent.tools.len() + agent.builtins.len() + sandbox.sum::<usize>();
    if count > OPENAI_TOOLS_MAX {
        let what = format!("{count} tools are more than {OPENAI_TOOLS_MAX}");
        let hint = "give the agent fewer tools";
        say(&endpoints, Refusal { path: FieldPath::top("tools"), what, by: &[Vendor::OpenAi], hint }, findings);
    }
}

fn endpoint(model: &Model) -> Option<Endpoint> {
    let host = reqwest::Url::parse(&model.base_url).ok().and_then(|url| url.host_str().map(str::to_owned));
    let (vendor, own) = match &model.provider {
        Provider::Anthropic => (Vendor::Anthropic, host.is_none_or(|host| anthropic::is_own_host(&host))),
        Provider::OpenAi => match host {
            Some(host) if openai::is_google(&host) => (Vendor::Google, true),
            Some(host) => (Vendor::OpenAi, openai::is_own_host(&host)),
            None => (Vendor::OpenAi, true),
        },
        Provider::Cassette { record: Some(inner), .. } => return endpoint(inner),
        Provider::Scripted { .. } | Provider::Cassette { record: None, .. } => return None,
    };
    Some(Endpoint { vendor, own })
}

fn top(schema: &Map<String, Value>, path: &FieldPath, endpoints: &[Endpoint], findings: &mut Findings<'_>) {
    for (keyword, by) in TOP.into_iter().filter(|(keyword, _)| schema.contains_key(*keyword)) {
        let what = format!("`{keyword}` at the top of a tool's schema");
        let hint = "describe every argument under `properties`, and say in their descriptions which belong together; the \
                    backend checks the rest";
        say(endpoints, Refusal { path: path.key(keyword), what, by, hint }, findings);
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for name in properties.into_iter().flat_map(Map::keys) {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !(1..=PROPERTY_NAME_CHARS_MAX).contains(&name.len()) || !name.chars().all(legal) {
            let what = format!("`{name}` as the name of an argument");
            let hint = "letters, digits, `_`, `.` and `-`, at most 64";
            let path = path.key("properties").key(name);
            say(endpoints, Refusal { path, what, by: &[Vendor::Anthropic], hint }, findings);
        }
    }
}

/// What is refused at any depth.
fn below(schema: &Value, path: &FieldPath, endpoints: &[Endpoint], findings: &mut Findings<'_>) {
    let Some(map) = schema.as_object() else { return };
    let is_array = match map.get("type") {
        Some(Value::String(kind)) => kind == "array",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "array"),
        _ => false,
    };
    if is_array && !map.contains_key("items") && !map.contains_key("prefixItems") {
        let what = "an array without `items`".to_owned();
        let hint = "say what is in it: `items: {type: string}`";
        say(endpoints, Refusal { path: path.clone(), what, by: &[Vendor::OpenAi, Vendor::Google], hint }, findings);
    }
    google(map, path, endpoints, findings);
    for (keyword, value) in map {
        let path = path.key(keyword);
        if BEYOND_OPENAPI.contains(&keyword.as_str()) {
            let what = format!("`{keyword}`");
            let hint = "write the schema with `type`, `properties`, `required`, `items`, `enum`, `anyOf` and bounds";
            say(endpoints, Refusal { path: path.clone(), what, by: &[Vendor::Google], hint }, findings);
        }
        match (keyword.as_str(), value) {
            (
                "properties" | "$defs" | "definitions" | "patternProperties" | "dependentSchemas",
                Value::Object(named),
            ) => {
                for (name, inner) in named {
                    below(inner, &path.key(name), endpoints, findings);
                }
            }
            ("items" | "additionalProperties" | "not" | "contains" | "if" | "then" | "else", inner) => {
                below(inner, &path, endpoints, findings);
            }
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(list)) => {
                for (index, inner) in list.iter().enumerate() {
                    below(inner, &path.index(index), endpoints, findings);
                }
            }
            _ => {}
        }
    }
}

/// What Google refuses in keywords that it knows: <https://ai.google.dev/api/caching#Schema>.
fn google(map: &Map<String, Value>, path: &FieldPath, endpoints: &[Endpoint], findings: &mut Findings<'_>) {
    let mut refused =
        |path: FieldPath, what: String, hint| say(endpoints, Refusal { path, what, by: GOOGLE, hint }, findings);
    let list = |keyword: &str| map.get(keyword).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let declared = |name: &str| map.get("properties").is_some_and(|properties| properties.get(name).is_some());
    for (index, name) in list("required").iter().enumerate() {
        if let Some(name) = name.as_str().filter(|name| !declared(name)) {
            let what = format!("`{name}` as required, which is not under `properties`");
            refused(path.key("required").index(index), what, "describe it under `properties` beside this `required`");
        }
    }
    for (index, value) in list("enum").iter().enumerate() {
        if value.as_str().is_none_or(str::is_empty) {
            let what = format!("`{value}` in an `enum`");
            refused(
                path.key("enum").index(index),
                what,
                "an `enum` is of texts that are not empty; name other values in the description",
            );
        }
    }
    if list("enum").first().is_some_and(Value::is_string) && map.get("type").is_some_and(|kind| kind != "string") {
        refused(path.key("enum"), "an `enum` beside a `type` that is not `string`".to_owned(), "write `type: string`");
    }
    if map.get("type").is_some_and(Value::is_array) {
        let hint = "write one `type`, or `anyOf` with one schema for each";
        refused(path.key("type"), "a list of types".to_owned(), hint);
    }
}

/// Tells one refusal, as gravely as the agent's endpoints make it.
fn say(endpoints: &[Endpoint], refusal: Refusal<'_>, findings: &mut Findings<'_>) {
    let Refusal { path, what, by, hint } = refusal;
    let refusing = |endpoint: &&Endpoint| by.contains(&endpoint.vendor);
    let mut vendors: Vec<&str> = endpoints.iter().filter(refusing).map(|endpoint| endpoint.vendor.name()).collect();
    vendors.dedup();
    if vendors.is_empty() {
        return;
    }
    // Google says less clearly what it refuses, and takes more from year to year.
    let sure = |endpoint: &Endpoint| endpoint.own && endpoint.vendor != Vendor::Google && by.contains(&endpoint.vendor);
    let vendors = vendors.join(" and ");
    if endpoints.iter().all(sure) {
        let verb = if vendors.contains(' ') { "refuse" } else { "refuses" };
        findings.error_hint(&path, format!("{vendors} {verb} {what}: every request would fail"), hint);
    } else if endpoints.iter().filter(refusing).any(sure) {
        findings.warn(&path, format!("{vendors} refuses {what}: requests to it would fail"), hint);
    } else {
        findings.warn(&path, format!("{vendors} refuses {what}, and so may this endpoint"), hint);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check, parse, rendered, with};

    const TOOLS: &str = r#"    input: {type: object, required: [id], properties: {id: {type: string}}}"#;
    const BASE: &str = "  base_url: http://127.0.0.1:9999\n";
    const ANY_OF: &str = "    input:\n      type: object\n      required: [id]\n      properties: {id: {type: string}}\n      anyOf:\n        - {required: [id]}";

    fn at_home(text: &str) -> String {
        text.replacen(BASE, "  key: {env: MOTE_TEST_KEY}\n", 1)
    }

    fn warnings(text: &str) -> Vec<String> {
        let warnings = parse(text).map(|loaded| loaded.warnings).unwrap_or_else(|errors| errors);
        let about = |line: &String| line.contains("refuse");
        rendered(&warnings).into_iter().filter(about).collect()
    }

    #[test]
    fn a_top_level_combination_is_an_error_where_it_is_sure_to_fail() {
        let text = with(TOOLS, ANY_OF);
        let hint = "\n    hint: describe every argument under `properties`, and say in their descriptions which belong \
                    together; the backend checks the rest";
        let line = |severity: &str, says: &str| {
            format!(
                "agent.yaml:19:9: {severity}: tools[0].input.anyOf: Anthropic refuses `anyOf` at the top of a tool's schema{says}{hint}"
            )
        };
        let home = at_home(&text);
        check(&home, &[&line("error", ": every request would fail")]);
        assert_eq!(warnings(&text), [line("warning", ", and so may this endpoint")]);
        let with_fallback = home.replacen(
            "  name: claude-sonnet-5\n",
            "  name: claude-sonnet-5\n  fallback: [{provider: openai, name: m, base_url: \"http://127.0.0.1:1/v1\", price: {input: 1, output: 1}}]\n",
            1,
        );
        let expected = "Anthropic and OpenAI refuses `anyOf` at the top of a tool's schema: requests to it would fail";
        assert!(warnings(&with_fallback)[0].contains(expected), "{:?}", warnings(&with_fallback));
    }

    #[test]
    fn each_provider_has_its_own_rules() {
        let input = |schema: &str| with(TOOLS, &format!("    input: {schema}"));
        let openai = |text: &str| {
            at_home(text).replacen("provider: anthropic", "provider: openai", 1).replacen(
                "  name: claude-sonnet-5\n",
                "  name: gpt-5\n  price: {input: 1, output: 1}\n",
                1,
            )
        };
        let google = |text: &str| {
            openai(text).replacen(
                "  key: {env: MOTE_TEST_KEY}\n",
                "  base_url: https://generativelanguage.googleapis.com/v1beta/openai\n",
                1,
            )
        };
        let cases = [
            (
                "{type: object, required: [id], properties: {id: {type: string}}, not: {required: [x]}}",
                "OpenAI",
                "`not`",
            ),
            ("{type: object, required: [id], properties: {id: {type: string}}, enum: [{id: a}]}", "OpenAI", "`enum`"),
            (
                "{type: object, required: [id], properties: {id: {type: string}, l: {type: array}}}",
                "OpenAI",
                "without `items`",
            ),
            (
                "{type: object, required: [id], properties: {id: {type: string}, \"a[b]\": {type: string}}}",
                "Anthropic",
                "`a[b]`",
            ),
            (
                "{type: object, required: [id], properties: {id: {type: string}, o: {oneOf: [{type: string}]}}}",
                "Google",
                "`oneOf`",
            ),
            ("{type: object, required: [id, zz], properties: {id: {type: string}}}", "Google", "`zz` as required"),
            (
                "{type: object, required: [id], properties: {id: {type: string}, n: {type: integer, enum: [1, 2]}}}",
                "Google",
                "`1` in an `enum`",
            ),
            (
                "{type: object, required: [id], properties: {id: {type: string, enum: [a, \"\"]}}}",
                "Google",
                "`\"\"` in an `enum`",
            ),
            (
                "{type: object, required: [id], properties: {id: {type: string}, s: {type: [string, \"null\"]}}}",
                "Google",
                "a list of types",
            ),
        ];
        for (schema, vendor, says) in cases {
            let text = input(schema);
            for (name, text) in [("Anthropic", at_home(&text)), ("OpenAI", openai(&text)), ("Google", google(&text))] {
                let found = warnings(&text);
                let refused = found.iter().any(|line| line.contains(says) && line.contains(name));
                let also = vendor == "OpenAI" && name == "Google" && says.contains("items")
                    || name == "Google" && ["`not`", "`enum`"].contains(&says);
                assert_eq!(refused, name == vendor || also, "{name} {schema}: {found:?} {:?}", parse(&text).err());
            }
        }
        let long = with("description: Reads a ticket.", &format!("description: {}", "x".repeat(1025)));
        assert!(warnings(&openai(&long))[0].contains("1025 characters"));
        assert!(warnings(&at_home(&long)).is_empty());
        assert!(warnings(&openai(&with(TOOLS, TOOLS))).is_empty(), "a usual schema is fine");
    }
}
