//! Random histories of crashes, damaged bytes and refused reads: what was numbered is committed, still there, or told as lost.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bcp_wire::Gap;
use proptest::prelude::*;

use super::super::{FoundLate, Unread};
use super::{Class, Dir, Key, KeyRange, Opened, Spool, SpoolConfig, T0, fs, mark, pack, record};

#[derive(Debug, Clone)]
enum Step {
    Put(u64),
    /// So many hundredths of what a start has numbered: of this start, or of so many before.
    Commit(u64, u64),
    Pack,
    /// Of one of the files, one of the bytes.
    Damage(prop::sample::Index, prop::sample::Index),
    /// Ends without a word, and so many bytes of the newest file of a class did not reach the disk.
    Crash(Option<(Class, u64)>),
    /// The system refuses reads, or lets them be again.
    Refuse(bool),
    Read(prop::sample::Index),
    ReadLate,
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(Class::Data), Just(Class::Event)];
    prop_oneof![
        6 => (1..900_u64).prop_map(Step::Put),
        3 => (0..=100_u64, 0..3_u64).prop_map(|(share, before)| Step::Commit(share, before)),
        3 => Just(Step::Pack),
        3 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(file, byte)| Step::Damage(file, byte)),
        2 => prop::option::of((class, 1..400_u64)).prop_map(Step::Crash),
        1 => any::<bool>().prop_map(Step::Refuse),
        3 => any::<prop::sample::Index>().prop_map(Step::Read),
        1 => Just(Step::ReadLate),
    ]
}

struct Run {
    dir: Dir,
    spool: Spool,
    /// Every number ever given, and those that did not reach the disk before a crash.
    numbered: BTreeSet<Key>,
    never_written: BTreeSet<Key>,
    committed: BTreeSet<Key>,
    told: BTreeSet<Key>,
    incarnation: u64,
    seq: u64,
    now_ms: u64,
    /// Damaged once each: the same fact stands in two places, and not in three.
    damaged: BTreeSet<PathBuf>,
    refused: bool,
}

fn config() -> SpoolConfig {
    SpoolConfig { max_bytes: 8 << 20, segment_bytes: 96 << 10, ..SpoolConfig::default() }
}

const fn class_of(seq: u64) -> Class {
    if seq.is_multiple_of(7) { Class::Event } else { Class::Data }
}

impl Run {
    fn new() -> Run {
        let dir = Dir::new("faults");
        let spool = Spool::open(&dir.0, config(), 0).spool;
        Run {
            dir,
            spool,
            numbered: BTreeSet::new(),
            never_written: BTreeSet::new(),
            committed: BTreeSet::new(),
            told: BTreeSet::new(),
            incarnation: 1,
            seq: 0,
            now_ms: 0,
            damaged: BTreeSet::new(),
            refused: false,
        }
    }

