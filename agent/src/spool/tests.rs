#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use bcp_wire::{Watermark, WatermarkMark};

use super::{Class, Durability, Key, KeyRange, Opened, PackJob, Record, Spool, SpoolConfig};

mod damage;
mod faults;
mod model;

const T0: i64 = 1_790_000_000_000;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path =
            std::env::temp_dir().join(format!("bcp-spool-{name}-{}-{}", std::process::id(), rand::random::<u32>()));
        Dir(path)
    }
    fn segments(&self) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect();
        all.sort();
        all
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn small() -> SpoolConfig {
    SpoolConfig { max_bytes: 8_192, segment_bytes: 1_024, ..SpoolConfig::default() }
}

fn record(incarnation: u64, seq: u64, class: Class) -> Record {
    Record {
        key: Key { incarnation, seq },
        class,
        device: "ups-a1".parse().unwrap(),
        t_ms: T0 + i64::try_from(seq).unwrap(),
        samples: 3,
        payload: format!("{{\"s\":{seq},\"fill\":\"{}\"}}", "x".repeat(60)).into_bytes(),
    }
}

fn fill(spool: &mut Spool, range: std::ops::RangeInclusive<u64>) -> Vec<bcp_wire::Gap> {
    let gaps = range.flat_map(|seq| spool.append(&record(1, seq, Class::Data), 0, T0)).collect();
    spool.flush(0);
    gaps
}

fn seqs(spool: &Spool) -> Vec<u64> {
    spool.keys().map(|(key, _)| key.seq).collect()
}

fn mark(i: u64, through: u64, holes: Vec<(u64, u64)>) -> Watermark {
    Watermark { v: 1, collector: bcp_wire::Site::A, marks: vec![WatermarkMark { i, through, holes }] }
}

fn open(dir: &Dir) -> Opened {
    Spool::open(&dir.0, small(), 0)
}

#[test]
fn keeps_until_committed_and_across_restart() {
    let dir = Dir::new("keep");
    let mut spool = open(&dir).spool;
    assert!(fill(&mut spool, 1..=30).is_empty());
    spool.append(&record(1, 31, Class::Event), 0, T0);
    spool.flush(0);
    assert_eq!(spool.read(Key { incarnation: 1, seq: 7 }, 0).unwrap(), record(1, 7, Class::Data));
    assert!(dir.segments().len() > 3, "several segments");
    let freed = spool.commit(&mark(1, 20, vec![(5, 6)]));
    assert_eq!(freed.iter().map(KeyRange::count).sum::<u64>(), 18);
    assert_eq!(seqs(&spool)[..4], [5, 6, 21, 22]);
    drop(spool);
    let Opened { mut spool, gaps, notes } = open(&dir);
    assert!(gaps.is_empty() && notes.is_empty(), "{gaps:?} {notes:?}");
    assert_eq!(spool.read(Key { incarnation: 1, seq: 31 }, 0).unwrap().class, Class::Event);
    assert_eq!(spool.read(Key { incarnation: 1, seq: 5 }, 0).unwrap(), record(1, 5, Class::Data));
    spool.commit(&mark(1, 31, vec![]));
    assert!(spool.is_empty());
    assert!(dir.segments().is_empty(), "nothing owed, nothing stored");
}

/// What a publisher does beside its work.
fn pack(spool: &mut Spool) -> usize {
    let mut packed = 0;
    loop {
        let jobs = spool.take_packing(0);
        if jobs.is_empty() {
            return packed;
        }
        packed += jobs.len();
        let done = jobs.into_iter().map(PackJob::run).collect();
        spool.packed(done, 0);
    }
}

/// Segments of several blocks each, packed but for the newest two.
fn long() -> SpoolConfig {
    SpoolConfig { max_bytes: 4 << 20, segment_bytes: 256 << 10, ..SpoolConfig::default() }
}

