//! Random histories against a plain map of what is owed.

use std::collections::{BTreeMap, BTreeSet};

use bcp_wire::{Gap, Watermark, WatermarkMark};
use proptest::prelude::*;

use super::super::{Durability, RAM_MAX_BYTES};
use super::{Class, Dir, Key, Opened, Record, Spool, SpoolConfig, T0, fs, pack, record};

#[derive(Debug, Clone)]
enum Step {
    /// So many payloads, each so-manieth an event.
    Put(u64, u64),
    Flush,
    /// Committed up to so many hundredths of what was numbered, but for holes of this length at this distance.
    Commit(u64, u64, u64),
    Pack,
    /// Handed out for packing; taken in after so many further steps of this kind.
    PackLater,
    Reopen,
    /// Reopened after so many bytes of the newest data file were cut off.
    Tear(u64),
    /// The disk begins to refuse, or works again.
    Refuse(bool),
    Read(u64),
    GiveUp(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..400_u64, 2..40_u64).prop_map(|(count, each)| Step::Put(count, each)),
        2 => Just(Step::Flush),
        4 => (0..=100_u64, 0..20_u64, 20..60_u64).prop_map(|(share, hole, every)| Step::Commit(share, hole, every)),
        3 => Just(Step::Pack),
        1 => Just(Step::PackLater),
        1 => Just(Step::Reopen),
        1 => (1..300_u64).prop_map(Step::Tear),
        1 => any::<bool>().prop_map(Step::Refuse),
        4 => (0..=100_u64).prop_map(Step::Read),
        1 => (0..=100_u64).prop_map(Step::GiveUp),
    ]
}

struct Run {
    dir: Dir,
    spool: Spool,
    /// What has to be owed.
    owed: BTreeMap<Key, Record>,
    incarnation: u64,
    seq: u64,
    marks: BTreeMap<u64, WatermarkMark>,
    dropped: u64,
    now_ms: u64,
    packing: Vec<super::super::PackDone>,
}

fn config() -> SpoolConfig {
    SpoolConfig { max_bytes: 160 << 10, segment_bytes: 16 << 10, ..SpoolConfig::default() }
}

impl Run {
    fn new() -> Run {
        let dir = Dir::new("model");
        let spool = Spool::open(&dir.0, config(), 0).spool;
        Run {
            dir,
            spool,
            owed: BTreeMap::new(),
            incarnation: 1,
            seq: 0,
            marks: BTreeMap::new(),
            dropped: 0,
            now_ms: 0,
            packing: Vec::new(),
        }
    }

