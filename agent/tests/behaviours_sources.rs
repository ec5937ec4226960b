//! Behaviours 3 to 8 and 13 of the running sources, one named test each: from the text of a configuration to what reaches the
//! publisher, against Modbus servers that say what a test wants.
#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test that cannot go on says so by panicking")]

mod support {
    pub mod modbus_server;
    pub mod process;
}

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bcp_agent::config;
use bcp_agent::outbound::Outbound;
use bcp_agent::resolver::Resolver;
use bcp_agent::self_stats::{Board, DeviceReport};
use bcp_agent::source::Clock;
use bcp_agent::source::tasks::Sources;
use bcp_wire::{BadReason, Value};
use support::modbus_server::{Asked, Reply, TEMPTATION, serve_for, server};
use support::process::scratch;
use tokio::sync::mpsc;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(60);
type Readings = BTreeMap<String, Result<Value, BadReason>>;

/// Sources at work.
struct Bench {
    dir: PathBuf,
    board: Arc<Board>,
    heard: mpsc::Receiver<Outbound>,
    sources: Option<Sources>,
}

impl Bench {
    /// `points` is the rest of a Modbus profile, `devices` are (id, port, unit, interval).
    async fn start(name: &str, points: &str, devices: &[(&str, u16, u8, &str)]) -> Bench {
        let dir = scratch(name);
        std::fs::create_dir_all(dir.join("test")).unwrap();
        let head = "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"this test\"]\n[modbus]\n";
        std::fs::write(dir.join("test/pdu.toml"), format!("{head}{points}")).unwrap();
        let mut text = format!(
            "site = \"a\"\nagent = \"gw-a\"\nstate_dir = \"{0}\"\nprofiles_dir = \"{0}\"\n[mqtt]\nbroker = \"127.0.0.1:1\"\n",
            dir.display()
        );
        for (id, port, unit, interval) in devices {
            text += &format!(
                "[[device]]\nid = \"{id}\"\nprofile = \"test/pdu\"\ninterval = \"{interval}\"\n\
                 modbus = {{ address = \"127.0.0.1:{port}\", unit = {unit}, timeout = \"300ms\" }}\n"
            );
        }
        let config = config::parse("agent.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
        let board = Arc::new(Board::new(Clock::start()));
        let (outbound, heard) = mpsc::channel(1_024);
        let mut sources = Sources::new(outbound, Arc::clone(&board), Resolver::default());
        sources.apply(&config).await.unwrap();
        Bench { dir, board, heard, sources: Some(sources) }
    }

    /// The next readings of a device.
    async fn next(&mut self, id: &str) -> Readings {
        let next = async {
            loop {
                match self.heard.recv().await.expect("sources run") {
                    Outbound::Batch { device, points, .. } if device.as_str() == id => {
                        return points.into_iter().map(|(name, _, value)| (name.to_string(), value)).collect();
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(LIMIT, next).await.unwrap_or_else(|_| panic!("no readings of {id} within {LIMIT:?}"))
    }

    fn report(&self, id: &str) -> DeviceReport {
        self.board.report().devices.into_iter().find(|device| device.id.as_str() == id).unwrap()
    }

    async fn end(mut self) {
        if let Some(sources) = self.sources.take() {
            sources.stop().await;
        }
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn bad(readings: &Readings) -> Vec<(&str, BadReason)> {
    readings.iter().filter_map(|(name, value)| Some((name.as_str(), *value.as_ref().err()?))).collect()
}

fn point(name: &str, read: u16, more: &str) -> String {
    format!("[[point]]\nname = \"{name}\"\nread = \"holding:{read}\"\n{more}\n")
}

/// Forty points, each of which is its register's address.
fn forty() -> String {
    (0..40).map(|n| point(&format!("outlet.{}.current", n + 1), 100 + n, "")).collect()
}

fn assert_right(readings: &Readings) {
    for (name, value) in readings {
        if let Ok(value) = value {
            let n: u16 = name.split('.').nth(1).unwrap().parse().unwrap();
            assert_eq!(value, &Value::Num(f64::from(99 + n)), "{name}");
        }
    }
}

/// 3: a register that the device refuses costs its point and no other, and is asked for alone only once.
#[tokio::test]
async fn behaviour_03_exception_2_loses_one_point() {
    for code in [2, 3] {
        let (port, seen) = server(move |asked| if asked.covers(117) { Reply::Exception(code) } else { asked.right() });
        let mut bench = Bench::start("one-point", &forty(), &[("pdu-1", port, 1, "100ms")]).await;
        let first = bench.next("pdu-1").await;
        assert_eq!((first.len(), bad(&first)), (40, vec![("outlet.18.current", BadReason::Exception)]));
        assert_right(&first);
        let learnt = seen.requests.load(Ordering::SeqCst);
        for _ in 0..5 {
            let again = bench.next("pdu-1").await;
            assert_eq!(bad(&again), [("outlet.18.current", BadReason::Exception)]);
            assert_right(&again);
        }
        let since = seen.requests.load(Ordering::SeqCst) - learnt;
        assert!(since <= 6 * 6, "what was learnt is remembered: {since} requests for at most six polls");
        assert_eq!(bench.report("pdu-1").error.as_deref(), Some("exception"));
        bench.end().await;
    }
}

/// 4: every exception has a consequence of its own.
#[tokio::test]
async fn behaviour_04_each_exception_has_its_policy() {
    let two = point("outlet.1.current", 100, "") + &point("outlet.2.current", 900, "");
    // Busy or working on it: asked again within the same poll.
    for code in [5, 6] {
        let (port, _) = server(move |asked| if asked.number == 0 { Reply::Exception(code) } else { asked.right() });
        let mut bench = Bench::start("busy", &two, &[("pdu-1", port, 1, "1s")]).await;
        assert_eq!(bad(&bench.next("pdu-1").await), [], "exception {code} is a wait, not a loss");
        bench.end().await;
    }
    // Illegal function and device failure: that block, and the other block is read all the same.
    for (code, reason) in [(1, BadReason::Config), (4, BadReason::Exception), (7, BadReason::Exception)] {
        let (port, _) = server(move |asked| if asked.covers(100) { Reply::Exception(code) } else { asked.right() });
        let mut bench = Bench::start("block", &two, &[("pdu-1", port, 1, "100ms")]).await;
        let readings = bench.next("pdu-1").await;
        assert_eq!(bad(&readings), [("outlet.1.current", reason)], "exception {code}");
        assert_eq!(readings["outlet.2.current"], Ok(Value::Num(900.0)), "exception {code}");
        bench.end().await;
    }
    // The gateway cannot reach a unit: that unit is left alone for a while, its neighbour is not.
    for code in [10, 11] {
        let (port, _) = server(move |asked| if asked.unit == 2 { Reply::Exception(code) } else { asked.right() });
        let devices = [("pdu-1", port, 1, "100ms"), ("pdu-2", port, 2, "100ms")];
        let mut bench = Bench::start("unit", &two, &devices).await;
        for _ in 0..12 {
            assert_eq!(bad(&bench.next("pdu-1").await), []);
        }
        let (well, away) = (bench.report("pdu-1"), bench.report("pdu-2"));
        assert!(
            away.polls < well.polls / 2,
            "exception {code}: {} polls of one unit, {} of the other",
            well.polls,
            away.polls
        );
        assert_eq!((well.failed, away.failed), (0, away.polls));
        bench.end().await;
    }
}

/// 5: a dead device is asked less and less often, delays nobody, and is noticed when it is back.
#[tokio::test]
async fn behaviour_05_a_dead_device_backs_off_and_delays_nobody() {
    let alive_again = Arc::new(AtomicUsize::new(0));
    let switch = Arc::clone(&alive_again);
    let (dead, asked_dead) = server(move |asked| match switch.load(Ordering::SeqCst) {
        0 => Reply::Silence,
        _ => asked.right(),
    });
    let (well, _) = server(Asked::right);
    let devices = [("pdu-dead", dead, 1, "100ms"), ("pdu-well", well, 1, "100ms")];
    let mut bench = Bench::start("dead", &forty(), &devices).await;
    let began = Instant::now();
    for _ in 0..40 {
        assert_eq!(bad(&bench.next("pdu-well").await), []);
    }
    let took = began.elapsed();
    // Two polls at its interval, then one every 1.5 s at most: the first wait is 2 s less a quarter, and they double.
    let tries = asked_dead.requests.load(Ordering::SeqCst);
    let most = 3 + took.as_millis() / 1_500;
    assert!(tries >= 2 && tries as u128 <= most, "{tries} requests to a dead device in {took:?}");
    let report = bench.report("pdu-dead");
    assert_eq!((report.reachable.word(), report.error.as_deref()), (Some("no"), Some("timeout")));
    assert!(report.next_in_ms > 200, "it is left alone for now: {} ms", report.next_in_ms);
    assert_eq!(bench.report("pdu-well").missed, 0, "nobody is delayed");
    alive_again.store(1, Ordering::SeqCst);
    while !bad(&bench.next("pdu-dead").await).is_empty() {}
    assert_eq!(bench.report("pdu-dead").reachable.word(), Some("yes"));
    bench.end().await;
}

/// 6: however many devices are behind one address, there is one connection and one request at a time.
#[tokio::test]
async fn behaviour_06_one_master_per_bus() {
    let (port, seen) = serve_for(TEMPTATION, Asked::right);
    let ids: Vec<String> = (1..=8).map(|unit| format!("pdu-{unit}")).collect();
    let devices: Vec<(&str, u16, u8, &str)> =
        ids.iter().zip(1..).map(|(id, unit)| (id.as_str(), port, unit, "100ms")).collect();
    let mut bench = Bench::start("bus", &forty(), &devices).await;
    for _ in 0..5 {
        for id in &ids {
            let readings = bench.next(id).await;
            assert_eq!(bad(&readings), []);
            assert_right(&readings);
        }
    }
    assert!(seen.requests.load(Ordering::SeqCst) >= 40);
    assert_eq!(seen.most_open.load(Ordering::SeqCst), 1, "one connection");
    assert_eq!(seen.overlapping.load(Ordering::SeqCst), 0, "one request at a time");
    bench.end().await;
}

/// 7: marks of "no value", not-a-number, and what cannot be true are told as such, never as values.
#[tokio::test]
async fn behaviour_07_sentinels_nan_ranges_and_steps_are_flagged() {
    let points = point("outlet.1.current", 0, "type = \"i16\"\nsentinel = [-32768, \"0x7FFF\"]")
        + &point("outlet.2.current", 1, "type = \"f32\"")
        + &point("outlet.3.voltage", 3, "scale = 0.1\nrange = [100, 300]")
        + &point("outlet.4.voltage", 4, "max_step = 10");
    // Per poll: the five registers, and what is wrong with each of the four points. A jump is believed once the next poll
    // confirms it.
    use BadReason::{Range, Sentinel, Step};
    let polls: [([u16; 5], [Option<BadReason>; 4]); 8] = [
        ([5, 0x4120, 0, 2_300, 230], [None; 4]),
        ([0x8000, 0x7FC0, 0, 3_001, 239], [Some(Sentinel), Some(Sentinel), Some(Range), None]),
        ([0x7FFF, 0x7F80, 0, 999, 500], [Some(Sentinel), Some(Range), Some(Range), Some(Step)]),
        ([0xFFFB, 0xFF80, 0, 0, 232], [None, Some(Range), Some(Range), Some(Step)]),
        ([0x8000, 0x4120, 0, 0xFFFF, 400], [Some(Sentinel), None, Some(Range), Some(Step)]),
        ([7, 0xFFFF, 0xFFFF, 3_000, 405], [None, Some(Sentinel), None, None]),
        ([7, 0x4120, 0, 1_000, 0], [None, None, None, Some(Step)]),
        ([7, 0x4120, 0, 1_000, 1], [None; 4]),
    ];
    let (port, _) = server(move |asked| {
        let (words, _) = polls[asked.number.min(polls.len() - 1)];
        let (from, count) = (usize::from(asked.address), usize::from(asked.count));
        Reply::Words(words[from..from + count].to_vec())
    });
    let mut bench = Bench::start("flagged", &points, &[("pdu-1", port, 1, "200ms")]).await;
    let names = ["outlet.1.current", "outlet.2.current", "outlet.3.voltage", "outlet.4.voltage"];
    for (number, (_, wrong)) in polls.iter().enumerate() {
        let readings = bench.next("pdu-1").await;
        let found = names.map(|name| readings[name].as_ref().err().copied());
        assert_eq!(&found, wrong, "poll {number}: {readings:?}");
    }
    bench.end().await;
}

/// 8: the registers of one value are of one moment, whatever the limits of a request; so is a live scale with its value.
#[tokio::test]
async fn behaviour_08_no_value_is_torn() {
    // Odd limits, so that blocks end in the middle of values if anything lets them. Every answer holds one word in all its
    // registers, another one each time: a value of two answers has two different words.
    let mut points = "max_registers = 7\nmax_gap = 3\n".to_owned();
    let kinds = [("u32", 2), ("u64", 4), ("u16", 1), ("u64", 4), ("u32", 2), ("u16", 1), ("u64", 4)];
    let mut address = 10;
    let mut widths = Vec::new();
    for n in 0..35 {
        let (kind, width) = kinds[n % kinds.len()];
        points += &point(&format!("outlet.{}.energy", n + 1), address, &format!("type = \"{kind}\""));
        widths.push(width);
        address += width + u16::from(n % 5 == 0);
    }
    let (port, seen) =
        server(|asked| Reply::Words(vec![u16::try_from(asked.number % 31 + 1).unwrap(); usize::from(asked.count)]));
    let mut bench = Bench::start("torn", &points, &[("pdu-1", port, 1, "100ms")]).await;
    for _ in 0..20 {
        let readings = bench.next("pdu-1").await;
        assert_eq!((readings.len(), bad(&readings)), (35, vec![]));
        for (n, width) in widths.iter().enumerate() {
            let name = format!("outlet.{}.energy", n + 1);
            let value = readings[&name].as_ref().unwrap().as_num().unwrap();
            // A whole value is its word times 1, 0x1_0001 or 0x1_0001_0001_0001. Words up to 31 keep it exact as a double.
            let ones = (0..*width).fold(0_u64, |ones, _| ones << 16 | 1) as f64;
            let word = (value / ones).round();
            assert!((1.0..=31.0).contains(&word) && word * ones == value, "{name}: {value}");
        }
    }
    assert!(seen.requests.load(Ordering::SeqCst) >= 20 * 10, "many requests a poll, or nothing could be torn");
    bench.end().await;
}

/// 13: what is no longer read is never told again. While the device is asked its points are bad, while it is left alone
/// nothing is said, and `status` says since when there is no good value. (The other end is the collector's.)
#[tokio::test]
async fn behaviour_13_an_old_value_is_never_told_as_a_new_one() {
    let silent = Arc::new(AtomicUsize::new(0));
    let switch = Arc::clone(&silent);
    let (port, _) = server(move |asked| match switch.load(Ordering::SeqCst) {
        0 => asked.right(),
        _ => Reply::Silence,
    });
    let derived = "[[derived]]\nname = \"ups.load\"\nmax = [\"outlet.1.current\"]\n";
    let mut bench = Bench::start("stale", &(forty() + derived), &[("pdu-1", port, 1, "100ms")]).await;
    for _ in 0..3 {
        assert_eq!(bad(&bench.next("pdu-1").await), []);
    }
    silent.store(1, Ordering::SeqCst);
    let mut last_good_ms = None;
    let began = Instant::now();
    let mut asked_in_vain = 0;
    while asked_in_vain < 3 {
        assert!(began.elapsed() < LIMIT, "{asked_in_vain} polls without an answer");
        let readings = bench.next("pdu-1").await;
        let report = bench.report("pdu-1");
        if bad(&readings).is_empty() && asked_in_vain == 0 {
            // It was on its way when the device fell silent.
            last_good_ms = report.last_good_ms;
            continue;
        }
        asked_in_vain += 1;
        assert_eq!(bad(&readings).len(), readings.len(), "a device that does not answer has a value: {readings:?}");
        assert!(readings.len() >= 40 && readings.values().all(|value| *value == Err(BadReason::Timeout)));
        last_good_ms = last_good_ms.or(report.last_good_ms);
        assert_eq!(report.last_good_ms, last_good_ms, "the last good value stays where it was");
    }
    let report = bench.report("pdu-1");
    assert!(report.last_good_ago_ms.unwrap() > 250, "older than 2.5 intervals: {:?}", report.last_good_ago_ms);
    assert_eq!((report.reachable.word(), report.error.as_deref()), (Some("no"), Some("timeout")));
    bench.end().await;
}