fn filled_and_packed(dir: &Dir, last: u64) -> Spool {
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    for seq in 1..=last {
        let class = if seq % 10 == 0 { Class::Event } else { Class::Data };
        spool.append(&record(1, seq, class), 0, T0);
    }
    spool.flush(0);
    let plain = spool.figures().disk_bytes;
    assert!(pack(&mut spool) > 2);
    assert!(spool.figures().disk_bytes * 2 < plain, "{:?}, {plain} before", spool.figures());
    spool
}

#[test]
fn packed_segments_hold_the_same_payloads() {
    let dir = Dir::new("packed");
    let mut spool = filled_and_packed(&dir, 10_000);
    let figures = spool.figures();
    let on_disk: u64 = dir.segments().iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert_eq!(on_disk, figures.disk_bytes);
    for again in [false, true] {
        if again {
            drop(spool);
            let opened = Spool::open(&dir.0, long(), 0);
            assert!(opened.gaps.is_empty() && opened.notes.is_empty(), "{:?} {:?}", opened.gaps, opened.notes);
            spool = opened.spool;
            assert_eq!(spool.figures(), figures);
            assert_eq!(fs::read_dir(&dir.0).unwrap().count(), dir.segments().len(), "nothing else is left");
        }
        assert_eq!(seqs(&spool), (1..=10_000).collect::<Vec<_>>());
        for seq in (1..=10_000).rev().step_by(7).chain(1..=10_000) {
            let class = if seq % 10 == 0 { Class::Event } else { Class::Data };
            assert_eq!(spool.read(Key { incarnation: 1, seq }, 0).unwrap(), record(1, seq, class));
        }
    }
    spool.commit(&mark(1, 10_000, vec![(17, 17)]));
    assert_eq!(seqs(&spool), [17]);
    assert_eq!(dir.segments().len(), 1, "only its segment is left");
}

#[test]
fn dropping_packed_segments_counts_their_samples() {
    let dir = Dir::new("packeddrop");
    let mut spool = filled_and_packed(&dir, 10_000);
    spool.commit(&mark(1, 50, vec![(11, 20)]));
    spool.resettle(SpoolConfig { max_bytes: spool.figures().disk_bytes - 1, ..long() });
    let gaps = spool.append(&record(1, 10_001, Class::Data), 0, T0);
    let lost: u64 = gaps.iter().map(|gap| gap.through - gap.from + 1).sum();
    assert!(lost > 500 && lost == spool.figures().dropped, "{gaps:?}");
    assert_eq!(gaps.iter().map(|gap| gap.samples.unwrap()).sum::<u64>(), 3 * lost);
    assert_eq!((gaps[0].from, gaps[0].through, gaps[1].from), (11, 19, 51), "what was delivered is not told as lost");
}

#[test]
fn a_damaged_byte_of_a_packed_segment_loses_only_its_block() {
    let dir = Dir::new("packedflip");
    drop(filled_and_packed(&dir, 10_000));
    let path = dir.segments()[0].clone();
    let clean = fs::read(&path).unwrap();
    for at in (0..clean.len()).step_by(997) {
        let mut bad = clean.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        let Opened { spool, gaps, .. } = Spool::open(&dir.0, long(), 0);
        let lost: u64 = gaps.iter().map(|gap| gap.through - gap.from + 1).sum();
        assert_eq!(lost + spool.figures().payloads, 10_000, "byte {at}: {gaps:?}");
        assert!(
            gaps.iter().all(|gap| (gap.from..=gap.through).all(|seq| !spool.contains(Key { incarnation: 1, seq })))
        );
        assert!(at < 36 && lost == 0 || at >= 36 && (100..1_000).contains(&lost), "byte {at}: {lost} lost");
    }
    fs::write(&path, &clean[..clean.len() - 7]).unwrap();
    let Opened { spool, gaps, .. } = Spool::open(&dir.0, long(), 0);
    let lost: u64 = gaps.iter().map(|gap| gap.through - gap.from + 1).sum();
    assert_eq!(lost + spool.figures().payloads, 10_000, "cut off: {gaps:?}");
}

