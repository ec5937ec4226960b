//! What is lost is told, all of it and once; what only cannot be read now is not lost.

use bcp_wire::Gap;

use super::super::{PackDone, Reader, Unread};
use super::{
    Class, Dir, Key, Opened, PackJob, Spool, SpoolConfig, T0, fill, filled_and_packed, fs, long, open, pack, record,
    seqs, small,
};

/// Too many open files, and an error of the device.
const PASSING: [i32; 2] = [24, 5];

const fn key(seq: u64) -> Key {
    Key { incarnation: 1, seq }
}

fn lost(gaps: &[Gap]) -> Vec<u64> {
    gaps.iter().flat_map(|gap| gap.from..=gap.through).collect()
}

#[test]
fn a_passing_error_of_a_read_loses_nothing() {
    let dir = Dir::new("passing");
    let mut spool = filled_and_packed(&dir, 10_000);
    for error in PASSING {
        spool.reader.refuse = Some(error);
        let mut waits = Vec::new();
        let mut now_ms = 1_000_000;
        for _ in 0..9 {
            let Err(Unread::Later { first, last, until_ms }) = spool.read(key(7), now_ms) else { panic!("it is lost") };
            assert!(first <= key(7) && last > key(100), "its whole block waits: {first:?} {last:?}");
            waits.push(until_ms - now_ms);
            now_ms = until_ms;
        }
        assert!(waits[0] < waits[3] && waits.iter().all(|wait| (1_000..=64_000).contains(wait)), "{waits:?}");
        spool.reader.refuse = None;
        assert_eq!(spool.read(key(7), now_ms), Ok(record(1, 7, Class::Data)));
        // Nothing is in memory the next time.
        spool.reader = Reader::new();
    }
    let figures = spool.figures();
    assert_eq!((figures.payloads, figures.dropped, figures.read_errors), (10_000, 0, 18));
}

#[test]
fn a_passing_error_at_opening_sets_nothing_aside() {
    for error in PASSING {
        let dir = Dir::new("passingopen");
        drop(filled_and_packed(&dir, 10_000));
        let files = dir.segments();
        let mut spool = Spool::empty(&dir.0, long());
        spool.reader.refuse = Some(error);
        let Opened { mut spool, gaps, notes } = spool.look(0);
        assert!(gaps.is_empty() && notes.is_empty(), "{gaps:?} {notes:?}");
        assert_eq!((spool.figures().payloads, spool.highest_incarnation()), (0, 1));
        assert!(spool.figures().disk_bytes > 100_000, "their room is counted");
        // It goes on working meanwhile.
        assert!(spool.append(&record(2, 1, Class::Data), 0, T0).is_empty());
        spool.flush(0);
        assert!(spool.read_late(10).is_none() && spool.read_late(20).is_none(), "still refused");
        spool.reader.refuse = None;
        assert!(spool.read_late(30).is_none(), "it is left alone for a while");
        let found = spool.read_late(600_000).unwrap();
        assert!(found.gaps.is_empty() && found.notes.is_empty(), "{:?}", found.gaps);
        assert_eq!(found.owed.iter().map(|(range, _)| range.count()).sum::<u64>(), 10_000);
        assert!(spool.read_late(6_000_000).is_none());
        assert_eq!(seqs(&spool), (1..=10_000).chain([1]).collect::<Vec<_>>());
        assert_eq!(spool.read(key(5_000), 0), Ok(record(1, 5_000, Class::Event)));
        spool.append(&record(2, 2, Class::Data), 0, T0);
        spool.flush(0);
        drop(spool);
        let Opened { spool, gaps, .. } = Spool::open(&dir.0, long(), 0);
        assert!(gaps.is_empty() && spool.figures().payloads == 10_002, "{gaps:?}");
        assert!(files.iter().all(|file| file.exists()));
    }
}

