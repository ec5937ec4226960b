//! Profiles against recordings of real devices: each is served by snmpsim, read as the agent reads any device, and
//! compared with what another tool derives from the same recording.
//!
//! `BCP_RECORDINGS` names the folder of the recordings, which is not part of this project: unset, the tests say that
//! they skip. `BCP_PYTHON` names an interpreter that has snmpsim (default `python3`). With `BCP_RECORDINGS_SHOW=1`
//! every row that is missing is printed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_agent::config::{Access, DeviceConfig, Link, SnmpLink};
use bcp_agent::derive::Reading;
use bcp_agent::oid::Oid;
use bcp_agent::profile::{self, Profile};
use bcp_agent::schedule::Outcome;
use bcp_agent::source::snmp::SnmpDevice;
use bcp_wire::{BadReason, Value};

const START_LIMIT: Duration = Duration::from_secs(90);
const BUDGET: Duration = Duration::from_secs(20);
/// Polls in which the tables of a device must have been found.
const MOST_POLLS: usize = 12;
/// Share of the sensors of claimed recordings that must come out as the other tool has them.
const WANTED_SHARE: f64 = 0.95;

/// Recording, and the profiles that read it.
const CLAIMS: &[(&str, &[&str])] = &[
    ("akcp_serverprobe8", &["akcp/sensorprobe"]),
    ("aos-emu2_ap9320", &["apc/ems"]),
    ("apc-epdu", &["apc/epdu"]),
    ("apc-mgeups_galaxy7000", &["mge/galaxy"]),
    ("apc_ats", &["apc/ats"]),
    ("apc_inrow-dx", &["apc/inrow"]),
    ("apc_smx750i", &["apc/smart-ups"]),
    ("chatsworth-pdu", &["chatsworth/econnect"]),
    ("cyberpower", &["cyberpower/rmcard"]),
    ("dell-rpdu", &["dell/rpdu"]),
    ("deltaorion_deltaorion", &["delta/orion"]),
    ("drac", &["dell/idrac", "dell/cmc"]),
    ("eaton-mgeups_5px", &["eaton/mge"]),
    ("eaton-mgeups_93ps", &["eaton/mge"]),
    ("eatonups", &["eaton/xups"]),
    ("generex-ups_cs141", &["generex/cs141"]),
    ("hpe-pdumm", &["hpe/pdu-management-module"]),
    ("huawei-smu", &["huawei/smu"]),
    ("huaweiups_ups2000", &["huawei/ups2000"]),
    ("hwg-poseidon", &["hwgroup/poseidon"]),
    ("imcopower-big", &["imco/big"]),
    ("istars", &["ietf/ups-mib-walked"]),
    ("janitza", &["janitza/umg"]),
    ("liebert", &["vertiv/mph"]),
    ("liebert_weblbds", &["vertiv/liebert-env"]),
    ("netagent2_1", &["megatec/netagent"]),
    ("panduit", &["panduit/p42"]),
    ("panduit-eagle", &["panduit/eagle-i"]),
    ("pcoweb-rittalchiller", &["rittal/it-chiller"]),
    ("poweralert_2", &["tripplite/poweralert"]),
    ("raritan-pdu", &["raritan/px1", "raritan/px2"]),
    ("raritan-pdu_px2_temp", &["raritan/px2"]),
    ("riello", &["riello/netman"]),
    ("rittal-cmc", &["rittal/cmc-tc-lcp"]),
    ("rittal-cmc-iii-pu", &["rittal/cmc-iii"]),
    ("sentry3", &["servertech/sentry3"]),
    ("sentry4", &["servertech/sentry4"]),
    ("serverscheck_sc-ts01", &["serverscheck/gateway"]),
    ("siteboss571_siteboss571", &["asentria/siteboss"]),
    ("stulz_wib8000", &["stulz/wib8000"]),
    ("ts-bspdu", &["ts/bspdu"]),
];

/// Rows of the other tool that are known to be wrong, or that mean another thing: recording, OID, why.
const EXPLAINED: &[(&str, &str, &str)] = &[
    // Column 5 of these rows says that the sensor is offline: its last value is none.
    ("akcp_serverprobe8", "1.3.6.1.4.1.3854.1.2.2.1.17.1.13.1", "the sensor is offline"),
    ("akcp_serverprobe8", "1.3.6.1.4.1.3854.1.2.2.1.17.1.13.2", "the sensor is offline"),
    ("akcp_serverprobe8", "1.3.6.1.4.1.3854.1.2.2.1.17.1.13.3", "the sensor is offline"),
    ("akcp_serverprobe8", "1.3.6.1.4.1.3854.1.2.2.1.17.1.13.4", "the sensor is offline"),
    ("akcp_serverprobe8", "1.3.6.1.4.1.3854.1.2.2.1.17.1.13.5", "the sensor is offline"),
];