#[test]
fn what_changes_while_it_is_packed_stays_right() {
    let dir = Dir::new("packrace");
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    fill(&mut spool, 1..=10_000);
    let jobs = spool.take_packing(0);
    assert!(jobs.len() > 2 && spool.take_packing(0).len() < jobs.len(), "a segment is packed once");
    spool.commit(&mark(1, 2_500, vec![]));
    let damaged = dir.segments()[1].clone();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[1_000] ^= 0x55;
    fs::write(&damaged, &bytes).unwrap();
    let done = jobs.into_iter().map(PackJob::run).collect();
    spool.packed(done, 0);
    assert!(fs::read(&damaged).unwrap() == bytes, "what cannot be read any more is not hidden by packing");
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), dir.segments().len(), "what is not wanted is removed");
    assert_eq!(seqs(&spool), (2_501..=10_000).collect::<Vec<_>>());
    // A crash in the middle of it leaves something beside the segment.
    fs::write(damaged.with_extension("part"), b"half").unwrap();
    drop(spool);
    let spool = Spool::open(&dir.0, long(), 0).spool;
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), dir.segments().len());
    assert_eq!(spool.keys().filter(|(key, _)| key.seq > 2_500).count(), 7_499, "all but the damaged one");
}

/// What an hour without a broker costs in memory does not depend on how many payloads it has.
#[test]
fn an_outage_is_kept_as_ranges_and_blocks() {
    let dir = Dir::new("hour");
    let mut spool = Spool::open(&dir.0, SpoolConfig::default(), 0).spool;
    fill(&mut spool, 1..=50_000);
    pack(&mut spool);
    let blocks: usize =
        spool.streams.iter().flat_map(|stream| &stream.segments).map(|segment| segment.blocks.len()).sum();
    let ranges: usize = spool.owed.iter().map(|owed| owed.iter().count()).sum();
    assert!(ranges == 1 && blocks < 130 && spool.memory.iter().all(|memory| memory.is_empty()), "{ranges} {blocks}");
    assert_eq!(spool.figures().oldest_t_ms, Some(T0 + 1));
    spool.commit(&mark(1, 49_999, vec![]));
    assert_eq!(spool.figures().oldest_t_ms, Some(T0 + 50_000), "exact for what came last");
}

#[test]
fn a_new_incarnation_starts_a_segment() {
    let dir = Dir::new("inc");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=2);
    drop(spool);
    let mut spool = open(&dir).spool;
    assert_eq!(spool.highest_incarnation(), 1);
    spool.append(&record(2, 1, Class::Data), 0, T0);
    spool.flush(0);
    drop(spool);
    assert_eq!(
        open(&dir).spool.keys().map(|(k, _)| (k.incarnation, k.seq)).collect::<Vec<_>>(),
        [(1, 1), (1, 2), (2, 1)]
    );
}

#[test]
fn full_drops_data_first_and_says_which() {
    let dir = Dir::new("full");
    let mut spool = open(&dir).spool;
    spool.append(&record(1, 1, Class::Event), 0, T0);
    let gaps = fill(&mut spool, 2..=120);
    assert!(spool.figures().disk_bytes <= 8_192);
    assert!(spool.contains(Key { incarnation: 1, seq: 1 }), "the event stays");
    let lost: u64 = gaps.iter().map(|gap| gap.through - gap.from + 1).sum();
    assert_eq!(lost, spool.figures().dropped);
    assert_eq!(gaps.iter().map(|gap| gap.samples.unwrap()).sum::<u64>(), 3 * lost);
    assert_eq!(gaps.first().unwrap().from, 2);
    assert_eq!(gaps.last().unwrap().through + 1, seqs(&spool)[1], "the gap ends where what is left begins");
}