#[test]
fn what_cannot_be_read_at_all_goes_by_the_bounds_and_is_told() {
    let dir = Dir::new("neverread");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=30);
    drop(spool);
    let mut spool = Spool::empty(&dir.0, small());
    spool.reader.refuse = Some(5);
    let mut spool = spool.look(0).spool;
    spool.resettle(SpoolConfig { max_bytes: 2_000, ..small() });
    let gaps = spool.append(&record(2, 1, Class::Data), 0, T0);
    assert!(
        lost(&gaps) == (1..=29).collect::<Vec<_>>() && gaps.iter().all(|gap| gap.reason == "spool full"),
        "{gaps:?}"
    );
    assert_eq!(spool.figures().dropped, lost(&gaps).len() as u64);
    assert_eq!(dir.segments().len(), 1, "a new one");
}

/// What is damaged in one file is told when it is known which numbers are in the others.
#[test]
fn nothing_is_told_as_lost_that_may_be_in_an_unread_file() {
    let dir = Dir::new("heldback");
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    for seq in 1..=20 {
        spool.append(&record(1, seq, if seq % 2 == 0 { Class::Event } else { Class::Data }), 0, T0);
    }
    spool.flush(0);
    drop(spool);
    let path = dir.segments()[0].clone();
    let clean = fs::read(&path).unwrap();
    // Of ten records, those with one digit are the first five.
    let five = (clean.len() - 36) / 10 * 5;
    fs::write(&path, [&clean[..36 + five], &[0xAA; 300]].concat()).unwrap();
    let mut spool = Spool::empty(&dir.0, long());
    spool.reader.refuse = Some(5);
    spool.reader.refuse_only = Some(Class::Event);
    let Opened { mut spool, gaps, .. } = spool.look(0);
    assert!(gaps.is_empty(), "{gaps:?}");
    assert_eq!(spool.figures().payloads, 5);
    spool.reader.refuse = None;
    let found = spool.read_late(600_000).unwrap();
    let mut known = seqs(&spool);
    known.extend(lost(&found.gaps));
    known.sort_unstable();
    assert_eq!(known, (1..=20).collect::<Vec<_>>(), "{:?}", found.gaps);
}

#[test]
fn a_damaged_block_is_one_gap() {
    let dir = Dir::new("onegap");
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    fill(&mut spool, 1..=10_000);
    pack(&mut spool);
    let path = dir.segments()[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, &bytes).unwrap();
    let mut gaps = Vec::new();
    for seq in 1..=10_000 {
        match spool.read(key(seq), 0) {
            Ok(read) => assert_eq!(read, record(1, seq, Class::Data)),
            Err(Unread::NotOwed) => assert!(lost(&gaps).contains(&seq), "{seq}"),
            Err(Unread::Lost(more)) => gaps.extend(more),
            Err(later @ Unread::Later { .. }) => panic!("{later:?}"),
        }
    }
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(lost(&gaps).len() > 100);
    assert_eq!(spool.figures().payloads + lost(&gaps).len() as u64, 10_000);
    assert_eq!(spool.figures().dropped, lost(&gaps).len() as u64);
}

#[test]
fn a_damaged_block_between_delivered_payloads_is_one_gap_at_opening() {
    let dir = Dir::new("onegapopen");
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    for seq in 1..=10_000 {
        spool.append(&record(1, seq, if seq % 10 == 0 { Class::Event } else { Class::Data }), 0, T0);
    }
    spool.flush(0);
    pack(&mut spool);
    drop(spool);
    let events = dir.segments().into_iter().filter(|path| path.to_string_lossy().contains("event-"));
    // They were delivered.
    events.for_each(|path| fs::remove_file(path).unwrap());
    let path = dir.segments()[0].clone();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&path, &bytes).unwrap();
    let Opened { spool, gaps, .. } = Spool::open(&dir.0, long(), 0);
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!(spool.figures().payloads + spool.figures().dropped, 9_000);
}

