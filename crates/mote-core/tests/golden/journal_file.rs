//! The files of `golden/v1`, which core 0x0100 wrote: one record a line as lowercase hex, `#` before a comment, and a `# expect:` trailer that
//! says where the run must stand afterwards. It does not know what the records mean.

use std::fmt::Write as _;
use std::path::PathBuf;

use mote_core::{Run, journal};

use crate::scenarios::{CALLS, Golden, Scenario};

/// The versions whose files are kept, with the number of the core that wrote them; the last is this one.
pub const VERSIONS: [(&str, u16); 1] = [("v1", journal::CORE)];

pub fn folder(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(version)
}

/// The file of a scenario as this core writes it.
pub fn path(name: &str) -> PathBuf {
    folder(VERSIONS[VERSIONS.len() - 1].0).join(format!("{name}.journal"))
}

/// The file of a scenario as it should be.
pub fn render(scenario: &Scenario, play: &Golden) -> String {
    let mut text = format!("# {}\n# Records of format {}.\n", scenario.about, journal::FORMAT);
    let mut before = crate::play::START;
    for record in &play.records {
        let (decoded, actions) = journal::decode::<CALLS>(record).unwrap();
        let actions: Vec<String> = actions.map(|action| name(&action.unwrap())).collect();
        let asked = if actions.is_empty() { "nothing".to_owned() } else { actions.join(", ") };
        writeln!(text, "# +{} ms: {} -> {asked}", decoded.now - before, name(&decoded.event)).unwrap();
        before = decoded.now;
        let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{hex}").unwrap();
    }
    for line in expectations(&play.run) {
        writeln!(text, "{line}").unwrap();
    }
    text
}

/// The records of a file, and its trailer.
pub fn parse(text: &str) -> (Vec<Vec<u8>>, Vec<String>) {
    let digits = |line: &str| -> Vec<u8> {
        assert!(
            line.len().is_multiple_of(2) && line.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f')),
            "no hex: {line}"
        );
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
    };
    let records = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(digits).collect();
    let trailer = text.lines().filter(|line| line.starts_with("# expect:")).map(str::to_owned).collect();
    (records, trailer)
}

/// Where a run stands, as the trailer says it.
pub fn expectations<const UNITS: usize, const CALLS: usize>(run: &Run<UNITS, CALLS>) -> Vec<String> {
    let (budget, context) = (run.budget(), run.context());
    let mut lines = vec![
        format!(
            "# expect: phase={:?} steps={} tool_calls={} active_ms={}",
            run.phase(),
            run.steps(),
            run.tool_calls(),
            run.active_ms()
        ),
        format!(
            "# expect: spent_input={} spent_output={} spent_nano_usd={} overshoot_tokens={} overshoot_nano_usd={}",
            budget.spent.input,
            budget.spent.output,
            budget.spent.nano_usd,
            budget.overshoot_tokens,
            budget.overshoot_nano_usd
        ),
        format!(
            "# expect: input={} first={} tokens={} folded_units={} folded_tokens={} digest={:02x}",
            context.input(),
            context.first(),
            context.tokens(),
            context.folded_units(),
            context.folded_tokens(),
            run.digest()[0]
        ),
    ];
    let mote_core::Spend { input, output, nano_usd } = budget.uncertain;
    if budget.uncertain != mote_core::Spend::default() {
        lines
            .push(format!("# expect: uncertain_input={input} uncertain_output={output} uncertain_nano_usd={nano_usd}"));
    }
    lines
}

/// The name of a variant.
pub fn name(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").split([' ', '(', '{']).next().unwrap().to_owned()
}