#[test]
fn old_payloads_go() {
    let dir = Dir::new("old");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=20);
    let later = T0 + 73 * 3_600_000;
    let gaps = spool.append(&record(1, 21, Class::Data), 0, later);
    assert_eq!(gaps.first().unwrap().reason, "older than max_age");
    assert!(spool.contains(Key { incarnation: 1, seq: 21 }));
}

#[test]
fn every_flipped_byte_loses_only_its_record() {
    let dir = Dir::new("flip");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=5);
    drop(spool);
    let path = dir.segments()[0].clone();
    let clean = fs::read(&path).unwrap();
    for at in (0..clean.len()).step_by(3) {
        let mut bad = clean.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        let Opened { spool, gaps, .. } = open(&dir);
        let mut all = seqs(&spool);
        all.extend(gaps.iter().flat_map(|gap| gap.from..=gap.through));
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5], "byte {at}: {gaps:?}");
        assert!(gaps.len() <= 1, "byte {at}: {gaps:?}");
    }
}

#[test]
fn a_torn_tail_is_an_exact_gap() {
    let dir = Dir::new("torn");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=5);
    drop(spool);
    let path = dir.segments()[0].clone();
    let clean = fs::read(&path).unwrap();
    fs::write(&path, &clean[..clean.len() - 7]).unwrap();
    let Opened { spool, gaps, .. } = open(&dir);
    assert_eq!(seqs(&spool), [1, 2, 3, 4]);
    assert_eq!(gaps.iter().map(|gap| (gap.incarnation, gap.from, gap.through)).collect::<Vec<_>>(), [(1, 5, 5)]);
}

#[test]
fn garbage_is_set_aside() {
    let dir = Dir::new("garbage");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=30);
    drop(spool);
    let middle = dir.segments()[1].clone();
    let before = open(&dir).spool.keys().count();
    fs::write(&middle, vec![0xAA; 500]).unwrap();
    let Opened { mut spool, gaps, notes } = open(&dir);
    let lost: u64 = gaps.iter().map(|gap| gap.through - gap.from + 1).sum();
    assert_eq!(before, spool.keys().count() + usize::try_from(lost).unwrap());
    assert!(!notes.is_empty() && middle.with_extension("bad").exists());
    // And it goes on working.
    spool.append(&record(2, 1, Class::Data), 0, T0);
}

#[test]
fn a_refusing_disk_costs_only_durability() {
    let dir = Dir::new("enospc");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=3);
    spool.refuse_writes = true;
    fill(&mut spool, 4..=6);
    assert!(matches!(spool.durability(), Durability::Memory { .. }));
    assert_eq!(spool.read(Key { incarnation: 1, seq: 5 }, 0).unwrap(), record(1, 5, Class::Data));
    spool.refuse_writes = false;
    spool.append(&record(1, 7, Class::Data), 1_000, T0);
    assert!(spool.figures().in_memory_only, "the disk is left alone for a while");
    spool.append(&record(1, 8, Class::Data), 20_000, T0);
    assert_eq!(spool.durability(), &Durability::Disk);
    spool.flush(20_000);
    assert_eq!(spool.figures().memory_bytes, 0, "what was in memory is on the disk");
    drop(spool);
    let Opened { mut spool, gaps, notes } = open(&dir);
    assert!(gaps.is_empty() && notes.is_empty(), "{gaps:?} {notes:?}");
    assert_eq!(seqs(&spool), (1..=8).collect::<Vec<_>>());
    spool.commit(&mark(1, 8, vec![]));
    assert!(spool.is_empty() && spool.figures().memory_bytes == 0);
    assert_eq!(spool.figures().dropped, 0);
}