    fn tell(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            for seq in gap.from..=gap.through {
                let key = Key { incarnation: gap.incarnation, seq };
                assert!(!self.spool.contains(key), "{key:?} is told as lost in {gap:?} and still owed");
                assert!(self.numbered.contains(&key), "{key:?} of {gap:?} never was");
                self.told.insert(key);
            }
        }
    }

    fn put(&mut self, count: u64) {
        for _ in 0..count {
            self.seq += 1;
            let record = record(self.incarnation, self.seq, class_of(self.seq));
            self.numbered.insert(record.key);
            let gaps = self.spool.append(&record, self.now_ms, T0);
            self.tell(&gaps);
        }
        self.spool.flush(self.now_ms);
    }

    fn commit(&mut self, share: u64, before: u64) {
        let start = self.incarnation.saturating_sub(before).max(1);
        let of_start = Key { incarnation: start, seq: 0 }..=Key { incarnation: start, seq: u64::MAX };
        let highest = self.numbered.range(of_start).next_back().map_or(0, |key| key.seq);
        let freed = self.spool.commit(&mark(start, highest * share / 100, vec![]));
        self.committed.extend(freed.into_iter().flat_map(KeyRange::keys));
    }

    fn damage(&mut self, file: prop::sample::Index, byte: prop::sample::Index) {
        let files: Vec<PathBuf> = self.dir.segments().into_iter().filter(|path| !self.damaged.contains(path)).collect();
        if files.is_empty() {
            return;
        }
        let path = file.get(&files);
        let mut bytes = fs::read(path).unwrap();
        let at = byte.index(bytes.len());
        bytes[at] ^= 0x55;
        fs::write(path, bytes).unwrap();
        self.damaged.insert(path.clone());
    }

    fn crash(&mut self, cut: Option<(Class, u64)>) {
        let beginning = |class: Class| {
            let class = if class == Class::Data { "data" } else { "event" };
            format!("{class}-{:016x}-", self.incarnation)
        };
        let mut cut_class = None;
        if let Some((class, bytes)) = cut
            && let Some(newest) = self
                .dir
                .segments()
                .into_iter()
                .rfind(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&beginning(class)))
            && self.damaged.insert(newest.clone())
        {
            let file = fs::OpenOptions::new().write(true).open(newest).unwrap();
            file.set_len(file.metadata().unwrap().len().saturating_sub(bytes)).unwrap();
            cut_class = Some(class);
        }
        let mut spool = Spool::empty(&self.dir.0, config());
        spool.reader.refuse = self.refused.then_some(5);
        let Opened { spool, gaps, .. } = spool.look(self.now_ms);
        self.spool = spool;
        self.tell(&gaps);
        if self.refused {
            self.read_late(true);
        }
        let last = |class: Class| {
            let own = self.spool.keys().filter(|(key, of)| *of == class && key.incarnation == self.incarnation);
            own.map(|(key, _)| key.seq).max().unwrap_or(0)
        };
        if let Some(class) = cut_class {
            let last = last(class);
            let gone: Vec<Key> = self
                .missing()
                .into_iter()
                .filter(|key| key.incarnation == self.incarnation && class_of(key.seq) == class && key.seq > last)
                .collect();
            assert!(gone.len() <= 5, "{} by 400 bytes", gone.len());
            self.never_written.extend(gone);
        }
        self.incarnation += 1;
        self.seq = 0;
    }

    fn read_late(&mut self, let_read: bool) {
        if let_read {
            self.spool.reader.refuse = None;
        }
        self.now_ms += 600_000;
        if let Some(FoundLate { gaps, .. }) = self.spool.read_late(self.now_ms) {
            self.tell(&gaps);
        }
        self.spool.reader.refuse = self.refused.then_some(5);
    }

    fn read(&mut self, key: Key) {
        match self.spool.read(key, self.now_ms) {
            Ok(read) => assert_eq!(read, record(key.incarnation, key.seq, class_of(key.seq))),
            Err(Unread::Later { until_ms, .. }) => assert!(self.refused && until_ms > self.now_ms),
            Err(Unread::Lost(gaps)) => {
                assert!(!self.damaged.is_empty(), "{gaps:?}");
                self.tell(&gaps);
                assert!(self.told.contains(&key));
            }
            Err(Unread::NotOwed) => panic!("{key:?} was owed"),
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put(count) => self.put(*count),
            Step::Commit(share, before) => self.commit(*share, *before),
            Step::Pack => {
                pack(&mut self.spool);
            }
            Step::Damage(file, byte) => self.damage(*file, *byte),
            Step::Crash(cut) => self.crash(*cut),
            Step::Refuse(refused) => {
                self.refused = *refused;
                self.spool.reader.refuse = refused.then_some(5);
            }
            Step::Read(at) => {
                let owed: Vec<Key> = self.spool.keys().map(|(key, _)| key).collect();
                if !owed.is_empty() {
                    self.read(*at.get(&owed));
                }
            }
            Step::ReadLate => self.read_late(false),
        }
    }

    fn missing(&self) -> Vec<Key> {
        let known =
            |key: &&Key| self.committed.contains(key) || self.told.contains(key) || self.never_written.contains(key);
        self.numbered.iter().filter(|key| !known(key) && !self.spool.contains(**key)).copied().collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_was_numbered_is_committed_or_there_or_told(steps in prop::collection::vec(step(), 1..40)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            let missing = run.missing();
            prop_assert!(missing.is_empty(), "after {:?}: {:?}", step, missing);
        }
        run.step(&Step::Refuse(false));
        run.read_late(true);
        let owed: Vec<Key> = run.spool.keys().map(|(key, _)| key).collect();
        for key in owed {
            // It may be lost with another one by now.
            if run.spool.contains(key) {
                run.read(key);
            }
        }
        let missing = run.missing();
        prop_assert!(missing.is_empty(), "in the end: {:?}", missing);
    }
}
