//! What a call costs, in integer nano-USD, and default prices for well-known models.
//!
//! The table is a default of a date: `price` in `agent.yaml` overrides it, and a model that it does not know costs
//! nothing until configured (`mote check` says so). It knows no discounts, tiers of service or prices by the hour.

use crate::model::config::Price;
use crate::usage::Usage;

/// The day on which the table was compiled.
pub const TABLE_DATE: &str = "2026-11-21";

/// USD per million tokens, in thousandths: 1 USD a million tokens is 1,000 nano-USD a token.
const fn price(input: u64, cache_read: u64, cache_write: u64, output: u64) -> Price {
    Price { input, cache_read, cache_write, output }
}

/// Default prices by the beginning of a model's name; the longest match counts, so that dated names find theirs.
///
/// Sources, as published by [`TABLE_DATE`]: Anthropic, <https://platform.claude.com/docs/en/about-claude/pricing> (cache
/// writes for five minutes); OpenAI, <https://developers.openai.com/api/docs/pricing> (standard service). Where a price
/// depends on the prompt's length, Claude Haiku 5.5 stands with its higher price (above 100,000 tokens), so that a budget
/// is not overrun; OpenAI's surcharge above 272,000 tokens is not in the table. Models for which OpenAI publishes no price
/// for cache writes do not charge for them: a write costs what input costs.
const TABLE: [(&str, Price); 21] = [
    ("claude-fable-5-1", price(10_000, 1_000, 12_500, 50_000)),
    ("claude-haiku-4-5", price(1_000, 100, 1_250, 5_000)),
    ("claude-haiku-5-5", price(500, 50, 625, 2_500)),
    ("claude-opus-4-5", price(5_000, 500, 6_250, 25_000)),
    ("claude-opus-4-6", price(5_000, 500, 6_250, 25_000)),
    ("claude-opus-4-7", price(5_000, 500, 6_250, 25_000)),
    ("claude-opus-4-8", price(5_000, 500, 6_250, 25_000)),
    ("claude-opus-5", price(5_000, 500, 6_250, 25_000)),
    ("claude-opus-5-5", price(4_000, 400, 5_000, 20_000)),
    ("claude-sonnet-4-5", price(3_000, 300, 3_750, 15_000)),
    ("claude-sonnet-4-6", price(3_000, 300, 3_750, 15_000)),
    ("claude-sonnet-5", price(2_000, 200, 2_500, 10_000)),
    ("claude-sonnet-5-5", price(2_000, 100, 2_500, 10_000)),
    ("gpt-5-mini", price(250, 25, 250, 2_000)),
    ("gpt-5.4", price(2_500, 250, 2_500, 15_000)),
    ("gpt-5.4-mini", price(750, 75, 750, 4_500)),
    ("gpt-5.5", price(5_000, 500, 5_000, 30_000)),
    ("gpt-6-luna", price(100, 10, 125, 500)),
    ("gpt-6-sol", price(2_000, 200, 2_500, 10_000)),
    ("gpt-6.1-sol", price(2_000, 100, 2_500, 10_000)),
    ("gpt-6.1-terra", price(1_000, 50, 1_250, 5_000)),
];

/// The default price of a model. `None` if the table does not know it: a variant (`-pro`, `-nano`) of a known model is
/// not that model.
#[must_use]
pub fn default_price(model: &str) -> Option<Price> {
    let known = |(name, price): &(&'static str, Price)| {
        let rest = model.strip_prefix(name)?;
        // What may follow a name is a date or a marker of one, never another name.
        let version = rest.strip_prefix(['-', '@']).unwrap_or(rest);
        let same = rest.is_empty() || (version.len() < rest.len() && is_date(version));
        same.then_some((name.len(), *price))
    };
    TABLE.iter().filter_map(known).max_by_key(|(length, _)| *length).map(|(_, price)| price)
}