/// A disk that refuses again and again costs no order: dropping a segment forgets all that was in it.
#[test]
fn a_disk_that_comes_and_goes_keeps_numbers_in_order() {
    let dir = Dir::new("flaky");
    let mut spool = open(&dir).spool;
    let mut now_ms = 0;
    let mut lost = 0;
    for seq in 1..=400 {
        now_ms += 3_000;
        spool.refuse_writes = seq % 7 < 4;
        let class = if seq % 9 == 0 { Class::Event } else { Class::Data };
        lost +=
            spool.append(&record(1, seq, class), now_ms, T0).iter().map(|gap| gap.through - gap.from + 1).sum::<u64>();
        if seq % 2 == 0 {
            spool.flush(now_ms);
        }
    }
    let left = spool.keys().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!((left.len() as u64 + lost, spool.figures().dropped), (400, lost));
    for key in &left {
        assert_eq!(spool.read(*key, 0).unwrap().key, *key);
    }
    spool.commit(&mark(1, 400, vec![]));
    let figures = spool.figures();
    assert!(spool.is_empty() && figures.memory_bytes == 0, "{figures:?}");
}

/// Events between dropped data are still owed: no gap may cover them, or the collector would refuse them.
#[test]
fn a_gap_never_covers_what_is_still_owed() {
    let dir = Dir::new("between");
    let config = SpoolConfig { max_bytes: 128 << 10, segment_bytes: 32 << 10, ..SpoolConfig::default() };
    let mut spool = Spool::open(&dir.0, config, 0).spool;
    let mut gaps = Vec::new();
    for seq in 1..=1_500 {
        let class = if seq % 2 == 0 { Class::Event } else { Class::Data };
        gaps.extend(spool.append(&record(1, seq, class), 0, T0));
    }
    assert!(gaps.len() > 64, "{} ranges", gaps.len());
    for gap in &gaps {
        let owed = (gap.from..=gap.through).find(|seq| spool.contains(Key { incarnation: 1, seq: *seq }));
        assert_eq!(owed, None, "told as lost in {gap:?}");
    }
    assert_eq!(gaps.iter().map(|gap| gap.through - gap.from + 1).sum::<u64>(), spool.figures().dropped);
}

#[test]
fn what_was_gathered_when_the_disk_refuses_is_not_lost() {
    let dir = Dir::new("gathered");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=3);
    for seq in 4..=6 {
        spool.append(&record(1, seq, Class::Data), 0, T0);
    }
    spool.refuse_writes = true;
    spool.flush(0);
    assert!(spool.figures().in_memory_only);
    for seq in 1..=6 {
        assert_eq!(spool.read(Key { incarnation: 1, seq }, 0).unwrap(), record(1, seq, Class::Data), "{seq}");
    }
    drop(spool);
    let Opened { spool, gaps, .. } = open(&dir);
    assert!(gaps.is_empty() && seqs(&spool) == [1, 2, 3], "{gaps:?}");
}

#[test]
fn payloads_are_read_from_memory_and_from_disk_alike() {
    let dir = Dir::new("tail");
    let mut spool = open(&dir).spool;
    for seq in 1..=40 {
        let class = if seq % 3 == 0 { Class::Event } else { Class::Data };
        spool.append(&record(1, seq, class), 0, T0);
        if seq % 4 == 0 {
            spool.flush(0);
        }
        for back in 1..=seq {
            let class = if back % 3 == 0 { Class::Event } else { Class::Data };
            assert_eq!(
                spool.read(Key { incarnation: 1, seq: back }, 0).unwrap(),
                record(1, back, class),
                "{seq} {back}"
            );
        }
    }
}

#[test]
fn a_segment_committed_while_it_was_written_goes_with_the_next() {
    let dir = Dir::new("roll");
    let mut spool = open(&dir).spool;
    for seq in 1..=60 {
        fill(&mut spool, seq..=seq);
        spool.commit(&mark(1, seq, vec![]));
    }
    assert_eq!(dir.segments().len(), 1);
}

#[test]
fn a_directory_that_cannot_be_made_is_no_reason_to_stop() {
    let mut opened = Spool::open(std::path::Path::new("/proc/no/such"), small(), 0);
    assert!(!opened.notes.is_empty());
    fill(&mut opened.spool, 1..=200);
    assert!(opened.spool.figures().in_memory_only && opened.spool.figures().memory_bytes <= 8_192);
}
