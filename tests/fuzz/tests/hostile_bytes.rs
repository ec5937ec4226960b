//! Every target of `bcp_fuzz` with random bytes, with valid ones that were changed, and with what did harm once: nothing
//! panics. The short form, in every run; `tests/run fuzz` looks further, by what the code reaches.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use bcp_fuzz::found::FOUND;
use bcp_fuzz::{TARGETS, Target, scratch};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// For each target. What takes a millisecond, as most files do, makes half a second of it.
const CASES: u32 = 400;

/// How valid bytes become others.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    Cut(Index),
    /// A part once more, somewhere else.
    Copy(Index, Index, Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        4 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => at().prop_map(Change::Remove),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => at().prop_map(Change::Cut),
        1 => (at(), at(), at()).prop_map(|(from, to, at)| Change::Copy(from, to, at)),
    ];
    proptest::collection::vec(change, 1..5)
}

fn changed(valid: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Change::Remove(at) => {
                bytes.remove(at.index(bytes.len()));
            }
            Change::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Copy(from, to, at) => {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                let at = at.index(bytes.len());
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

fn random() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..400)
}

fn try_target(target: &Target) -> Result<(), String> {
    let seeds = target.seeds();
    assert!(!seeds.is_empty(), "{} has no valid bytes", target.name);
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&(random(), changes(), any::<Index>()), |(bytes, changes, which)| {
        (target.run)(&bytes);
        let valid: &Vec<u8> = which.get(&seeds);
        (target.run)(&changed(valid, &changes));
        Ok(())
    });
    tried.map_err(|fault| format!("{}: {fault}", target.name))
}

#[test]
fn no_bytes_break_a_parser() {
    // A thread each: most wait for files in between.
    let faults: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> =
            TARGETS.iter().map(|target| (target.name, scope.spawn(move || try_target(target)))).collect();
        let ended = running
            .into_iter()
            .map(|(name, thread)| thread.join().unwrap_or_else(|_| Err(format!("{name}: its valid bytes"))));
        ended.filter_map(Result::err).collect()
    });
    let _ = std::fs::remove_dir_all(scratch());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_was_found_belongs_to_a_target() {
    for found in FOUND {
        assert!(TARGETS.iter().any(|target| target.name == found.target), "{}", found.name);
    }
}
