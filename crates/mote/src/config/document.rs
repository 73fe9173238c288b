//! YAML text as a tree in which every node knows its line and column.
//!
//! It knows YAML, not `agent.yaml`: what the fields mean is for [`super::structure`] and [`super::validate`].

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::diagnostic::{Diagnostic, FieldPath, Segment};
use crate::canonical::canonical;
use crate::limits::{CONFIG_ALIASES_MAX, CONFIG_DEPTH_MAX, CONFIG_NODES_MAX};

/// A position in the file, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Line.
    pub(super) line: u64,
    /// Column, characters.
    pub(super) column: u64,
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A node and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    /// Where it starts.
    pub(super) at: Position,
    /// What it is.
    pub(super) value: Value,
    /// Where in the text it is written, bytes: an alias's value stands elsewhere than the alias.
    written: Range<usize>,
}

/// A node's value.
#[derive(Debug)]
pub(super) enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(serde_json::Number),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping in the order of the file; keys may repeat.
    Map(Vec<Pair>),
}

/// One entry of a mapping.
#[derive(Debug)]
pub(super) struct Pair {
    /// Where the key stands.
    pub(super) at: Position,
    /// The key.
    pub(super) key: String,
    /// The value.
    pub(super) node: Node,
}

impl Node {
    /// The tree as JSON, positions dropped; of repeated keys the first counts.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => serde_json::Value::Number(number.clone()),
            Value::Text(text) => text.clone().into(),
            Value::List(nodes) => nodes.iter().map(Self::to_json).collect(),
            Value::Map(pairs) => {
                let mut map = serde_json::Map::new();
                for pair in pairs {
                    map.entry(pair.key.clone()).or_insert_with(|| pair.node.to_json());
                }
                serde_json::Value::Object(map)
            }
        }
    }

    /// Gives the numbers that a double does not hold the digits of the text.
    fn keep_digits(&mut self, text: &str) {
        match &mut self.value {
            Value::Number(number) if number.is_f64() => {
                let written = text.get(self.written.clone()).unwrap_or_default().trim();
                let exact = serde_json::from_str::<serde_json::Number>(written.trim_start_matches('+'));
                if let Ok(exact) = exact
                    && (is_whole(written) || same(&exact) != same(number))
                {
                    *number = exact;
                }
            }
            Value::List(nodes) => nodes.iter_mut().for_each(|node| node.keep_digits(text)),
            Value::Map(pairs) => pairs.iter_mut().for_each(|pair| pair.node.keep_digits(text)),
            _ => {}
        }
    }

    /// Where the field stands, or the nearest field above it that is written.
    pub(super) fn locate(&self, path: &FieldPath) -> Position {
        let mut node = self;
        for segment in &path.0 {
            match node.below(segment) {
                Some(below) => node = below,
                None => break,
            }
        }
        node.at
    }

    fn below(&self, segment: &Segment) -> Option<&Self> {
        match (segment, &self.value) {
            (Segment::Key(key), Value::Map(pairs)) => pairs.iter().find(|pair| pair.key == *key).map(|pair| &pair.node),
            (Segment::Index(index), Value::List(nodes)) => nodes.get(*index),
            _ => None,
        }
    }
}

/// Whether the text is a whole number, written without point and exponent.
fn is_whole(text: &str) -> bool {
    text.trim_start_matches(['+', '-']).bytes().all(|byte| byte.is_ascii_digit())
}

/// What equal numbers have in common, however they are written.
fn same(number: &serde_json::Number) -> String {
    canonical(&serde_json::Value::Number(number.clone()))
}

/// Reads one YAML document. Syntax errors come one at a time: what follows them cannot be trusted.
pub(super) fn parse(text: &str) -> Result<Node, Diagnostic> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: CONFIG_DEPTH_MAX,
            max_nodes: CONFIG_NODES_MAX,
            max_aliases: CONFIG_ALIASES_MAX,
            max_documents: 1,
        },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    };
    let tree: Spanned<Tree> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let noticed = error.location().map_or(Position { line: 0, column: 0 }, Position::from);
        let (at, said) = match tab(text, noticed.line) {
            Some(tab) => (tab, "a tab in the indentation; YAML is indented with spaces alone".to_owned()),
            None => (noticed, sentence(&error)),
        };
        let message = format!("failed to parse YAML: {said}");
        Diagnostic { line: at.line, column: at.column, ..Diagnostic::of_file(message) }
    })?;
    let mut node = Node::from(tree);
    node.keep_digits(text);
    Ok(node)
}

/// The first tab that indents a line, at the latest just behind the line where the parser noticed something: it tells of the
/// block that the tab is in, or of what it took the line for.
fn tab(text: &str, noticed: u64) -> Option<Position> {
    let mut block = None;
    for (number, line) in (1..).zip(text.lines()).take_while(|(number, _)| *number <= noticed + 1) {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let content = line.trim();
        // Text of a block scalar may begin with anything; tabs before nothing and before a comment are allowed.
        let is_text = block.is_some_and(|outer| indent > outer);
        if is_text || content.is_empty() || content.starts_with('#') {
            continue;
        }
        if line[indent..].starts_with('\t') {
            return Some(Position { line: number, column: indent as u64 + 1 });
        }
        let last = content.rsplit([' ', ':']).next().unwrap_or_default();
        let opens = last.starts_with(['|', '>']) && last[1..].chars().all(|c| c.is_ascii_digit() || "+-".contains(c));
        block = opens.then_some(indent);
    }
    None
}

