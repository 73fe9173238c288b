//! Golden journals: what is stored today replays for ever, on this build and on a smaller or larger one.
//!
//! `UPDATE_GOLDEN=1 cargo test -p mote-core --test golden every_scenario` writes the files anew. A changed file of a
//! released format is a break: raise `journal::CORE` or `journal::FORMAT` and keep the old files beside the new.
#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod journal_file;
#[path = "../play/mod.rs"]
mod play;
mod scenarios;

use std::collections::BTreeSet;

use journal_file::VERSIONS;
use mote_core::journal::{self, Malformed, ReplayError};
use mote_core::{Event, EventKind, Refusal, Run};
use scenarios::{CALLS, SCENARIOS, UNITS};

/// A checked-in journal: version and name, records, trailer.
type File = (String, Vec<Vec<u8>>, Vec<String>);

/// Every file of every version.
fn files() -> Vec<File> {
    VERSIONS.iter().flat_map(|(version, _)| files_of(version)).collect()
}

fn files_of(version: &str) -> Vec<File> {
    stored(version)
        .into_iter()
        .map(|file| {
            let name = format!("{version}/{file}");
            let text = std::fs::read_to_string(journal_file::folder(version).join(&file)).unwrap();
            let (records, trailer) = journal_file::parse(&text);
            assert!(records.len() >= 2 && trailer.len() >= 3, "{name} is cut short");
            (name, records, trailer)
        })
        .collect()
}