/// Units in which the other tool has a class of a recording, against ours: recording (or any), class, factor to ours.
const FACTORS: &[(&str, &str, f64)] = &[
    // It has kilowatts and kilowatt hours in some classes of some devices.
    ("apc_inrow-dx", "power", 1_000.0),
    ("ts-bspdu", "power_consumed", 1.0),
    // Cubic feet per minute.
    ("", "airflow", 1.699_010_795_5),
    ("", "runtime", 60.0),
    ("", "power_consumed", 1_000.0),
];

fn python() -> String {
    std::env::var("BCP_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

struct Simulator {
    child: Child,
    cache: PathBuf,
    address: String,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.cache);
    }
}

/// Serves every recording under its name as community. `None` where there is no snmpsim.
fn simulator(recordings: &Path) -> Option<Simulator> {
    let present = Command::new(python()).args(["-c", "import snmpsim"]).stderr(Stdio::null()).status();
    if !present.is_ok_and(|status| status.success()) {
        let line = "SKIPPED: snmpsim is not there (install snmpsim 1.2 from PyPI)";
        assert!(std::env::var("BCP_STRICT").as_deref() != Ok("1"), "{line}");
        eprintln!("{line}");
        return None;
    }
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cache = std::env::temp_dir().join(format!("bcp-recordings-{}", std::process::id()));
    std::fs::create_dir_all(&cache).unwrap();
    let mut command = Command::new(python());
    command
        .args(["-c", "from snmpsim.commands.responder import main; main()"])
        .arg("--v3-engine-id=80004fb805626370726563")
        .arg(format!("--data-dir={}", recordings.join("snmprec").display()))
        .arg(format!("--cache-dir={}", cache.display()))
        .arg(format!("--agent-udpv4-endpoint=127.0.0.1:{port}"))
        .arg("--logging-method=null")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if rustix::process::getuid().is_root() {
        command.args(["--process-user=root", "--process-group=root"]);
    }
    let child = command.spawn().unwrap();
    Some(Simulator { child, cache, address: format!("127.0.0.1:{port}") })
}

fn built_in(id: &str) -> Arc<Profile> {
    // The files as they are, so that a changed profile needs no new build.
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware-configs");
    profile::load(id, Some(&files)).unwrap_or_else(|error| panic!("{id}: {error:?}"))
}

fn device(profile: Arc<Profile>, recording: &str, address: &str, timeout: Duration) -> SnmpDevice {
    let link = SnmpLink { address: address.to_owned(), access: Access::community(recording), timeout, retries: 2 };
    let config = DeviceConfig {
        id: "recorded".parse().unwrap(),
        kind: profile.kind.clone(),
        profile,
        location: None,
        parent: None,
        interval: Duration::from_secs(60),
        link: Link::Snmp(link.clone()),
    };
    SnmpDevice::new(Arc::new(config), link)
}

/// One reading of ours.
struct Ours {
    name: String,
    reading: Reading,
    raw: Option<String>,
}

/// Everything a profile reads of a recording, by OID. Derived points have none.
async fn read(profile: &str, recording: &str, address: &str) -> BTreeMap<String, Vec<Ours>> {
    let mut device = device(built_in(profile), recording, address, Duration::from_secs(3));
    device.watch();
    for poll in 0.. {
        let polled = device.poll(BUDGET).await;
        assert_eq!(polled.outcome, Outcome::Answered, "{recording}: {:?}", polled.trouble);
        if !device.is_discovering() {
            assert_eq!(polled.trouble, None, "{recording}");
            break;
        }
        assert!(poll < MOST_POLLS, "{recording}: its tables are not found");
    }
    let mut found: BTreeMap<String, Vec<Ours>> = BTreeMap::new();
    // Points that only feed derived ones are compared as well.
    for (described, reading) in device.state.rows() {
        let ours = Ours { name: described.name.to_string(), reading: reading.clone(), raw: described.raw.clone() };
        found.entry(described.source.clone()).or_default().push(ours);
    }
    found
}

/// What a device says it is: sysObjectID and sysDescr.
async fn identity(recording: &str, address: &str) -> (Option<Oid>, String) {
    let text = "format = 1\ntitle = \"t\"\nkind = \"host\"\nsources = [\"SNMPv2-MIB\"]\n[snmp]\n\
        [[point]]\nname = \"id\"\nread = \"1.3.6.1.2.1.1.2.0\"\ntype = \"string\"\npublish = false\n\
        [[point]]\nname = \"descr\"\nread = \"1.3.6.1.2.1.1.1.0\"\ntype = \"string\"\npublish = false\n";
    let profile = profile::parse("t/t", "t", text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let mut device = device(Arc::new(profile), recording, address, Duration::from_secs(3));
    device.poll(BUDGET).await;
    let texts: Vec<String> = device
        .state
        .rows()
        .map(|(_, reading)| match reading {
            Some(Ok(value)) => value.to_string(),
            _ => String::new(),
        })
        .collect();
    (texts[0].parse().ok(), texts[1].clone())
}

/// A sensor as the other tool has it.
struct Truth {
    class: String,
    oid: String,
    descr: String,
    raw: String,
    value: f64,
    state_text: String,
    sentinel: bool,
}

/// Fields of a line of comma-separated values; quotes as RFC 4180 has them.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut chars) = (false, line.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => fields.last_mut().unwrap().extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().unwrap().push(c),
        }
    }
    fields
}