/// `latest`, `20261007` or `2026-10-07`.
fn is_date(text: &str) -> bool {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    text == "latest" || (digits == 8 && text.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

/// What the tokens cost, nano-USD; the largest number if that overflows.
#[must_use]
pub fn cost(usage: &Usage, price: &Price) -> u64 {
    let cached = usage.cache_read.saturating_add(usage.cache_write);
    let parts = [
        (usage.input.saturating_sub(cached), price.input),
        (usage.cache_read, price.cache_read),
        (usage.cache_write, price.cache_write),
        (usage.output, price.output),
    ];
    parts.iter().fold(0u64, |sum, (tokens, each)| sum.saturating_add(tokens.saturating_mul(*each)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_cost_their_own_price() {
        let price = price(2_000, 100, 2_500, 10_000);
        let usage = Usage { input: 1_000, cache_read: 700, cache_write: 200, output: 50, reasoning: 40 };
        assert_eq!(cost(&usage, &price), 100 * 2_000 + 700 * 100 + 200 * 2_500 + 50 * 10_000);
    }

    #[test]
    fn costs_saturate() {
        let usage = Usage { input: u64::MAX, cache_read: 1, output: u64::MAX, ..Usage::default() };
        assert_eq!(cost(&usage, &price(2, 2, 2, 2)), u64::MAX);
        let inconsistent = Usage { input: 1, cache_read: 5, ..Usage::default() };
        assert_eq!(cost(&inconsistent, &price(1, 1, 1, 1)), 5);
    }

    #[test]
    fn models_are_found_by_name_and_date_but_not_by_kinship() {
        let sonnet = default_price("claude-sonnet-5-5").unwrap();
        assert_eq!(sonnet.cache_read, 100, "not the price of claude-sonnet-5");
        assert_eq!(default_price("claude-sonnet-5-5-20260929"), Some(sonnet));
        assert_eq!(default_price("gpt-5.4-2026-03-05"), default_price("gpt-5.4"));
        assert_eq!(default_price("claude-haiku-4-5-latest"), default_price("claude-haiku-4-5"));
        for unknown in ["gpt-5.5-pro", "gpt-5.4-nano", "llama3.2", "", "claude-sonnet-5-6"] {
            assert_eq!(default_price(unknown), None, "{unknown}");
        }
    }

    /// What documents and examples name, one of each provider.
    const CURRENT: [&str; 2] = ["claude-sonnet-5-5", "gpt-6.1-terra"];

    #[test]
    fn documents_and_examples_name_current_models_and_all_the_same() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files = vec![root.join("README.md")];
        for folder in ["docs", "examples"] {
            let mut folders = vec![root.join(folder)];
            while let Some(folder) = folders.pop() {
                for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                    match path.extension().and_then(|kind| kind.to_str()) {
                        None if path.is_dir() => folders.push(path),
                        Some("md" | "yaml") => files.push(path),
                        _ => {}
                    }
                }
            }
        }
        let mut named = 0;
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
            for word in text.split(|c| !is_part(c)).map(|word| word.trim_end_matches('.')) {
                let is_model = |prefix: &str| {
                    word.strip_prefix(prefix).is_some_and(|rest| rest.contains(|c: char| c.is_ascii_digit()))
                };
                if is_model("claude-") || is_model("gpt-") {
                    named += 1;
                    assert!(CURRENT.contains(&word), "{} names {word}, not one of {CURRENT:?}", file.display());
                }
            }
        }
        assert!(named >= CURRENT.len(), "{named} names were found");
        assert!(CURRENT.iter().all(|name| default_price(name).is_some()));
    }

    #[test]
    fn the_table_is_sane() {
        for (name, price) in TABLE {
            assert!(price.cache_read < price.input && price.input <= price.cache_write, "{name}");
            assert!(price.cache_write < price.output, "{name}");
        }
        assert!(TABLE.is_sorted_by_key(|(name, _)| name));
    }
}
