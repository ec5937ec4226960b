//! What is read from files: configurations and profiles that people write, and our own files after a disk damaged them.

use std::path::{Path, PathBuf};

/// A part of `deploy`, `collector` ... of this repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub const PROFILE_WORDS: &str = "format title kind sources firmware [modbus] [snmp] [[point]] [[trap]] [[table]] name read type \
    holding: input: coil: 1.3.6.1.2.1.33 u16 i32 f64 bcd16 string bit order cdab scale scale_from offset unit sentinel range \
    max_step enum other words fallback_of optional publish walk label when index severity values {index} {label}";
pub const CONFIG_WORDS: &str = "site agent state_dir [mqtt] broker [traps] listen communities [[device]] id profile interval snmp \
    modbus address version community timeout retries v3 [[check]] http url tcp dns script [host] [spool] [gate] \
    [ticket.rx] [service.rx] [rule.hot] [asset.c] timing sites gates move_when rpo loss title order checks effect";
pub const RULE_WORDS: &str = "p(\"battery.charge\") age(\"battery.charge\") avg(\"ups.load\",\"5m\") forecast( count( kind== site== \
    && || ! < > <= >= == != in has( size( reachable() service_down(\"rx\") \"5m\" true false null \
    asset at set bad silent reachable agent alive service want alarm no-alarm unknown 0s 30s timeout";

/// Device profiles.
pub mod profile {
    use bcp_agent::profile::{embedded_ids, parse};

    use super::{read, repository};

    pub fn run(bytes: &[u8]) {
        if let Err(faults) = parse("t/t", "t.toml", &String::from_utf8_lossy(bytes)) {
            assert!(!faults.is_empty(), "refused without a reason");
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        embedded_ids().map(|id| read(&repository("firmware-configs").join(format!("{id}.toml")))).collect()
    }
}

/// The agent's configuration.
pub mod agent_config {
    use bcp_agent::config::parse;

    pub fn run(bytes: &[u8]) {
        if let Err(faults) = parse("agent.toml", &String::from_utf8_lossy(bytes)) {
            assert!(!faults.0.is_empty() && !faults.to_string().is_empty(), "refused without a reason");
        }
    }

    const WHOLE: &str = r#"
site = "a"
agent = "gw-a"
state_dir = "/tmp/x"
[mqtt]
broker = "127.0.0.1:18003"
[spool]
max_bytes = 67108864
[traps]
listen = "127.0.0.1:9162"
communities = ["public"]
[[device]]
id = "ups-a1"
profile = "ietf/ups-mib"
interval = "1s"
snmp = { address = "127.0.0.1:18030", version = "2c", community = "public", timeout = "1s", retries = 1 }
[[device]]
id = "meter-a1"
profile = "eastron/sdm630"
interval = "5s"
modbus = { address = "127.0.0.1:18031", unit = 1, shift = 1 }
[[check]]
id = "rx"
service = "prescriptions"
http = { url = "http://127.0.0.1:18011/health" }
"#;

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        vec![WHOLE.into()]
    }
}

/// The agent's spool. First byte: whether checksums are made right first. The rest: a segment.
pub mod spool {
    use bcp_agent::spool::{Class, Key, Opened, PackJob, Record, Spool, SpoolConfig};
    use bcp_wire::{Site, WIRE_VERSION, Watermark, WatermarkMark};

    use super::read;
    use crate::scratch_name;

    const MEND: u8 = 1;
    const HEADER_BYTES: usize = 36;
    const MARK: [u8; 4] = [0xB5, 0xC0, 0x0B, 0x0C];
    const PACKED_MARK: [u8; 4] = [0xB5, 0xC0, 0x0B, 0x0D];
    const WALL_MS: i64 = 1_790_000_000_000;

    /// Gives every record and packed block that is long enough the checksums of what it holds.
    fn mend(segment: &mut [u8]) {
        let mut at = HEADER_BYTES;
        while let Some(length) = segment.get_mut(at..).and_then(|item| mend_record(item).or_else(|| mend_packed(item)))
        {
            at += length;
        }
    }

