//! URL templates: `https://host/path/{id}?q={q}`, filled so that an argument can change a value and nothing else.
//!
//! Scheme, host and port are literal. A value is percent-encoded; what encoding cannot tame (`.`, `..` and an empty
//! path segment, which URL parsers resolve even when encoded) is refused. It does not know which hosts are allowed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use reqwest::Url;
use serde_json::{Map, Value};

use crate::limits::TOOL_URL_BYTES_MAX;

/// A URL with placeholders.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// `https://host:port`.
    origin: String,
    /// The path between its slashes.
    segments: Vec<Vec<Piece>>,
    query: Option<Vec<Piece>>,
    names: BTreeSet<String>,
    sample: Url,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Argument(String),
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or("it must begin with https:// or http://")?;
        if text.contains('#') {
            return Err("a fragment (#) is never sent: remove it".to_owned());
        }
        if text.contains('\\') || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("it contains a backslash, white space or a control character".to_owned());
        }
        let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(authority_end);
        if authority.contains(['{', '}']) {
            return Err("an argument may not choose the host: no placeholder before the path".to_owned());
        }
        if authority.contains('@') {
            return Err("credentials do not belong in a URL: use a header with a secret".to_owned());
        }
        let origin = text[..text.len() - tail.len()].to_owned();
        let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
        let path = path.strip_prefix('/').unwrap_or(path);
        let segments = path.split('/').map(pieces).collect::<Result<Vec<_>, _>>()?;
        let query = query.map(pieces).transpose()?;
        let names = segments.iter().flatten().chain(query.iter().flatten()).filter_map(|piece| match piece {
            Piece::Argument(name) => Some(name.clone()),
            Piece::Literal(_) => None,
        });
        let names: BTreeSet<String> = names.collect();
        let mut template = Self { sample: parse_url(&origin)?, origin, segments, query, names };
        let filled = template.names.iter().map(|name| (name.clone(), Value::from("x"))).collect();
        template.sample = template.expand(&filled)?;
        Ok(template)
    }

    /// Names of the arguments that the template uses.
    pub(crate) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// The URL with every placeholder filled by `x`.
    pub(crate) fn sample(&self) -> &Url {
        &self.sample
    }

    /// Fills the placeholders. The error is a sentence for the model.
    pub(crate) fn expand(&self, arguments: &Map<String, Value>) -> Result<Url, String> {
        let mut text = self.origin.clone();
        for segment in &self.segments {
            text.push('/');
            let start = text.len();
            for piece in segment {
                match piece {
                    Piece::Literal(literal) => text.push_str(literal),
                    Piece::Argument(name) => text.push_str(&encode(&path_value(name, arguments)?)),
                }
            }
            let has_argument = segment.iter().any(|piece| matches!(piece, Piece::Argument(_)));
            if has_argument && is_structural(&text[start..]) {
                let name = self.names.iter().next().map_or("", String::as_str);
                return Err(format!("the arguments may not make a part of the path empty, . or .. (see {name})"));
            }
        }
        if let Some(query) = &self.query {
            text.push('?');
            for piece in query {
                match piece {
                    Piece::Literal(literal) => text.push_str(literal),
                    Piece::Argument(name) => text.push_str(&encode(&scalar(name, arguments)?)),
                }
            }
        }
        if text.len() > TOOL_URL_BYTES_MAX {
            return Err(format!("the URL would be longer than {TOOL_URL_BYTES_MAX} bytes: shorten the arguments"));
        }
        let url = parse_url(&text)?;
        // Encoding makes this impossible; a URL parser that reads it otherwise must not become a way out.
        let count = url.path_segments().map_or(0, Iterator::count);
        if !self.origin_matches(&url) || count != self.segments.len() {
            return Err("the arguments would change the URL's structure".to_owned());
        }
        Ok(url)
    }

    fn origin_matches(&self, url: &Url) -> bool {
        url.scheme() == self.sample.scheme()
            && url.host() == self.sample.host()
            && url.port_or_known_default() == self.sample.port_or_known_default()
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))
}

