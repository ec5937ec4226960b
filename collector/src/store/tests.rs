use std::time::Duration;

use super::*;
use bcp_wire::{BadReason, Site};
use codec::quality_as_number;
use proptest::prelude::*;

const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

struct Dir(PathBuf);
impl Dir {
    fn new(name: &str) -> Dir {
        let path =
            std::env::temp_dir().join(format!("bcp-store-{name}-{}-{:x}", std::process::id(), rand::random::<u64>()));
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}
impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(dir: &Dir) -> Store {
    Store::open(&dir.0, FOREVER).unwrap()
}

fn agent() -> AgentRef {
    AgentRef { site: Site::A, agent: "gw-a".parse().unwrap() }
}

fn id(text: &str) -> Id {
    text.parse().unwrap()
}

fn point(text: &str) -> PointName {
    text.parse().unwrap()
}

/// Drops the store the way a kill does: nothing is sealed, the sealer's thread just ends.
fn kill(store: Store) {
    drop(store);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn whatever_is_stored_comes_back_through_memory_runs_chunks_and_restarts(
        steps in prop::collection::vec((0u32..300, 0i64..5_000, prop_oneof![any::<u64>().prop_map(f64::from_bits), (0i32..500).prop_map(|n| f64::from(n) / 10.0)]), 1..400),
        restarts in prop::collection::vec(any::<bool>(), 4),
        settles in prop::collection::vec(any::<bool>(), 4),
    ) {
        let dir = Dir::new("random");
        let mut store = open(&dir);
        let mut wanted: std::collections::BTreeMap<u32, std::collections::BTreeMap<i64, u64>> = Default::default();
        let ids: Vec<SeriesId> = (0..300).map(|k| store.series(&id(&format!("d-{k}")), &point("ups.load"), false).unwrap()).collect();
        for (part, (restart, settle)) in steps.chunks(steps.len().div_ceil(4)).zip(restarts.iter().zip(&settles)) {
            let mut group = Group::default();
            for (series, t, v) in part {
                group.samples.push((ids[*series as usize], Sample { t: *t, v: *v }));
                wanted.entry(*series).or_default().insert(*t, v.to_bits());
            }
            store.commit(&group).unwrap();
            if *settle {
                store.settle().unwrap();
            }
            if *restart {
                kill(store);
                store = open(&dir);
            }
        }
        for (series, samples) in &wanted {
            let got: Vec<(i64, u64)> = store.samples(ids[*series as usize], i64::MIN, i64::MAX).unwrap().iter().map(|s| (s.t, s.v.to_bits())).collect();
            let want: Vec<(i64, u64)> = samples.iter().map(|(t, v)| (*t, *v)).collect();
            prop_assert_eq!(got, want);
        }
    }
}

#[test]
fn marks_and_samples_survive_a_kill_together() {
    let dir = Dir::new("kill");
    let store = open(&dir);
    let series = store.series(&id("ups-a1"), &point("battery.charge"), false).unwrap();
    let mut group = Group::default();
    group.samples.push((series, Sample { t: 1_000, v: 98.5 }));
    group.marks.push((agent(), 7, 1, 1));
    store.commit(&group).unwrap();
    kill(store);

    // A frame that was being written when the process died.
    let journal = journal::path(&dir.0, 0);
    let mut bytes = std::fs::read(&journal).unwrap();
    let whole = bytes.len();
    bytes.extend_from_slice(&[200, 0, 0, 0, 1, 2, 3, 4, 3, 9, 9]);
    std::fs::write(&journal, &bytes).unwrap();

    let store = open(&dir);
    assert_eq!(std::fs::metadata(&journal).unwrap().len(), whole as u64, "the torn frame is cut off");
    assert_eq!(store.marks().insert(&agent(), 7, 1), Marked::Duplicate);
    assert_eq!(
        store.marks_of(&agent()).unwrap().watermark(Site::B, &std::collections::BTreeSet::new()).marks[0].through,
        1
    );
    let history = store.history(&id("ups-a1"), &point("battery.charge"), 0, 2_000).unwrap().unwrap();
    assert_eq!(history, [HistorySample { t: 1_000, value: Some(Value::Num(98.5)), quality: Quality::Good }]);
    store.settle().unwrap();
    kill(store);
    let store = open(&dir);
    assert_eq!(store.marks().insert(&agent(), 7, 1), Marked::Duplicate, "marks outlive their journal");
    assert_eq!(store.series(&id("ups-a1"), &point("battery.charge"), false), Some(series));
}

#[test]
fn texts_and_bad_qualities_come_back_as_they_were() {
    let dir = Dir::new("texts");
    let store = open(&dir);
    let (ups, status) = (id("ups-a1"), point("ups.status"));
    let mut group = Group::default();
    for (t, text) in [(1, "OL"), (2, "OB DISCHRG"), (3, "OL")] {
        let v = store.text(text).unwrap();
        group.samples.push((store.series(&ups, &status, true).unwrap(), Sample { t, v }));
    }
    let bad = Quality::Bad(BadReason::Exception);
    group.samples.push((store.series(&ups, &status, true).unwrap(), Sample { t: 4, v: quality_as_number(bad) }));
    store.commit(&group).unwrap();
    store.settle().unwrap();
    kill(store);
    let store = open(&dir);
    let got = store.history(&ups, &status, 0, 10).unwrap().unwrap();
    let words: Vec<String> =
        got.iter().map(|s| s.value.as_ref().map_or_else(|| s.quality.to_string(), ToString::to_string)).collect();
    assert_eq!(words, ["OL", "OB DISCHRG", "OL", "bad:exception"]);
    assert_eq!(store.history(&ups, &point("ups.load"), 0, 10).unwrap(), None);
}

#[test]
fn a_second_process_is_refused() {
    let dir = Dir::new("lock");
    let store = open(&dir);
    assert!(matches!(Store::open(&dir.0, FOREVER), Err(OpenError::Locked { .. })));
    drop(store);
    open(&dir);
}

#[test]
fn rollups_cover_chunks_and_what_is_still_in_memory() {
    let dir = Dir::new("rollup");
    let store = open(&dir);
    let series = store.series(&id("m-1"), &point("meter.realpower"), false).unwrap();
    for hours in [0..2, 2..3] {
        let samples = hours.flat_map(|h: i64| (0..600).map(move |k| (h, k)));
        let mut group = Group::default();
        for (h, k) in samples {
            group.samples.push((series, Sample { t: h * history::ROLLUP_MS + k * 6_000, v: h as f64 }));
        }
        store.commit(&group).unwrap();
        if group.samples.len() > 1_000 {
            store.settle().unwrap();
        }
    }
    let rollups = store.rollups(&id("m-1"), &point("meter.realpower"), 0, 10 * history::ROLLUP_MS).unwrap();
    let got: Vec<(i64, u64, f64)> = rollups.iter().map(|r| (r.t / history::ROLLUP_MS, r.n, r.sum)).collect();
    assert_eq!(got, [(0, 600, 0.0), (1, 600, 600.0), (2, 600, 1_200.0)]);
}

#[test]
fn old_history_is_dropped() {
    let dir = Dir::new("retention");
    let (mut writer, _) = history::Writer::open(&dir.0.join("history.db")).unwrap();
    let mut head = Head::default();
    (0..2_000).for_each(|k| head.push(SeriesId(0), Sample { t: k, v: k as f64 }));
    (0..2_000).for_each(|k| head.push(SeriesId(1), Sample { t: 1_000_000 + k, v: k as f64 }));
    writer.seal(&Sealing { head, ..Sealing::default() }).unwrap();
    assert_eq!(writer.expire(500_000, 100).unwrap(), 1);
    let reader = history::open_reader(&dir.0.join("history.db")).unwrap();
    let mut out = Vec::new();
    history::read_samples(&reader, SeriesId(0), 0, i64::MAX, &mut out).unwrap();
    assert!(out.is_empty());
    history::read_samples(&reader, SeriesId(1), 0, i64::MAX, &mut out).unwrap();
    assert_eq!(out.len(), 2_000);
}

#[test]
fn impossible_times_do_not_end_the_sealer_and_a_large_group_comes_back_whole() {
    let dir = Dir::new("extremes");
    let store = open(&dir);
    let series = store.series(&id("ups-a1"), &point("battery.charge"), false).unwrap();
    let mut group = Group::default();
    group.samples.extend([i64::MIN, -1, 0, i64::MAX].map(|t| (series, Sample { t, v: 1.0 })));
    // As many as make a chunk of them, and more events than one frame of the journal holds.
    group.samples.extend((1..=600).map(|t| (series, Sample { t, v: 1.0 })));
    let text = "x".repeat(1_000_000);
    for s in 1..=40 {
        let kind = bcp_wire::EventKind::Notice { text: text.clone() };
        let event = bcp_wire::Event { v: 1, i: 1, s, t: s as i64, kind };
        let stored = StoredEvent { agent: agent(), device: id("ups-a1"), t: event.t, kind: "notice".to_owned(), event };
        group.events.push(stored);
        group.marks.push((agent(), 1, s, s));
    }
    store.commit(&group).unwrap();
    kill(store);
    let store = open(&dir);
    assert_eq!(store.stats().damaged, 0);
    assert_eq!(store.events(&id("ups-a1"), 100).unwrap().len(), 40);
    assert_eq!(
        store.marks_of(&agent()).unwrap().watermark(Site::A, &std::collections::BTreeSet::new()).marks[0].through,
        40
    );
    store.settle().unwrap();
    assert_eq!(store.samples(series, i64::MIN, i64::MAX).unwrap().len(), 604);
    assert_eq!(store.stats().damaged, 0);
}