/// The newest segment of an earlier start is packed as well, and nothing behind it says how far it reached.
fn packed_last_of_its_start(dir: &Dir) -> (std::path::PathBuf, u64) {
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    fill(&mut spool, 1..=2_500);
    for incarnation in 2..=3 {
        spool.append(&record(incarnation, 1, Class::Data), 0, T0);
        spool.flush(0);
    }
    assert!(pack(&mut spool) >= 1);
    (dir.segments().into_iter().rfind(|path| path.to_string_lossy().contains("0001-")).unwrap(), 2_500)
}

#[test]
fn a_damaged_header_of_the_last_packed_block_is_told_to_its_end() {
    let dir = Dir::new("lastheader");
    let (path, all) = packed_last_of_its_start(&dir);
    let clean = fs::read(&path).unwrap();
    let marks: Vec<usize> =
        clean.windows(4).enumerate().filter(|(_, w)| *w == [0xB5, 0xC0, 0x0B, 0x0D]).map(|(at, _)| at).collect();
    let last = *marks.last().unwrap();
    let told = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        let Opened { spool, gaps, .. } = Spool::open(&dir.0, long(), 0);
        let mut known: Vec<u64> =
            spool.keys().filter(|(key, _)| key.incarnation == 1).map(|(key, _)| key.seq).collect();
        let lost = lost(&gaps);
        known.extend(&lost);
        known.sort_unstable();
        assert_eq!(known, (1..=all).collect::<Vec<_>>(), "{what}: {gaps:?}");
        assert!(gaps.len() <= 1, "{what}: {gaps:?}");
        lost.len()
    };
    let in_it = told(&clean[..last], "cut off before it");
    assert!(in_it > 5, "{in_it}");
    for at in last..last + 44 {
        let mut bad = clean.clone();
        bad[at] ^= 0x55;
        assert_eq!(told(&bad, "damaged"), in_it, "byte {at}");
    }
    for cut in [last + 3, last + 100, clean.len() - 1] {
        assert_eq!(told(&clean[..cut], "cut off"), in_it, "at {cut}");
    }
    // A damaged seal costs nothing as long as all else is there.
    for at in 0..36 {
        let mut bad = clean.clone();
        bad[at] ^= 0x55;
        assert_eq!(told(&bad, "seal"), 0, "byte {at}");
    }
}

#[test]
fn files_of_version_1_are_read() {
    let dir = Dir::new("version1");
    let (_, all) = packed_last_of_its_start(&dir);
    for path in dir.segments() {
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, [b"BCPSPL1\n", &bytes[36..]].concat()).unwrap();
    }
    let Opened { mut spool, gaps, notes } = Spool::open(&dir.0, long(), 0);
    assert!(gaps.is_empty() && notes.is_empty(), "{gaps:?} {notes:?}");
    assert_eq!(spool.figures().payloads, all + 2);
    assert_eq!(spool.read(key(all), 0), Ok(record(1, all, Class::Data)));
}

/// Whatever byte of the last record is damaged, with an event before it that was delivered.
#[test]
fn a_damaged_last_record_is_told_by_its_own_number() {
    let dir = Dir::new("lastrecord");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=3);
    fill(&mut spool, 6..=6);
    drop(spool);
    let path = dir.segments()[0].clone();
    let clean = fs::read(&path).unwrap();
    let length = (clean.len() - 36) / 4;
    for at in clean.len() - length..clean.len() {
        let mut bad = clean.clone();
        bad[at] ^= 0x55;
        fs::write(&path, &bad).unwrap();
        let Opened { spool, gaps, .. } = open(&dir);
        assert_eq!(seqs(&spool), [1, 2, 3]);
        assert!(lost(&gaps).contains(&6), "byte {at}: {gaps:?}");
    }
}