/// Names of the files of a version.
fn stored(version: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(journal_file::folder(version)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Length of a record without its actions.
fn event_len(record: &[u8]) -> usize {
    (0..=record.len()).find(|len| journal::decode::<CALLS>(&record[..*len]).is_ok()).unwrap()
}

fn replay_all<const U: usize, const C: usize>(records: &[Vec<u8>]) -> Result<Run<U, C>, ReplayError> {
    let mut run = Run::new();
    records.iter().try_for_each(|record| run.replay(record).map(drop))?;
    Ok(run)
}

#[test]
fn every_scenario_is_written_byte_for_byte_as_it_was() {
    let update = std::env::vars().any(|(name, value)| name == "UPDATE_GOLDEN" && value == "1");
    for scenario in SCENARIOS {
        let (path, text) = (journal_file::path(scenario.name), journal_file::render(scenario, &(scenario.play)()));
        if update {
            std::fs::write(&path, &text).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(stored, text, "{} differs", path.display());
    }
}

#[test]
fn every_scenario_plays_to_its_end() {
    for scenario in SCENARIOS {
        let mut play = (scenario.play)();
        assert_eq!(play.refuse(mote_core::Event::TimerFired), Refusal::Finished, "{}", scenario.name);
    }
}

#[test]
fn every_file_belongs_to_a_scenario() {
    let known: BTreeSet<_> = SCENARIOS.iter().map(|scenario| format!("{}.journal", scenario.name)).collect();
    assert_eq!(stored("v1"), known);
}

#[test]
fn every_file_replays_to_the_state_that_it_states() {
    for (name, records, trailer) in files() {
        let run: Run<UNITS, CALLS> = replay_all(&records).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(journal_file::expectations(&run), trailer, "{name}");
    }
}

#[test]
fn a_larger_build_asks_for_the_same() {
    for (name, records, trailer) in files() {
        let (mut small, mut large) = (Run::<UNITS, CALLS>::new(), Run::<128, 16>::new());
        for record in &records {
            let (_, asked) = small.replay(record).unwrap();
            let (_, asked_there) = large.replay(record).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(asked.iter().eq(asked_there.iter()), "{name}");
            assert_eq!(small.poll_at(), large.poll_at(), "{name}");
        }
        assert_eq!(journal_file::expectations(&large), trailer, "{name}");
    }
}

#[test]
fn a_build_that_is_too_small_refuses_the_first_record_and_names_what_it_lacks() {
    for (name, records, _) in files() {
        let units = ReplayError::Refused(Refusal::Capacity { what: "units", asked: 6, has: 5 });
        assert_eq!(Run::<5, CALLS>::new().replay(&records[0]).unwrap_err(), units, "{name}");
        assert_eq!(units.to_string(), "the event is refused: the run asks for 6 units, this build has 5");
        let calls = ReplayError::Refused(Refusal::Capacity { what: "calls", asked: 3, has: 2 });
        assert_eq!(Run::<UNITS, 2>::new().replay(&records[0]).unwrap_err(), calls, "{name}");
    }
}

#[test]
fn a_turn_with_more_calls_than_the_build_has_is_malformed_there() {
    let (_, records, _) = files().into_iter().find(|(name, ..)| name == "v1/parallel_tools.journal").unwrap();
    let refused: Vec<_> = records.iter().filter_map(|record| journal::decode::<2>(record).err()).collect();
    assert_eq!(refused, [Malformed::Calls { found: 3, has: 2 }]);
    assert_eq!(refused[0].to_string(), "the record has 3 calls, this build takes 2");
}

#[test]
fn a_tampered_action_is_a_divergence() {
    for (name, records, _) in files() {
        let mut run = Run::<UNITS, CALLS>::new();
        for record in &records {
            let (start, before) = (event_len(record), run);
            let mut forged = Vec::new();
            if start < record.len() {
                // The first number of the first action: a token count, a call, a step, a time or an outcome.
                let mut other = record.clone();
                other[start + 1] ^= 1;
                forged.extend([other, record[..start].to_vec()]);
            }
            // One action more: `Suspend { until: 0 }`.
            forged.push([record.as_slice(), &[7, 0]].concat());
            for forged in forged {
                let error = run.replay(&forged).unwrap_err();
                let told = matches!(
                    error,
                    ReplayError::Diverged { .. } | ReplayError::Malformed(Malformed::Tag { what: "spender", .. })
                );
                assert!(told, "{name}: {error:?}");
                assert_eq!(run, before, "{name}: a divergence changed the run");
            }
            run.replay(record).unwrap();
        }
    }
}

#[test]
fn another_format_version_is_named() {
    for (name, records, _) in files() {
        let mut record = records[0].clone();
        record[0] = 1;
        let error = Run::<UNITS, CALLS>::new().replay(&record).unwrap_err();
        assert_eq!(error, ReplayError::Malformed(Malformed::Format(1)), "{name}");
        assert_eq!(error.to_string(), "the record has format 1, this build reads 2");
    }
}

#[test]
fn a_journal_cut_anywhere_is_a_clean_prefix_and_then_an_error() {
    for (name, records, _) in files() {
        let mut run = Run::<UNITS, CALLS>::new();
        for record in &records {
            let before = run;
            for cut in 0..record.len() {
                let error = run.replay(&record[..cut]).unwrap_err();
                let expected = matches!(
                    error,
                    ReplayError::Malformed(Malformed::Truncated) | ReplayError::Diverged { now: Some(_), then: None }
                );
                assert!(expected, "{name}, cut at {cut}: {error:?}");
                assert_eq!(run, before, "{name}: a cut record changed the run");
            }
            run.replay(record).unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_never_panics_and_an_error_changes_nothing() {
    for (_, records, _) in files() {
        let mut run = Run::<UNITS, CALLS>::new();
        for record in &records {
            for bit in 0..record.len() * 8 {
                let (mut forged, mut replica) = (record.clone(), run);
                forged[bit / 8] ^= 1 << (bit % 8);
                if replica.replay(&forged).is_err() {
                    assert_eq!(replica, run);
                }
            }
            run.replay(record).unwrap();
        }
    }
}

#[test]
fn the_first_record_says_which_core_wrote_it() {
    for (version, wrote) in VERSIONS {
        for (name, records, _) in files_of(version) {
            let first = journal::decode::<CALLS>(&records[0]).unwrap().0.event;
            assert!(matches!(first, Event::Opened { core, .. } if core == wrote), "{name}");
            assert_eq!(replay_all::<UNITS, CALLS>(&records).unwrap().core(), wrote, "{name}");
        }
    }
}

#[test]
fn the_files_hold_every_event_and_every_action() {
    let (mut events, mut actions) = (BTreeSet::new(), BTreeSet::new());
    for (_, records, _) in files() {
        for record in &records {
            let (decoded, asked) = journal::decode::<CALLS>(record).unwrap();
            events.insert(journal_file::name(&decoded.event));
            actions.extend(asked.map(|action| journal_file::name(&action.unwrap())));
        }
    }
    assert_eq!(events.len(), EventKind::ALL.len(), "{events:?}");
    assert_eq!(actions.len(), 10, "{actions:?}");
}
