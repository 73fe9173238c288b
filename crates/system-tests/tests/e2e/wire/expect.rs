//! What a case expects of the task, of the tools' backend, and of the requests to the model.

use serde::Deserialize;
use serde_json::Value;

use super::player::Asked;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// The task's result; the task is completed.
    #[serde(default)]
    result: Option<Value>,
    /// The task's error code; the task failed.
    #[serde(default)]
    code: Option<String>,
    /// Words of the task's error.
    #[serde(default)]
    says: Option<String>,
    /// How many requests reach the model.
    requests: usize,
    /// What reaches the tools' backend, sorted: `GET /read/1`.
    #[serde(default)]
    tools: Vec<String>,
    /// Tokens of the task: input and output.
    #[serde(default)]
    tokens: Option<[u64; 2]>,
    /// The task's cost.
    #[serde(default)]
    nano_usd: Option<u64>,
    /// What requests contain.
    #[serde(default)]
    asked: Vec<Contains>,
}

/// One thing in one request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contains {
    /// Which request, from 0.
    request: usize,
    /// Where in its body, as a JSON pointer.
    at: String,
    /// What is there; `null` where nothing is.
    #[serde(default)]
    is: Option<Value>,
    /// Whether it is a name that every provider takes.
    #[serde(default)]
    is_name: bool,
    /// It is the text of a JSON object that has these words.
    #[serde(default)]
    is_object_with: Option<String>,
    /// It has these words.
    #[serde(default)]
    has: Option<String>,
}

impl Expect {
    /// What is not so.
    pub(super) fn misses(&self, task: &Value, reached: &[String], asked: &[Asked]) -> Vec<String> {
        let mut misses = Vec::new();
        let mut check = |what: &str, seen: String, expected: String| {
            if seen != expected {
                misses.push(format!("{what} is {seen}, not {expected}; the task: {task}"));
            }
        };
        match (&self.result, &self.code) {
            (Some(result), None) => {
                check("status", task["status"].to_string(), "\"completed\"".to_owned());
                check("result", task["result"].to_string(), result.to_string());
            }
            (None, Some(code)) => {
                check("status", task["status"].to_string(), "\"failed\"".to_owned());
                check("code", task["error"]["code"].to_string(), format!("{code:?}"));
            }
            _ => misses.push("the case expects neither one result nor one code".to_owned()),
        }
        let mut check = |what: &str, seen: String, expected: String| {
            if seen != expected {
                misses.push(format!("{what} is {seen}, not {expected}; the task: {task}"));
            }
        };
        check("requests", asked.len().to_string(), self.requests.to_string());
        let mut reached = reached.to_vec();
        reached.sort();
        check("tools", format!("{reached:?}"), format!("{:?}", self.tools));
        if let Some([input, output]) = self.tokens {
            let usage = &task["usage"];
            check("tokens", format!("{}, {}", usage["input"], usage["output"]), format!("{input}, {output}"));
        }
        if let Some(cost) = self.nano_usd {
            check("cost", task["cost"]["nano_usd"].to_string(), cost.to_string());
        }
        if let Some(words) = &self.says
            && !task["error"]["message"].as_str().unwrap_or_default().contains(words.as_str())
        {
            misses.push(format!("the error does not say {words}: {task}"));
        }
        misses.extend(self.asked.iter().filter_map(|contains| contains.miss(asked)));
        misses
    }
}

impl Contains {
    fn miss(&self, asked: &[Asked]) -> Option<String> {
        let Some(request) = asked.get(self.request) else {
            return Some(format!("there is no request {}", self.request));
        };
        let found = request.body.pointer(&self.at).unwrap_or(&Value::Null);
        let text = found.as_str().unwrap_or_default();
        let fits = match (&self.has, &self.is_object_with) {
            (Some(words), _) => found.to_string().contains(words.as_str()),
            (_, Some(words)) => {
                serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object())
                    && text.contains(words.as_str())
            }
            _ if self.is_name => {
                let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                (1..=64).contains(&text.len()) && text.chars().all(legal)
            }
            _ => *found == self.is.clone().unwrap_or(Value::Null),
        };
        (!fits).then(|| format!("request {} has {found} at {}; it is {}", self.request, self.at, request.body))
    }
}
