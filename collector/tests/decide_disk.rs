//! Scenario 18 of the failover design: the decide database after a power cut or on a failing disk. Whatever is torn, lost or
//! changed, it either has everything that was acknowledged, or is refused with what to do; an older vote is never taken up.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use bcp_collector::decide::raft::{Entry, LogId, SnapshotMeta, StoredMembership, Types, Vote};
use bcp_collector::decide::store::{Store, StoreError};
use bcp_core::replica::{Replica, Tick};
use bcp_core::time::Wall;
use bcp_wire::Site;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const FILES: [&str; 3] = ["decide.db", "decide.db-wal", "decide.mark"];
const PAGE: usize = 4_096;

/// A directory that goes when this does.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        // In memory where there is such a place: what a disk would do is done to its files.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let dir = base.join(format!("bcp-disk-{name}-{:016x}", rand::random::<u64>()));
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a store has acknowledged.
#[derive(Debug, Clone, Default, PartialEq)]
struct Acknowledged {
    vote: Option<Vote>,
    entries: Vec<Entry>,
    purged: Option<LogId>,
}

/// The files as a power cut would leave them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Image([Option<Vec<u8>>; 3]);

impl Image {
    fn of(dir: &Path) -> Image {
        Image(FILES.map(|name| std::fs::read(dir.join(name)).ok()))
    }

    fn write(&self, dir: &Path) {
        for (name, bytes) in FILES.iter().zip(&self.0) {
            if let Some(bytes) = bytes {
                std::fs::write(dir.join(name), bytes).unwrap();
            }
        }
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 3), index)
}

fn entry(term: u64, index: u64, wall: i64) -> Entry {
    let tick = Tick { leader: Site::W, term, elapsed_ms: 250, wall: Wall(wall), items: Vec::new() };
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(tick) }
}

/// One acknowledged step: a vote, an append, a cut of the tail, a snapshot with a purge.
async fn act(store: &mut Store, dice: &mut StdRng, known: &mut Acknowledged) {
    let term = known.vote.map_or(1, |vote| vote.leader_id.term);
    let next = known.entries.last().map(|last| last.log_id.index).or(known.purged.map(|purged| purged.index));
    let next = next.map_or(0, |last| last + 1);
    match dice.random_range(0..10) {
        0..=1 => {
            let vote = Vote::new(term + dice.random_range(1..4), dice.random_range(1..4));
            store.save_vote(&vote).await.unwrap();
            known.vote = Some(vote);
        }
        2..=7 => {
            let count = dice.random_range(1..5);
            let entries: Vec<Entry> = (next..next + count).map(|index| entry(term, index, dice.random())).collect();
            store.blocking_append(entries.clone()).await.unwrap();
            known.entries.extend(entries);
        }
        8 if known.entries.len() > 2 => {
            let from = known.entries[known.entries.len() - 2].log_id;
            store.truncate(from).await.unwrap();
            known.entries.truncate(known.entries.len() - 2);
        }
        _ if known.entries.len() > 4 => {
            let upto = known.entries[1].log_id;
            let meta = SnapshotMeta {
                last_log_id: Some(known.entries[3].log_id),
                last_membership: StoredMembership::default(),
                snapshot_id: "s".to_owned(),
            };
            store.save_snapshot(&meta, serde_json::to_vec(&Replica::default()).unwrap()).await.unwrap();
            store.purge(upto).await.unwrap();
            known.entries.drain(..2);
            known.purged = Some(upto);
        }
        _ => {}
    }
}

async fn found(store: &mut Store) -> Result<Acknowledged, openraft::StorageError<u64>> {
    let state = store.get_log_state().await?;
    let vote = RaftLogStorage::<Types>::read_vote(store).await?;
    let entries = store.try_get_log_entries(..).await?;
    Ok(Acknowledged { vote, entries, purged: state.last_purged_log_id })
}

/// The refusal names the file and what to do.
fn says_what_to_do(error: &StoreError) -> bool {
    let said = error.to_string();
    matches!(error, StoreError::Damaged { .. }) && said.contains("decide.db") && said.contains("bcpctl readmit site")
}

fn flip(bytes: &mut [u8], dice: &mut StdRng) {
    if !bytes.is_empty() {
        let at = dice.random_range(0..bytes.len());
        bytes[at] ^= 1 << dice.random_range(0..8);
    }
}