#[test]
fn a_full_disk_makes_packing_wait_and_leaves_nothing_behind() {
    let dir = Dir::new("packfull");
    let mut spool = Spool::open(&dir.0, long(), 0).spool;
    fill(&mut spool, 1..=10_000);
    let parts = || fs::read_dir(&dir.0).unwrap().count() - dir.segments().len();
    let mut now_ms = 0;
    let mut waits = Vec::new();
    for round in 0..9 {
        spool.refuse_writes = true;
        let jobs = spool.take_packing(now_ms);
        assert_eq!(jobs.len(), if round == 0 { 4 } else { 1 }, "round {round}");
        let done: Vec<PackDone> = jobs.into_iter().map(PackJob::run).collect();
        spool.packed(done, now_ms);
        assert_eq!(parts(), 0);
        let begun = now_ms;
        while spool.take_packing(now_ms).is_empty() {
            now_ms += 1_000;
            assert!(now_ms - begun < 1_000_000, "it is never tried again");
        }
        // What was taken is given back.
        spool.streams[0].segments.iter_mut().for_each(|segment| segment.packable = segment.blocks.len() > 1);
        waits.push(now_ms - begun);
    }
    assert!(waits[0] >= 10_000 && waits.is_sorted(), "{waits:?}");
    spool.refuse_writes = false;
    let plain = spool.figures().disk_bytes;
    let jobs = spool.take_packing(now_ms);
    assert_eq!(jobs.len(), 1, "the least there is");
    spool.packed(jobs.into_iter().map(PackJob::run).collect(), now_ms);
    assert!(pack(&mut spool) == 0 || parts() == 0);
    assert!(spool.take_packing(now_ms).len() > 1 && spool.figures().disk_bytes < plain);
    // What was packed and is never taken in leaves nothing either.
    spool.streams[0]
        .segments
        .iter_mut()
        .for_each(|segment| segment.packable = segment.blocks.iter().all(|b| !b.packed));
    drop(spool.take_packing(now_ms).into_iter().map(PackJob::run).collect::<Vec<_>>());
    assert_eq!(parts(), 0);
    // A leftover of a crash is not in the way.
    assert_eq!(seqs(&spool), (1..=10_000).collect::<Vec<_>>());
}

#[test]
fn files_that_are_no_segments_are_never_read_whole() {
    let dir = Dir::new("foreign");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=40);
    drop(spool);
    let all = dir.segments();
    // Larger than any segment; nothing of it takes room on the disk.
    let large = fs::OpenOptions::new().write(true).open(&all[1]).unwrap();
    large.set_len(1 << 33).unwrap();
    fs::create_dir(dir.0.join(format!("data-{:016x}-{:016x}.seg", 7, 3))).unwrap();
    fs::write(dir.0.join("data-x.seg"), "what is this").unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.0.join(format!("event-{:016x}-{:016x}.seg", 7, 4))).unwrap();
    let Opened { spool, gaps, notes } = open(&dir);
    assert_eq!(notes.len(), 3, "{notes:?}");
    let mut known: Vec<u64> = spool.keys().map(|(key, _)| key.seq).collect();
    known.extend(lost(&gaps));
    known.sort_unstable();
    let mut wanted: Vec<u64> = (1..=40).chain([3, 4]).collect();
    wanted.sort_unstable();
    assert_eq!(known, wanted, "{gaps:?}");
    assert!(all[1].with_extension("bad").exists() && !all[1].exists());
    assert!(dir.0.join("data-x.seg").exists(), "what was never ours is left alone");
}

#[test]
fn a_segment_that_was_cut_to_nothing_is_told() {
    let dir = Dir::new("nothing");
    let mut spool = open(&dir).spool;
    fill(&mut spool, 1..=40);
    drop(spool);
    let all = dir.segments();
    for length in [0, 20, 36] {
        for path in &all[..2] {
            let clean = fs::read(path).unwrap();
            fs::write(path, &clean[..length]).unwrap();
            let Opened { spool, gaps, .. } = open(&dir);
            let mut known = seqs(&spool);
            known.extend(lost(&gaps));
            known.sort_unstable();
            assert_eq!(known, (1..=40).collect::<Vec<_>>(), "{length}: {gaps:?}");
            fs::write(path, &clean).unwrap();
        }
    }
}