    /// Nothing is told as lost that is still owed, and nothing is lost that is not told.
    fn lose(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            let key = |seq| Key { incarnation: gap.incarnation, seq };
            let lost: Vec<Key> = self.owed.range(key(gap.from)..=key(gap.through)).map(|(key, _)| *key).collect();
            if let Some(samples) = gap.samples {
                assert_eq!(lost.iter().map(|key| u64::from(self.owed[key].samples)).sum::<u64>(), samples, "{gap:?}");
            }
            for key in lost {
                assert!(!self.spool.contains(key), "{key:?} is told as lost in {gap:?}");
                self.owed.remove(&key);
                self.dropped += 1;
            }
        }
    }

    fn put(&mut self, count: u64, each: u64) {
        for _ in 0..count {
            self.seq += 1;
            self.now_ms += 20;
            let class = if self.seq.is_multiple_of(each) { Class::Event } else { Class::Data };
            let mut record = record(self.incarnation, self.seq, class);
            record.samples = u32::try_from(self.seq % 50).unwrap();
            self.owed.insert(record.key, record.clone());
            let gaps = self.spool.append(&record, self.now_ms, T0);
            assert!(gaps.iter().all(|gap| gap.samples.is_some()));
            self.lose(&gaps);
        }
    }

    /// What the broker keeps for us, and says again in every session.
    fn say_watermark(&mut self) {
        let marks: Vec<WatermarkMark> = self.marks.values().cloned().collect();
        let freed = self.spool.commit(&Watermark { v: 1, collector: bcp_wire::Site::A, marks: marks.clone() });
        for mark in marks {
            let committed = |key: &Key| {
                key.incarnation == mark.i
                    && key.seq <= mark.through
                    && !mark.holes.iter().any(|(from, to)| (*from..=*to).contains(&key.seq))
            };
            self.owed.retain(|key, _| !committed(key));
        }
        for range in freed {
            assert!(!self.spool.contains(range.first()) && !self.spool.contains(range.last()), "{range:?}");
        }
    }

    fn commit(&mut self, share: u64, hole: u64, every: u64) {
        let through = self.seq * share / 100;
        let holes: Vec<(u64, u64)> = if hole == 0 {
            Vec::new()
        } else {
            (1..=through / every).map(|n| (n * every, (n * every + hole - 1).min(through))).collect()
        };
        self.marks.insert(self.incarnation, WatermarkMark { i: self.incarnation, through, holes });
        self.say_watermark();
    }

    fn reopen(&mut self, cut: u64) {
        self.spool.refuse_writes = false;
        // Long enough for the disk to be tried again: what is in memory only would be lost, and nobody could say so.
        self.now_ms += 20_000;
        self.put(1, 2);
        self.spool.flush(self.now_ms);
        assert_eq!(self.spool.durability(), &Durability::Disk);
        self.packing.clear();
        let segments = self.dir.segments();
        let newest = segments.iter().rfind(|path| path.to_string_lossy().contains("data-"));
        if cut > 0
            && let Some(newest) = newest
        {
            let file = fs::OpenOptions::new().write(true).open(newest).unwrap();
            file.set_len(file.metadata().unwrap().len().saturating_sub(cut).max(9)).unwrap();
        }
        let Opened { spool, gaps, .. } = Spool::open(&self.dir.0, config(), 0);
        self.spool = spool;
        self.incarnation += 1;
        self.seq = 0;
        self.now_ms = 0;
        let before = self.owed.len() as u64;
        // What was cut off earlier is told again.
        self.lose(&gaps);
        if cut == 0 {
            assert_eq!(self.owed.len() as u64, before, "{gaps:?}");
        } else {
            // A cut between two records is not seen: those behind it were never there.
            let present: BTreeSet<Key> = self.spool.keys().map(|(key, _)| key).collect();
            self.owed.retain(|key, _| present.contains(key));
            let lost = before - self.owed.len() as u64;
            assert!(lost * 100 <= cut + 300, "{lost} lost by {cut} bytes");
        }
        self.dropped = self.spool.figures().dropped;
        // What shared a file with what was owed is owed again until the collector says otherwise.
        let again: Vec<Key> =
            self.spool.keys().map(|(key, _)| key).filter(|key| !self.owed.contains_key(key)).collect();
        for key in again {
            let record = self.spool.read(key, 0).unwrap();
            self.owed.insert(key, record);
        }
        self.say_watermark();
    }

    fn some_key(&self, share: u64) -> Option<Key> {
        let at = self.owed.len() * usize::try_from(share).unwrap() / 100;
        self.owed.keys().nth(at.min(self.owed.len().saturating_sub(1))).copied()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Put(count, each) => self.put(count, each),
            Step::Flush => self.spool.flush(self.now_ms),
            Step::Commit(share, hole, every) => self.commit(share, hole, every),
            Step::Pack => {
                pack(&mut self.spool);
            }
            Step::PackLater => {
                let done = std::mem::take(&mut self.packing);
                self.spool.packed(done, 0);
                self.packing = self.spool.take_packing(0).into_iter().map(super::PackJob::run).collect();
            }
            Step::Reopen => self.reopen(0),
            Step::Tear(cut) => self.reopen(cut),
            Step::Refuse(refuse) => self.spool.refuse_writes = refuse,
            Step::Read(share) => {
                if let Some(key) = self.some_key(share) {
                    assert_eq!(self.spool.read(key, 0).as_ref(), Ok(&self.owed[&key]));
                }
            }
            Step::GiveUp(share) => {
                if let Some(key) = self.some_key(share) {
                    let gap = self.spool.give_up(key, "for a test").unwrap();
                    assert_eq!(gap.samples, Some(u64::from(self.owed[&key].samples)));
                    self.lose(&[gap]);
                }
            }
        }
    }

    fn check(&mut self) {
        let owed: Vec<(Key, Class)> = self.owed.values().map(|record| (record.key, record.class)).collect();
        assert_eq!(self.spool.keys().collect::<Vec<_>>(), owed);
        let figures = self.spool.figures();
        assert_eq!((figures.payloads, figures.dropped), (owed.len() as u64, self.dropped));
        assert_eq!(self.spool.is_empty(), owed.is_empty());
        assert!(figures.disk_bytes <= config().max_bytes && figures.memory_bytes <= RAM_MAX_BYTES);
        let oldest = self.owed.values().next().map(|record| record.t_ms);
        assert!(figures.oldest_t_ms <= oldest && figures.oldest_t_ms.is_some() == oldest.is_some(), "{figures:?}");
        let held: u64 =
            self.spool.memory.iter().flat_map(|memory| memory.values()).map(|held| held.encoded.len() as u64).sum();
        assert_eq!(figures.memory_bytes, held);
        let files: u64 = self.dir.segments().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(files <= figures.disk_bytes, "{files} on the disk, {} counted", figures.disk_bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_spool_owes_what_a_plain_map_owes(steps in prop::collection::vec(step(), 1..60)) {
        let mut run = Run::new();
        for step in &steps {
            run.step(step);
            run.check();
        }
        let all: Vec<Record> = run.owed.values().cloned().collect();
        for record in all {
            let read = run.spool.read(record.key, 0);
            prop_assert_eq!(read.as_ref(), Ok(&record));
        }
    }
}