    fn le_u32(bytes: &[u8], at: usize) -> Option<usize> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize)
    }

    fn mend_record(item: &mut [u8]) -> Option<usize> {
        let length = le_u32(item, 4).filter(|length| *length >= 34 && item.starts_with(&MARK))?;
        let body = item.get_mut(12..)?.get_mut(..length)?;
        let key = crc32c::crc32c(&body[..16]).to_le_bytes();
        body[16..20].copy_from_slice(&key);
        let whole = crc32c::crc32c(body).to_le_bytes();
        item[8..12].copy_from_slice(&whole);
        Some(12 + length)
    }

    fn mend_packed(item: &mut [u8]) -> Option<usize> {
        let header = le_u32(item, 4).filter(|length| *length >= 32 && item.starts_with(&PACKED_MARK))?;
        let stored = le_u32(item, 12)?;
        let whole = crc32c::crc32c(item.get(12 + header..)?.get(..stored)?).to_le_bytes();
        item[16..20].copy_from_slice(&whole);
        let whole = crc32c::crc32c(&item[12..12 + header]).to_le_bytes();
        item[8..12].copy_from_slice(&whole);
        Some(12 + header + stored)
    }

    fn record(seq: u64, payload: &[u8]) -> Record {
        let device = "ups-a1".parse().expect("an id");
        let key = Key { incarnation: 1, seq };
        Record { key, class: Class::Data, device, t_ms: WALL_MS, samples: 3, payload: payload.to_vec() }
    }

    pub fn run(bytes: &[u8]) {
        let Some((flags, segment)) = bytes.split_first() else { return };
        let mut segment = segment.to_vec();
        if flags & MEND != 0 {
            mend(&mut segment);
        }
        let dir = scratch_name("spool");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        std::fs::write(dir.join(format!("data-{:016x}-{:016x}.seg", 1, 1)), segment).expect("a file can be written");
        let Opened { mut spool, gaps, .. } = Spool::open(&dir, SpoolConfig::default(), 0);
        assert!(gaps.iter().all(|gap| gap.from <= gap.through), "a gap ends before it begins");
        let keys: Vec<Key> = spool.keys().map(|(key, _)| key).collect();
        for key in &keys {
            if let Ok(record) = spool.read(*key, 1) {
                assert_eq!(record.key, *key, "another payload was handed out");
            }
        }
        // It goes on working.
        let next = spool.highest_incarnation().saturating_add(1);
        let mut fresh = record(1, b"{}");
        fresh.key.incarnation = next;
        spool.append(&fresh, 1, WALL_MS);
        spool.flush(2);
        assert_eq!(spool.read(fresh.key, 2).as_ref(), Ok(&fresh), "a new payload was lost");
        let everything = |i| WatermarkMark { i, through: u64::MAX, holes: Vec::new() };
        let marks = keys.iter().map(|key| everything(key.incarnation)).chain([everything(next)]).collect();
        spool.commit(&Watermark { v: WIRE_VERSION, collector: Site::A, marks });
        assert!(spool.is_empty(), "what was committed is still owed");
        drop(spool);
        let _ = std::fs::remove_dir_all(&dir);
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let plain = seed(&SpoolConfig::default(), 3);
        // Of three segments the oldest is packed.
        let packed = seed(&SpoolConfig { segment_bytes: 8 << 10, ..SpoolConfig::default() }, 300);
        let with = |flags: u8, segment: &[u8]| [&[flags][..], segment].concat();
        vec![with(0, &plain), with(MEND, &plain), with(0, &packed), with(MEND, &packed)]
    }

    /// The first segment of a spool.
    fn seed(config: &SpoolConfig, records: u64) -> Vec<u8> {
        let dir = scratch_name("spool-seed");
        let Opened { mut spool, .. } = Spool::open(&dir, config.clone(), 0);
        for seq in 1..=records {
            spool.append(&record(seq, br#"{"v":1}"#), 0, WALL_MS);
        }
        spool.flush(1);
        let done = spool.take_packing(1).into_iter().map(PackJob::run).collect();
        spool.packed(done, 1);
        let names = std::fs::read_dir(&dir).expect("the spool's directory").flatten().map(|entry| entry.path());
        let segment = read(&names.min().expect("a segment"));
        let _ = std::fs::remove_dir_all(&dir);
        segment
    }
}

/// A collector's configuration. First byte: whether the rest is its own file or the policy that all three share.
pub mod collector_config {
    use bcp_collector::Config;
    use bcp_collector::config::ConfigError;

    use super::{read, repository};
    use crate::scratch_name;

    const POLICY: &str = r#"timing = "metro"
[ticket.prescriptions]
service = "recip-e"
mode = "auto"
accept_unfenced = true
sites = ["a", "b"]
preferred = "a"
rpo = "zero"
move_when = ["site_lost(holder)", "service_down(holder) for 30s"]
loss = "stop"
gates = { a = ["host-a"], b = ["host-b"] }
[service.recip-e]
title = { en = "Prescriptions" }
order = 1
ticket = "prescriptions"
checks = ["rx-a-from-a"]
effect = { doctors = { en = "Prescribe on paper." } }
[rule.supply-air-hot]
for_each = 'kind == "crac"'
when = 'p("supply.air.temperature") > 27.0'
priority = "high"
title = { en = "Supply air too warm", nl = "x", fr = "x", de = "x" }
[asset.chiller-a]
kind = "chiller"
location = "a"
"#;

    fn own() -> Vec<u8> {
        read(&repository("collector/tests/site/collector-a.toml"))
    }

    pub fn run(bytes: &[u8]) {
        let Some((pick, text)) = bytes.split_first() else { return };
        let (own, policy) = if pick & 1 == 0 { (text, POLICY.as_bytes()) } else { (&own()[..], text) };
        let dir = scratch_name("collector");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        for (name, text) in [("collector.toml", own), ("policy.toml", policy)] {
            std::fs::write(dir.join(name), text).expect("a file can be written");
        }
        match Config::load(&dir.join("collector.toml")) {
            Ok(config) => drop(bcp_collector::rules::rule_set(&config)),
            Err(ConfigError::Faults(faults)) => assert!(!faults.is_empty(), "refused without a reason"),
            Err(_) => {}
        }
        let _ = std::fs::remove_dir_all(&dir);
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let as_what = |pick: u8, text: &[u8]| [&[pick][..], text].concat();
        vec![
            as_what(0, &own()),
            as_what(1, POLICY.as_bytes()),
            as_what(1, &[POLICY.as_bytes(), &read(&repository("deploy/rules/default.toml"))].concat()),
        ]
    }
}

/// Conditions of rules. First byte: which part of a rule the rest is.
pub mod rule {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use bcp_core::rules::load::{RawRule, load};
    use bcp_core::rules::timeline::Timeline;

    const LANGUAGES: [&str; 4] = ["nl", "fr", "de", "en"];

    /// What a rule that is accepted is judged on.
    static STORY: LazyLock<Timeline> = LazyLock::new(|| {
        let lines = "asset ups-a1 ups site a\nasset crac-a1 crac site a parent ups-a1\n\
            at 0s set ups-a1 battery.charge 100\nat 0s set ups-a1 ups.status OL\nat 0s set crac-a1 supply.air.temperature 21\n\
            at 2s set ups-a1 battery.charge 40\nat 2s bad crac-a1 supply.air.temperature range\nat 3s service rx down\n\
            at 4s silent ups-a1\nat 5s reachable crac-a1 no\nat 6s set crac-a1 supply.air.temperature 35\n";
        Timeline::parse(lines).expect("a valid timeline")
    });

    pub fn run(bytes: &[u8]) {
        let Some((pick, text)) = bytes.split_first() else { return };
        let text = String::from_utf8_lossy(text).into_owned();
        let title = LANGUAGES.map(|language| (language.to_owned(), "t".to_owned()));
        let mut raw = RawRule {
            for_each: "true".to_owned(),
            when: r#"p("battery.charge") < 50.0"#.to_owned(),
            priority: "high".to_owned(),
            title: BTreeMap::from(title),
            ..RawRule::default()
        };
        match pick % 5 {
            0 => raw.when = text,
            1 => raw.clear = Some(text),
            2 => raw.suppress_when = Some(text),
            3 => raw.for_each = text,
            _ => raw.hold = Some(text),
        }
        match load(&BTreeMap::from([("hot".to_owned(), raw)]), None) {
            Ok(rules) => drop(STORY.run(rules, Vec::new())),
            Err(faults) => assert!(!faults.is_empty(), "refused without a reason"),
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let conditions = [
            r#"p("battery.charge") < 50.0 && p("ups.status") == "OB""#,
            r#"avg("supply.air.temperature", "5m") > 27.0 || age("supply.air.temperature") > 60.0"#,
            r#"service_down("rx")"#,
            "!reachable()",
            r#"kind == "crac" && site in ["a", "b"]"#,
        ];
        let all = (0..4u8).flat_map(|pick| conditions.map(|text| [&[pick][..], text.as_bytes()].concat()));
        all.chain([b"\x0430s".to_vec()]).collect()
    }
}

/// Timelines by which an operator tries rules.
pub mod timeline {
    use bcp_core::rules::timeline::Timeline;

    pub fn run(bytes: &[u8]) {
        if let Err(faults) = Timeline::parse(&String::from_utf8_lossy(bytes)) {
            assert!(!faults.is_empty(), "refused without a reason");
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        vec![
            b"asset ups-a1 ups site a\nasset crac-a1 crac parent ups-a1 location hall1 agent gw-a\nat 0s set ups-a1 battery.charge 100\n\
              at 1m bad ups-a1 battery.charge timeout\nat 2m silent ups-a1 # comment\nat 2m reachable ups-a1 no\nat 3m agent gw-a lost\n\
              at 3m service rx down\nat 4m want no-alarm hot/ups-a1\n"
                .to_vec(),
        ]
    }
}

/// The store's journal. First byte: whether the rest is a frame to be sealed, or a whole file.
pub mod journal {
    use bcp_collector::store::head::Head;
    use bcp_collector::store::journal::{Frame, Journal, Record, path};
    use bcp_collector::store::{Marks, Sample, SeriesId};
    use bcp_wire::Site;
    use bcp_wire::presence::AgentRef;

    use super::read;
    use crate::scratch_name;

    const SEAL: u8 = 1;

    fn sealed(payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        [&length.to_le_bytes()[..], &crc32c::crc32c(payload).to_le_bytes(), payload].concat()
    }

    pub fn run(bytes: &[u8]) {
        let Some((flags, rest)) = bytes.split_first() else { return };
        let dir = scratch_name("journal");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        let file = if flags & SEAL != 0 { sealed(rest) } else { rest.to_vec() };
        std::fs::write(path(&dir, 1), file).expect("a file can be written");
        let (mut head, mut marks, mut samples) = (Head::default(), Marks::default(), 0);
        let opened = Journal::open(&dir, 1, |record| match record {
            Record::Samples(read) => {
                samples += read.len();
                read.into_iter().for_each(|(series, sample)| head.push(series, sample));
            }
            Record::Mark { agent, incarnation, first, last } => {
                marks.insert_range(&agent, incarnation, first, last);
            }
            Record::Series { .. } | Record::Text { .. } | Record::Event(_) => {}
        });
        assert!(opened.is_ok(), "a damaged journal was not opened");
        assert!(samples * 20 <= rest.len(), "samples came from nowhere");
        let _ = std::fs::remove_dir_all(&dir);
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let agent = AgentRef { site: Site::A, agent: "gw-a".parse().expect("an id") };
        let mut frame = Frame::default();
        frame.series(SeriesId(0), false, "ups-a1", "battery.charge");
        frame.text_value(0, "OL");
        frame.samples(&[
            (SeriesId(0), Sample { t: 1_790_000_000_000, v: 98.5 }),
            (SeriesId(0), Sample { t: 1_790_000_001_000, v: 98.0 }),
        ]);
        frame.mark(&agent, 1, 1, 2);
        frame.event("{}");
        let dir = scratch_name("journal-seed");
        std::fs::create_dir_all(&dir).expect("a directory can be made");
        let (mut journal, _) = Journal::open(&dir, 1, |_| {}).expect("a new journal");
        for _ in 0..2 {
            journal.write(&frame).expect("a frame can be written");
        }
        drop(journal);
        let file = read(&path(&dir, 1));
        let _ = std::fs::remove_dir_all(&dir);
        let first = &file[8..file.len() / 2];
        vec![[&[0][..], &file].concat(), [&[SEAL][..], first].concat()]
    }
}

/// Packed samples. First byte: a chunk of one series, or a page of several.
pub mod chunk {
    use bcp_collector::store::Sample;
    use bcp_collector::store::codec::{
        MAX_CHUNK_SAMPLES, MAX_PAGE_SAMPLES, pack_chunk, pack_page, unpack_chunk, unpack_page,
    };

    pub fn run(bytes: &[u8]) {
        let Some((pick, packed)) = bytes.split_first() else { return };
        if pick & 1 == 0 {
            let mut samples = Vec::new();
            let read = unpack_chunk(1_790_000_000_000, packed, &mut samples);
            assert!(samples.len() <= MAX_CHUNK_SAMPLES && (read.is_ok() || samples.is_empty()));
        } else if let Ok((counts, samples)) = unpack_page(packed) {
            assert!(samples.len() <= MAX_PAGE_SAMPLES);
            assert_eq!(counts.iter().map(|n| *n as usize).sum::<usize>(), samples.len());
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let samples = |count: i64, step: fn(i64) -> i64, value: fn(i64) -> f64| -> Vec<Sample> {
            (0..count).map(|k| Sample { t: 1_790_000_000_000 + step(k), v: value(k) }).collect()
        };
        let regular = samples(300, |k| k * 1_000, |_| 50.0);
        let wild = samples(300, |k| k * 997 + k % 3, |k| (k as f64).sin());
        let stepped = samples(60, |k| k * 1_000 + k % 2, |k| (k / 7) as f64 / 10.0);
        let chunk = |samples: &[Sample]| [vec![0], pack_chunk(samples).expect("a chunk")].concat();
        let page = |counts: &[u32], samples: &[Sample]| [vec![1], pack_page(counts, samples).expect("a page")].concat();
        vec![chunk(&regular), chunk(&wild), chunk(&stepped), page(&[30, 30], &stepped), page(&[100, 0, 200], &wild)]
    }
}