/// Half of a page is what it was before, or nothing.
fn tear_page(bytes: &mut [u8], before: Option<&Vec<u8>>, dice: &mut StdRng) {
    if bytes.len() < PAGE {
        return;
    }
    let from = dice.random_range(0..bytes.len() / PAGE) * PAGE + PAGE / 2 * usize::from(dice.random::<bool>());
    let half = from..(from + PAGE / 2).min(bytes.len());
    match before.and_then(|before| before.get(half.clone())) {
        Some(older) if dice.random() => bytes[half].copy_from_slice(older),
        _ => bytes[half].fill(0),
    }
}

/// Changes the files as a failing disk would; the name of it.
fn damage(image: &mut Image, before: &Image, dice: &mut StdRng) -> &'static str {
    let [db, wal, mark] = &mut image.0;
    let [old_db, old_wal, _] = &before.0;
    match dice.random_range(0..9) {
        0 => {
            let length = wal.as_ref().map_or(0, Vec::len);
            wal.iter_mut().for_each(|wal| wal.truncate(dice.random_range(0..=length)));
            "the write-ahead log ends early"
        }
        1 => {
            wal.iter_mut().for_each(|wal| flip(wal, dice));
            "a bit of the write-ahead log is another one"
        }
        2 => {
            db.iter_mut().for_each(|db| flip(db, dice));
            "a bit of the database is another one"
        }
        3 => {
            db.iter_mut().for_each(|db| tear_page(db, old_db.as_ref(), dice));
            "a page of the database is torn"
        }
        4 => {
            wal.iter_mut().for_each(|wal| tear_page(wal, old_wal.as_ref(), dice));
            "a page of the write-ahead log is torn"
        }
        5 => {
            *wal = None;
            "the write-ahead log is lost"
        }
        6 => {
            (*db, *wal) = (old_db.clone(), old_wal.clone());
            "the database is an older one"
        }
        7 => {
            mark.iter_mut().for_each(|mark| mark.truncate(dice.random_range(0..12)));
            "the mark is torn"
        }
        _ => {
            let length = db.as_ref().map_or(0, Vec::len);
            db.iter_mut().for_each(|db| db.truncate(dice.random_range(0..=length)));
            "the database ends early"
        }
    }
}

fn seeds(variable: &str, usual: u64) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var(variable) else { return 1..usual + 1 };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().unwrap()..to.parse().unwrap()
}

#[tokio::test]
async fn a_damaged_database_has_all_that_was_acknowledged_or_is_refused() {
    let mut outcomes = std::collections::BTreeMap::<(&str, &str), u64>::new();
    for seed in seeds("BCP_DISK_SEEDS", 600) {
        let dice = &mut StdRng::seed_from_u64(seed);
        let (live, torn) = (Dir::new("live"), Dir::new("torn"));
        let mut known = Acknowledged::default();
        let mut store = Store::open(&live.0).unwrap();
        let steps = dice.random_range(4..30);
        // Sometimes what was written lies in the database itself, as after a restart.
        let reopened_at = dice.random_range(0..steps * 2);
        let older_at = dice.random_range(0..steps);
        let mut older = Image::of(&live.0);
        for step in 0..steps {
            if step == reopened_at {
                drop(store);
                store = Store::open(&live.0).unwrap();
            }
            if step == older_at {
                older = Image::of(&live.0);
            }
            act(&mut store, dice, &mut known).await;
        }
        let whole = Image::of(&live.0);
        let mut image = whole.clone();
        let what = damage(&mut image, &older, dice);
        image.write(&torn.0);
        let outcome = match Store::open(&torn.0) {
            Ok(mut opened) => {
                let found = found(&mut opened).await.unwrap();
                assert_eq!(found, known, "seed {seed}: {what}");
                drop(opened);
                if image == whole { "was not changed" } else { "has it all" }
            }
            Err(error) => {
                assert!(says_what_to_do(&error), "seed {seed}: {what}: {error:?}");
                let again = Store::open(&torn.0);
                assert!(
                    again.is_err_and(|error| says_what_to_do(&error)),
                    "seed {seed}: {what}: taken when tried again"
                );
                "is refused"
            }
        };
        *outcomes.entry((what, outcome)).or_default() += 1;
    }
    for ((what, outcome), count) in &outcomes {
        println!("{what}: {outcome} {count} times");
    }
    let refused: u64 =
        outcomes.iter().filter(|((_, outcome), _)| *outcome == "is refused").map(|(_, count)| count).sum();
    assert!(refused > 0, "nothing was ever refused: the damage does nothing");
}