fn pieces(mut text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let open = text.find(['{', '}']).unwrap_or(text.len());
        if open > 0 {
            pieces.push(Piece::Literal(text[..open].to_owned()));
            text = &text[open..];
            continue;
        }
        let close = text.find('}').filter(|_| text.starts_with('{')).ok_or("a brace is not balanced")?;
        let name = &text[1..close];
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(format!("{{{name}}} is not an argument's name (letters, digits, _, - and .)"));
        }
        pieces.push(Piece::Argument(name.to_owned()));
        text = &text[close + 1..];
    }
    Ok(pieces)
}

fn scalar(name: &str, arguments: &Map<String, Value>) -> Result<String, String> {
    match arguments.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(value.to_string()),
        Some(_) => Err(format!("/{name}: it stands in the URL, so it must be a string, a number or a boolean")),
        None => Err(format!("/{name}: it is missing, and the URL needs it")),
    }
}

fn path_value(name: &str, arguments: &Map<String, Value>) -> Result<String, String> {
    let value = scalar(name, arguments)?;
    // A backend that decodes %2F before it resolves dots would climb out of its folder.
    if value.split(['/', '\\']).any(|part| part == "." || part == "..") {
        return Err(format!("/{name}: it stands in the URL's path, so it may not contain . or .. as a part"));
    }
    Ok(value)
}

/// What a URL parser takes for structure though it is encoded (WHATWG URL, "dot segments").
fn is_structural(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "" | "." | "..")
}

/// Encodes all but the unreserved characters of RFC 3986.
fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn expand(template: &str, arguments: Value) -> Result<String, String> {
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        Template::parse(template).unwrap().expand(&arguments).map(String::from)
    }

    #[test]
    fn values_are_encoded_in_path_and_query() {
        assert_eq!(
            expand("https://h/a/{id}/b?q={q}&k=1", json!({"id": "x/y?z#w %é", "q": "a&b=c+d"})),
            Ok("https://h/a/x%2Fy%3Fz%23w%20%25%C3%A9/b?q=a%26b%3Dc%2Bd&k=1".to_owned())
        );
        assert_eq!(
            expand("http://h:8080/v{n}/{b}", json!({"n": 2, "b": true})),
            Ok("http://h:8080/v2/true".to_owned())
        );
        assert_eq!(expand("https://h", json!({})), Ok("https://h/".to_owned()));
        assert_eq!(expand("https://h?x={x}", json!({"x": ""})), Ok("https://h/?x=".to_owned()));
    }

    #[test]
    fn an_argument_never_changes_the_structure() {
        for id in ["", ".", "..", "../admin", "a/../../admin", "..\\admin", "a/."] {
            assert!(expand("https://h/a/{id}/b", json!({"id": id})).is_err(), "{id}");
        }
        // A literal dot must not be completed to a dot segment.
        assert!(expand("https://h/a/.{id}", json!({"id": "."})).is_err());
        assert!(expand("https://h/a/%2e{id}", json!({"id": "."})).is_err());
        assert!(expand("https://h/a/{id}", json!({"id": ["x"]})).is_err());
        assert!(expand("https://h/a/{id}", json!({})).unwrap_err().starts_with("/id"));
    }

    #[test]
    fn templates_that_are_refused() {
        for (template, why) in [
            ("https://{host}/x", "choose the host"),
            ("https://h:{port}/x", "choose the host"),
            ("{scheme}://h/x", "begin with"),
            ("ftp://h/x", "begin with"),
            ("https://user:pw@h/x", "credentials"),
            ("https://h/x#frag", "fragment"),
            ("https://h/{x", "balanced"),
            ("https://h/x}", "balanced"),
            ("https://h/{a b}", "white space"),
            ("https://h/{a$}", "not an argument's name"),
            ("https:///x", "not a URL"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(why), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_argument_stays_where_it_was_put(id in ".*", q in ".*") {
            let template = Template::parse("https://api.example:8443/v1/{id}/x?q={q}").unwrap();
            let arguments = json!({"id": id, "q": q});
            if let Ok(url) = template.expand(arguments.as_object().unwrap()) {
                prop_assert_eq!(url.scheme(), "https");
                prop_assert_eq!(url.host_str(), Some("api.example"));
                prop_assert_eq!(url.port(), Some(8443));
                let segments: Vec<_> = url.path_segments().unwrap().collect();
                prop_assert_eq!((segments.len(), segments[0], segments[2]), (3, "v1", "x"));
                prop_assert_eq!(url.query_pairs().count(), 1);
                prop_assert_eq!(url.fragment(), None);
            }
        }
    }
}