/// What is wrong, in words of our own where the parser has none for people: of its bounds.
fn sentence(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::budget::BudgetBreach;
    let breach = match error.without_snippet() {
        serde_saphyr::Error::Budget { breach, .. } => breach,
        other => return first_line(&other.to_string()),
    };
    match breach {
        BudgetBreach::Documents { .. } => "the file must hold one document only, without a further `---`".to_owned(),
        BudgetBreach::Nodes { .. } => format!("it has more than {CONFIG_NODES_MAX} values (CONFIG_NODES_MAX)"),
        BudgetBreach::Depth { .. } => format!("it is nested deeper than {CONFIG_DEPTH_MAX} levels (CONFIG_DEPTH_MAX)"),
        BudgetBreach::Aliases { .. } => format!("it uses more than {CONFIG_ALIASES_MAX} aliases (CONFIG_ALIASES_MAX)"),
        _ => "it is larger than any agent.yaml needs to be".to_owned(),
    }
}

/// The parser's own sentence without its excerpt and its repetition of the position.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.split(" at line ").next().unwrap_or(line).to_owned()
}

struct Tree(Value);

impl From<Spanned<Tree>> for Node {
    fn from(spanned: Spanned<Tree>) -> Self {
        let span = spanned.defined.span();
        let [start, length] = [span.byte_offset(), span.byte_len()]
            .map(|bytes| bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or_default());
        Self { at: spanned.referenced.into(), value: spanned.value.0, written: start..start.saturating_add(length) }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = access.next_element::<Spanned<Tree>>()? {
            nodes.push(node.into());
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let node = access.next_value::<Spanned<Tree>>()?.into();
            pairs.push(Pair { at: key.referenced.into(), key: key.value, node });
        }
        Ok(Value::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tab_is_named_where_it_stands() {
        for (text, line, column) in [
            ("a: 1\n\tb: 2\n", 2, 1),
            ("model:\n  provider: x\n\tname: y\n", 3, 1),
            ("model:\n\tprovider: x\n\tname: y\n", 2, 1),
            ("tools:\n  - name: a\n  \tdescription: b\n", 3, 3),
            ("p: |\n  a\n  \tcode\nq:\n\tr: 1\n", 5, 1),
        ] {
            let found = parse(text).unwrap_err();
            assert!(found.message.contains("a tab"), "{text:?}: {found:?}");
            assert_eq!((found.line, found.column), (line, column), "{text:?}: {found:?}");
        }
        assert!(parse("p: |\n  a\n  \tcode\nq: 1\t# a comment\n").is_ok());
        let other = parse("p: |\n  a\n  \tcode\nq: [1\nr: 2\n").unwrap_err();
        assert!(!other.message.contains("a tab"), "{other:?}");
    }

    #[test]
    fn every_node_knows_its_place() {
        let node = parse("a: 1\nb:\n  - c: x\n    d: [1, true]\n").unwrap();
        let check = |path: FieldPath, line, column| assert_eq!(node.locate(&path), Position { line, column }, "{path}");
        check(FieldPath::top("a"), 1, 4);
        check(FieldPath::top("b").index(0).key("c"), 3, 8);
        check(FieldPath::top("b").index(0).key("d").index(1), 4, 12);
        // What is not written is located at what surrounds it.
        check(FieldPath::top("b").index(0).key("missing"), 3, 5);
        let Value::Map(pairs) = &node.value else { panic!("a mapping") };
        assert_eq!(pairs[1].at, Position { line: 2, column: 1 });
    }

    #[test]
    fn scalars_keep_their_kind() {
        let node = parse("a: on\nb: true\nc: 0.5\nd: 200k\ne: ~\nf: 12\ng: -3\n").unwrap();
        let expected = serde_json::json!({
            "a": "on", "b": true, "c": 0.5, "d": "200k", "e": null, "f": 12, "g": -3
        });
        assert_eq!(node.to_json(), expected);
    }

    #[test]
    fn numbers_keep_their_digits() {
        let text = "é: [123456789012345678901234567890, -123456789012345678901234567891]\nb: &b 0.1234567890123456789\nc: *b\n\
                    d: 0.50\ne: 100000000000000000000 # é\nf: \"123456789012345678901234567890\"\n";
        let expected = r#"{"é":[123456789012345678901234567890,-123456789012345678901234567891],"b":0.1234567890123456789,"c":0.1234567890123456789,"d":0.5,"e":100000000000000000000,"f":"123456789012345678901234567890"}"#;
        assert_eq!(parse(text).unwrap().to_json().to_string(), expected);
    }

    #[test]
    fn syntax_errors_have_a_place() {
        let error = parse("name: x\ntools: [a, b\nother: y\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(error.message.starts_with("failed to parse YAML: "), "{error:?}");
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
        for (name, previous) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
            let aliases = vec![format!("*{previous}"); 10].join(", ");
            text.push_str(&format!("{name}: &{name} [{aliases}]\n"));
        }
        assert!(parse(&text).is_err());
    }
}