/// What was on its way when the power went is there or is not; what was acknowledged before it is there.
#[tokio::test]
async fn a_write_that_was_torn_on_its_way_costs_nothing_that_was_acknowledged() {
    let (mut kept, mut lost) = (0, 0);
    for seed in seeds("BCP_DISK_SEEDS", 300) {
        let dice = &mut StdRng::seed_from_u64(seed);
        let (live, torn) = (Dir::new("way"), Dir::new("cut"));
        let mut known = Acknowledged::default();
        let mut store = Store::open(&live.0).unwrap();
        for _ in 0..dice.random_range(2..20) {
            act(&mut store, dice, &mut known).await;
        }
        let before = Image::of(&live.0);
        let term = known.vote.map_or(1, |vote| vote.leader_id.term);
        let mut then = known.clone();
        if dice.random() {
            let vote = Vote::new(term + 1, 2);
            store.save_vote(&vote).await.unwrap();
            then.vote = Some(vote);
        } else {
            let last = known.entries.last().map(|last| last.log_id.index).or(known.purged.map(|purged| purged.index));
            let one = entry(term, last.map_or(0, |last| last + 1), 7);
            store.blocking_append([one.clone()]).await.unwrap();
            then.entries.push(one);
        }
        let after = Image::of(&live.0);
        let (written, longer) = (before.0[1].as_ref().map_or(0, Vec::len), after.0[1].as_ref().map_or(0, Vec::len));
        let mut image = after.clone();
        // The mark follows the log: it is still the one before, or torn in the place that is written.
        image.0[2].clone_from(&before.0[2]);
        let wal = image.0[1].as_mut().unwrap();
        match dice.random_range(0..3) {
            0 => wal.truncate(dice.random_range(written..longer)),
            1 => {
                // Sectors reach the disk in any order.
                let from = dice.random_range(written..longer) / 512 * 512;
                wal[from.max(written)..(from + 512).min(longer)].fill(0);
            }
            _ => {}
        }
        image.write(&torn.0);
        let mut opened = Store::open(&torn.0).unwrap_or_else(|error| panic!("seed {seed}: {error:?}"));
        let found = found(&mut opened).await.unwrap();
        assert!(found == known || found == then, "seed {seed}: {found:?} is neither {known:?} nor {then:?}");
        if found == then { kept += 1 } else { lost += 1 }
    }
    println!("the write on its way was there {kept} times, and was not {lost} times");
    assert!(kept > 0 && lost > 0);
}

const CHILD: &str = "BCP_DISK_CHILD";

/// Fills a database until the system takes no more; run by the test below, which bounds the size of its files.
#[tokio::test]
async fn child_fills_a_disk() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = PathBuf::from(dir);
    let mut store = Store::open(&dir).unwrap();
    let mut known = 0;
    loop {
        let one = entry(1, known, 0);
        match store.blocking_append([one]).await {
            Ok(()) => known += 1,
            Err(error) => {
                std::fs::write(dir.with_extension("told"), format!("{known}\n{error}")).unwrap();
                return;
            }
        }
        assert!(known < 100_000, "the bound does nothing");
    }
}

/// A limit on the size of files stands for a disk that takes no more: every write past it fails.
#[test]
fn a_disk_that_takes_no_more_is_an_error_and_costs_nothing_that_was_acknowledged() {
    let dir = Dir::new("full");
    let db = dir.0.join("decide");
    let mut child = Command::new("sh");
    let limited = "trap '' XFSZ; ulimit -f 512; exec \"$0\" --exact child_fills_a_disk --nocapture";
    child.args(["-c", limited]).arg(std::env::current_exe().unwrap()).env(CHILD, &db);
    let done = child.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let told = std::fs::read_to_string(db.with_extension("told")).unwrap();
    let (known, error) = told.split_once('\n').unwrap();
    println!("after {known} appends: {error}");
    let known: usize = known.parse().unwrap();
    assert!(known > 10 && !error.is_empty());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let found = runtime.block_on(async { found(&mut Store::open(&db).unwrap()).await.unwrap() });
    assert!(found.entries.len() >= known, "{} of {known} are there", found.entries.len());
}