/// Rows that can be compared: those with an identifier and a value that are not marked as wrong.
fn truth(recordings: &Path, recording: &str) -> Vec<Truth> {
    let path = recordings.join("truth").join(format!("{recording}.csv"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text.lines();
    let heads = fields(lines.next().unwrap());
    let column = |name: &str| heads.iter().position(|head| head == name).unwrap();
    let (class, oid, descr, raw) = (column("class"), column("oid"), column("descr"), column("raw"));
    let (value, state_text, note) = (column("value"), column("state_text"), column("note"));
    lines
        .map(fields)
        .filter(|row| !row[note].contains("no exact OID") && !row[note].contains("KNOWN-BAD"))
        .filter_map(|row| {
            Some(Truth {
                class: row[class].clone(),
                oid: row[oid].trim_start_matches('.').to_owned(),
                descr: row[descr].clone(),
                raw: row[raw].clone(),
                value: row[value].parse().ok()?,
                state_text: row[state_text].clone(),
                sentinel: row[note].contains("SENTINEL"),
            })
        })
        .collect()
}

/// The number in the bytes of a reading, as `probe` shows them.
fn raw_text(raw: &str) -> String {
    if let Some(digits) = raw.strip_prefix("0x") {
        #[allow(clippy::cast_possible_wrap)]
        return u64::from_str_radix(digits, 16).map_or_else(|_| raw.to_owned(), |number| (number as i64).to_string());
    }
    let bytes: Option<Vec<u8>> =
        (0..raw.len() / 2).map(|at| u8::from_str_radix(raw.get(2 * at..2 * at + 2)?, 16).ok()).collect();
    bytes.map_or_else(|| raw.to_owned(), |bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// `None`: equal; else what we have.
fn difference(recording: &str, truth: &Truth, ours: &Ours) -> Option<String> {
    let reading = ours.reading.as_ref()?;
    match (reading, truth.sentinel) {
        (Err(_), true) => None,
        (Ok(value), true) => Some(format!("{} = {value}, which is no value", ours.name)),
        (Err(reason), false) => Some(format!("{} is bad:{}", ours.name, reason.as_str())),
        (Ok(Value::Num(number)), false) => {
            let factor = FACTORS
                .iter()
                .find(|(name, class, _)| *class == truth.class && (*name == recording || name.is_empty()))
                .map_or(1.0, |(_, _, factor)| *factor);
            let difference = (number / factor - truth.value).abs();
            let equal = difference <= (1e-4 * truth.value.abs()).max(0.005);
            (!equal).then(|| format!("{} = {number}", ours.name))
        }
        (Ok(Value::Text(word)), false) => {
            let raw = ours.raw.as_deref().map(raw_text).unwrap_or_default();
            let same_number = raw.parse::<f64>().is_ok_and(|raw| (raw - truth.value).abs() < 0.005);
            let equal = same_number || raw == truth.raw || *word == truth.state_text;
            (!equal).then(|| format!("{} = {word} (raw {raw})", ours.name))
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    sensors: usize,
    found: usize,
    equal: usize,
}

/// Rows that need a person's eye.
#[derive(Debug, Default)]
struct Report {
    differing: Vec<String>,
    missing: Vec<String>,
    unrecognised: Vec<String>,
}

impl Report {
    fn compare(&mut self, recording: &str, truths: Vec<Truth>, ours: &BTreeMap<String, Vec<Ours>>) -> Tally {
        let mut tally = Tally::default();
        for truth in truths {
            if EXPLAINED.iter().any(|(name, oid, _)| *name == recording && *oid == truth.oid) {
                continue;
            }
            tally.sensors += 1;
            let known = ours.get(&truth.oid);
            // A point that may be absent is not told at all where it has no value.
            if truth.sentinel && known.is_some_and(|known| known.iter().all(|one| one.reading.is_none())) {
                tally.found += 1;
                tally.equal += 1;
                continue;
            }
            let Some(found) = known.filter(|found| found.iter().any(|one| one.reading.is_some())) else {
                self.missing
                    .push(format!("{recording} {} {} ({}) = {}", truth.class, truth.oid, truth.descr, truth.value));
                continue;
            };
            tally.found += 1;
            let found = found.iter().filter(|one| one.reading.is_some());
            let differences: Vec<String> = found.clone().filter_map(|one| difference(recording, &truth, one)).collect();
            if differences.len() < found.count() {
                tally.equal += 1;
            } else {
                self.differing.push(format!(
                    "{recording} {} {} ({}) = {}; ours: {}",
                    truth.class,
                    truth.oid,
                    truth.descr,
                    truth.value,
                    differences.join(", ")
                ));
            }
        }
        tally
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_devices_read_as_another_tool_reads_them() {
    let Some(recordings) = std::env::var_os("BCP_RECORDINGS").map(PathBuf::from) else {
        eprintln!("SKIPPED: BCP_RECORDINGS is not set: no recordings of devices are here");
        return;
    };
    let Some(simulator) = simulator(&recordings) else { return };
    let began = Instant::now();
    loop {
        let mut first = device(built_in("ietf/ups-mib"), "riello", &simulator.address, Duration::from_millis(500));
        if first.poll(Duration::from_secs(2)).await.outcome == Outcome::Answered {
            break;
        }
        assert!(began.elapsed() < START_LIMIT, "snmpsim does not answer");
    }
    let only = std::env::var("BCP_RECORDINGS_ONLY").ok();
    let show = std::env::var("BCP_RECORDINGS_SHOW").is_ok_and(|value| value == "1");
    let mut total = Tally::default();
    let mut report = Report::default();
    println!(
        "{:<24}{:<34}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "recording", "profile", "sensors", "found", "equal", "missing", "differ"
    );
    for (recording, profiles) in CLAIMS {
        if only.as_deref().is_some_and(|only| !recording.contains(only)) {
            continue;
        }
        let (object_id, descr) = identity(recording, &simulator.address).await;
        let fits = |id: &&str| {
            built_in(id).fingerprint.as_ref().is_some_and(|print| print.fit(object_id.as_ref(), &descr).is_some())
        };
        if !profiles.iter().any(fits) {
            report.unrecognised.push(format!("{recording}: {object_id:?} {descr}"));
        }
        let mut ours: BTreeMap<String, Vec<Ours>> = BTreeMap::new();
        for profile in *profiles {
            for (oid, found) in read(profile, recording, &simulator.address).await {
                ours.entry(oid).or_default().extend(found);
            }
        }
        let tally = report.compare(recording, truth(&recordings, recording), &ours);
        println!(
            "{recording:<24}{:<34}{:>8}{:>8}{:>8}{:>8}{:>8}",
            profiles.join(" "),
            tally.sensors,
            tally.found,
            tally.equal,
            tally.sensors - tally.found,
            tally.found - tally.equal
        );
        total.sensors += tally.sensors;
        total.found += tally.found;
        total.equal += tally.equal;
    }
    println!(
        "{:<58}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "all",
        total.sensors,
        total.found,
        total.equal,
        total.sensors - total.found,
        total.found - total.equal
    );
    for row in &report.differing {
        println!("differs: {row}");
    }
    for row in report.missing.iter().filter(|_| show) {
        println!("missing: {row}");
    }
    assert!(report.unrecognised.is_empty(), "their profiles do not recognise {:#?}", report.unrecognised);
    assert!(report.differing.is_empty(), "{} rows differ and are not explained", report.differing.len());
    #[allow(clippy::cast_precision_loss)]
    let share = total.equal as f64 / total.sensors.max(1) as f64;
    assert!(share >= WANTED_SHARE, "only {:.1} % of the sensors come out equal", 100.0 * share);
}

#[test]
fn bytes_of_a_reading_are_understood() {
    assert_eq!(raw_text("0x1f"), "31");
    assert_eq!(raw_text("0xffffffffffffffff"), "-1");
    assert_eq!(raw_text("33352043"), "35 C");
    assert_eq!(fields("a,\"b, \"\"c\"\"\",,d"), ["a", "b, \"c\"", "", "d"]);
    let ours = |reading| Ours { name: "n".to_owned(), reading: Some(reading), raw: None };
    let truth = Truth {
        class: "runtime".to_owned(),
        oid: String::new(),
        descr: String::new(),
        raw: String::new(),
        value: 43.0,
        state_text: String::new(),
        sentinel: false,
    };
    assert_eq!(difference("x", &truth, &ours(Ok(Value::Num(2_580.0)))), None);
    assert!(difference("x", &truth, &ours(Ok(Value::Num(43.0)))).is_some());
    assert!(difference("x", &truth, &ours(Err(BadReason::Sentinel))).is_some());
    let sentinel = Truth { sentinel: true, ..truth };
    assert_eq!(difference("x", &sentinel, &ours(Err(BadReason::Sentinel))), None);
    assert!(difference("x", &sentinel, &ours(Ok(Value::Num(1.0)))).is_some());
}
