//! What comes over the network in our own forms: MQTT payloads, requests of gates and operators, answers of peers.

use std::collections::BTreeMap;

use bcp_wire::{
    AgentState, AgentStatus, Batch, ClockState, DeviceMeta, Event, EventKind, Gap, PointMeta, Quality, Value,
    WIRE_VERSION,
};

/// The sample policy of the core's own tests.
#[path = "../../../collector/core/tests/sample/mod.rs"]
mod sample;

pub const WORDS: &str = "\"v\":1 \"i\": \"s\": \"t\":1790000000000 \"vals\": \"dt\": \"q\": \"bad:range\" \"stale\" \"kind\": \"trap\" \
    \"gap\" \"transition\" \"reachability\" \"clock_step\" \"notice\" \"incarnation\": \"from\": \"through\": \"marks\": \"holes\": \
    \"item\":\"gate\" \"item\":\"observation\" \"item\":\"alarm_votes\" \"item\":\"service_votes\" \"on\":\"ticket\" \"on\":\"alarm\" \
    \"on\":\"incident\" \"on\":\"intervention\" \"do\": \"tickets\": \"renew\": \"facts\": \"reports\": \"wish\": \"seen\": \
    18446744073709551615 -9223372036854775808 1e308 null true [] {} \"manifest\": \"files\": \"sha256\": \"bytes\":";

const T: i64 = 1_790_000_000_000;

fn batch() -> Batch {
    let name = |name: &str| name.parse().expect("a name");
    Batch {
        v: WIRE_VERSION,
        i: 7,
        s: 2,
        t: T,
        vals: BTreeMap::from([
            (name("battery.charge"), Value::Num(98.5)),
            (name("ups.status"), Value::text("OL CHRG").expect("a short text")),
        ]),
        dt: BTreeMap::from([(name("battery.charge"), -40)]),
        q: BTreeMap::from([(name("input.l2.voltage"), "bad:exception".parse::<Quality>().expect("a quality"))]),
    }
}

fn event(s: u64, kind: EventKind) -> Vec<u8> {
    Event { v: WIRE_VERSION, i: 7, s, t: T, kind }.to_json()
}

fn events() -> Vec<Vec<u8>> {
    let gap = Gap { incarnation: 6, from: 3, through: 9, samples: Some(70), reason: "spool full".to_owned() };
    let values = BTreeMap::from([("1.3.6.1.2.1.33.1.2.3.0".to_owned(), "12".to_owned())]);
    let point = "ups.status".parse().expect("a name");
    let text = |text: &str| Value::text(text).expect("a short text");
    vec![
        event(3, EventKind::Reachability { reachable: false, reason: Some("timeout".to_owned()) }),
        event(
            4,
            EventKind::Trap {
                oid: "1.3.6.1.2.1.33.2.1".to_owned(),
                values,
                name: Some("on-battery".to_owned()),
                severity: None,
            },
        ),
        event(5, EventKind::Transition { point, from: Some(text("OL")), to: text("OB") }),
        event(6, EventKind::Gap(gap)),
        event(7, EventKind::ClockStep { step_ms: -3_600_000 }),
        event(8, EventKind::Notice { text: "spool full".to_owned() }),
    ]
}

fn state() -> Vec<u8> {
    let clock = ClockState::Synchronised { offset_ms: 0.5 };
    let (version, config_hash, session) = ("0.1.0".to_owned(), "00".to_owned(), "s7".to_owned());
    AgentState {
        v: WIRE_VERSION,
        i: 7,
        status: AgentStatus::Online,
        t: T,
        version,
        config_hash,
        clock,
        next_within_ms: 10_000,
        session,
    }
    .to_json()
}

fn meta() -> Vec<u8> {
    let point = PointMeta {
        name: "battery.charge".parse().expect("a name"),
        unit: "%".to_owned(),
        interval_ms: 1_000,
        source: Some("1.3.6.1.2.1.33.1.2.4.0".to_owned()),
    };
    DeviceMeta {
        v: WIRE_VERSION,
        i: 7,
        device: "ups-a1".parse().expect("an id"),
        kind: "ups".to_owned(),
        profile: None,
        firmware: Some("1.0".to_owned()),
        firmware_proven: true,
        parent: None,
        location: Some("a/hall1/r07".to_owned()),
        points: vec![point],
    }
    .to_json()
}

fn picked(pick: u8, bytes: &[u8]) -> Vec<u8> {
    [&[pick][..], bytes].concat()
}

/// What an agent or a gate reads. First byte: of which kind the rest is.
pub mod to_agent {
    use bcp_wire::control::{GateAnswer, PromiseAnswer, PromiseAsk};
    use bcp_wire::{AgentState, Command, CommandReply, Topic, Watermark};

    use super::picked;

    macro_rules! again {
        ($type:ty, $bytes:expr) => {
            if let Ok(read) = <$type>::from_json($bytes) {
                assert!(<$type>::from_json(&read.to_json()).is_ok(), "what was read cannot be written and read");
            }
        };
    }

    pub fn run(bytes: &[u8]) {
        let Some((pick, rest)) = bytes.split_first() else { return };
        match pick % 6 {
            0 => again!(Command, rest),
            1 => again!(CommandReply, rest),
            2 => again!(AgentState, rest),
            3 => {
                if let Ok(mark) = Watermark::from_json(rest) {
                    let _ = (mark.covers(1, 3), mark.covers(u64::MAX, u64::MAX));
                }
            }
            4 => {
                let _ = serde_json::from_slice::<GateAnswer>(rest);
                let _ = serde_json::from_slice::<PromiseAsk>(rest);
                let _ = serde_json::from_slice::<PromiseAnswer>(rest);
            }
            _ => {
                if let Ok(topic) = String::from_utf8_lossy(rest).parse::<Topic>() {
                    assert_eq!(topic.to_string().parse(), Ok(topic), "a topic is written as another one");
                }
            }
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        vec![
            picked(0, br#"{"v":1,"id":"c1","cmd":"poll-now","device":"ups-a1"}"#),
            picked(0, br#"{"v":1,"id":"c1","cmd":"log-level","level":"debug"}"#),
            picked(1, br#"{"v":1,"id":"c1","ok":false,"error":"busy"}"#),
            picked(2, &super::state()),
            picked(3, br#"{"v":1,"collector":"a","marks":[{"i":1,"through":5,"holes":[[2,3]]}]}"#),
            picked(
                4,
                br#"{"nonce":7,"collector":"a","outcome":"confirmed","index":9,"tickets":[{"ticket":"rx","holder":"a","epoch":"1.3",
                "revision":2,"phase":"held","renewed":true,"ttl_holder_ms":10000,"order":{"key":"k","kind":"promote","epoch":"1.3","revision":2,
                "holder":"a","params":{"w":"1"}},"peer_in_sync":true}]}"#,
            ),
            picked(4, br#"{"site":"b","gate":"host-b","ticket":"rx","epoch":"1.3","nonce":7,"verdict":"promised","for_ms":11000}"#),
            picked(5, b"bcp/v1/a/gw-a/cmd/c1/reply"),
            picked(5, b"bcp/v1/a/gw-a/data/ups-a1"),
        ]
    }
}

/// MQTT messages to a collector. First byte: which topic; from 128 on, the topic is the first line of the rest.
pub mod intake {
    use std::io::Write;
    use std::sync::{LazyLock, Mutex, PoisonError};
    use std::time::Duration;

    use bcp_collector::ingest::intake::Intake;
    use bcp_collector::store::Store;
    use bcp_core::time::{Mono, Wall};
    use bcp_wire::{MAX_POINTS_PER_BATCH, Site};

    use super::{T, batch, events, meta, picked, state};
    use crate::scratch_name;

    const LEAVES: [&str; 5] = ["state", "meta/ups-a1", "data/ups-a1", "hist/ups-a1", "event/ups-a1"];
    const OWN_TOPIC: u8 = 128;
    /// Names given to made-up series are kept for good; a store is used until it has this many.
    const SERIES_PER_STORE: u64 = 20_000;

    fn new_store() -> Store {
        Store::open(&scratch_name("intake"), Duration::from_secs(86_400)).expect("a new store")
    }

    static STORE: LazyLock<Mutex<Store>> = LazyLock::new(|| Mutex::new(new_store()));

    pub fn run(bytes: &[u8]) {
        let Some((pick, rest)) = bytes.split_first() else { return };
        let (topic, payload) = if *pick < OWN_TOPIC {
            (format!("bcp/v1/a/gw-a/{}", LEAVES[usize::from(*pick) % LEAVES.len()]).into_bytes(), rest)
        } else {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            (rest[..end].to_vec(), rest.get(end + 1..).unwrap_or_default())
        };
        let mut store = STORE.lock().unwrap_or_else(PoisonError::into_inner);
        if store.stats().series > SERIES_PER_STORE {
            *store = new_store();
        }
        let mut intake = Intake::new(bcp_collector::store::Marks::default());
        let mut take = |now: u64, topic: &[u8], payload: &[u8]| {
            intake.arrive((Mono(now), Wall(T)), Site::A, (topic, payload), &store, &mut |_| {});
        };
        // An agent that is known, the message twice, and a good one after it.
        take(1_000, b"bcp/v1/a/gw-a/meta/ups-a1", &meta());
        take(1_001, &topic, payload);
        take(1_002, &topic, payload);
        let mut after = batch();
        after.s = 1_000_000;
        take(1_003, b"bcp/v1/a/gw-a/hist/ups-a1", &after.to_json());
        assert_eq!(intake.payloads, 4);
        assert!(intake.group.samples.len() <= 3 * MAX_POINTS_PER_BATCH);
        for event in &intake.group.events {
            assert!(serde_json::to_string(event).is_ok(), "an event that was taken cannot be stored");
        }
    }

    fn deflated(json: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        out.write_all(json).expect("memory takes everything");
        out.finish().expect("memory takes everything")
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let bomb = deflated(&vec![b' '; 8 << 20]);
        let mut all = vec![
            picked(0, &state()),
            picked(1, &meta()),
            picked(2, &batch().to_json()),
            picked(3, &deflated(&batch().to_json())),
            picked(OWN_TOPIC, &[b"bcp/v1/a/gw-b/data/ups-a1\n".to_vec(), batch().to_json()].concat()),
            picked(2, &bomb),
        ];
        all.extend(events().iter().map(|event| picked(4, event)));
        all
    }
}

/// Bodies of requests between collectors, gates and operators. First byte: of which kind the rest is.
pub mod control {
    use bcp_collector::decide::network::SnapshotHead;
    use bcp_collector::decide::node::{Accepted, CommandRequest, SightReport};
    use bcp_collector::decide::raft::{Types, Vote};
    use bcp_collector::decide::raft_log::Hello;
    use bcp_core::replica::{Item, Replica, Tick};
    use bcp_wire::control::GateSync;
    use serde_json::from_slice;

    use super::picked;

    pub fn run(bytes: &[u8]) {
        let Some((pick, body)) = bytes.split_first() else { return };
        match pick % 10 {
            0 => drop(from_slice::<GateSync>(body)),
            1 => drop(from_slice::<Vec<Item>>(body)),
            2 => drop(from_slice::<CommandRequest>(body)),
            3 => drop(from_slice::<SightReport>(body)),
            4 => drop(from_slice::<Hello>(body)),
            5 => drop(from_slice::<SnapshotHead>(body)),
            6 => drop(from_slice::<Replica>(body)),
            7 => drop(from_slice::<Tick>(body)),
            8 => drop(from_slice::<openraft::raft::AppendEntriesRequest<Types>>(body)),
            _ => {
                let _ = (from_slice::<Vote>(body), from_slice::<Accepted>(body));
            }
        }
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let items = super::decide::valid();
        let replica = serde_json::to_vec(&*super::decide::SETTLED).expect("a state can be written");
        let vote = br#"{"leader_id":{"term":3,"node_id":1},"committed":true}"#;
        let entry = br#"{"vote":{"leader_id":{"term":3,"node_id":1},"committed":true},"prev_log_id":null,"entries":[{"log_id":
            {"leader_id":{"term":3,"node_id":1},"index":5},"payload":{"Normal":{"leader":"a","term":3,"elapsed_ms":250,"wall":0,"items":[]}}}],
            "leader_commit":null}"#;
        let head = br#"{"vote":{"leader_id":{"term":3,"node_id":1},"committed":true},"meta":{"last_log_id":null,
            "last_membership":{"log_id":null,"membership":{"configs":[[1,2,3]],"nodes":{"1":{},"2":{},"3":{}}}},"snapshot_id":"s"}}"#;
        let mut all = vec![
            picked(3, br#"{"agents":{"a":"seen","b":"silent"}}"#),
            picked(4, br#"{"site":"a","member":"m","initialised":true,"hears":"b"}"#),
            picked(5, head),
            picked(6, &replica),
            picked(7, br#"{"leader":"a","term":3,"elapsed_ms":250,"wall":0,"items":[]}"#),
            picked(8, entry),
            picked(9, vote),
        ];
        all.extend(items.iter().map(|items| picked(1, items)));
        all
    }
}

/// Lists of what gates, operators and observers say, agreed on: one tick, and time passing after it.
pub mod decide {
    use std::collections::BTreeMap;
    use std::sync::LazyLock;

    use bcp_core::policy::{Policy, ServicePolicy, Timing};
    use bcp_core::replica::{Item, Replica, Tick};
    use bcp_core::time::Wall;
    use bcp_wire::Site;

    use super::sample::{passive, rx};

    /// Ticks after the one with the items: more than any lease and hold.
    const TICKS_AFTER: u64 = 80;
    const ELAPSED_MS: u64 = 2_000;

    fn policy() -> Policy {
        Policy {
            sites: Default::default(),
            pools: Default::default(),
            timing: Timing::METRO,
            tickets: BTreeMap::from([(rx(), passive())]),
            services: BTreeMap::from([(rx(), ServicePolicy::default())]),
        }
    }

    fn tick(replica: &mut Replica, items: Vec<Item>) {
        let wall = Wall(super::T.saturating_add_unsigned(replica.log_time.0));
        let next = replica.index + 1;
        replica.apply(next, &Tick { leader: Site::W, term: 1, elapsed_ms: ELAPSED_MS, wall, items });
    }

    /// A state with a policy, a ticket that somebody holds, and an open incident.
    pub(super) static SETTLED: LazyLock<Replica> = LazyLock::new(|| {
        let mut replica = Replica::default();
        tick(&mut replica, vec![Item::Policy(Box::new(policy()))]);
        for _ in 0..10 {
            for items in valid() {
                tick(&mut replica, serde_json::from_slice(&items).expect("valid items"));
            }
        }
        replica
    });

    pub fn run(bytes: &[u8]) {
        let Ok(items) = serde_json::from_slice::<Vec<Item>>(bytes) else { return };
        if items.iter().any(|item| matches!(item, Item::Policy(_))) {
            // Only the leader proposes it, from its own file.
            return;
        }
        let mut replica = SETTLED.clone();
        tick(&mut replica, items);
        for _ in 0..TICKS_AFTER {
            tick(&mut replica, Vec::new());
        }
        // What was agreed can be handed to a member that was away, and is the same there.
        let handed = serde_json::to_vec(&replica).expect("an agreed state can be written");
        let there: Replica = serde_json::from_slice(&handed).expect("an agreed state can be read");
        assert_eq!(there, replica, "a member that was away has another state");
        let _ = (replica.ticket_views(), replica.explain(&"rx".parse().expect("an id")));
    }

    #[must_use]
    pub fn valid() -> Vec<Vec<u8>> {
        let hash = policy().hash();
        let observation = |site: &str| {
            format!(
                r#"{{"item":"observation","observer":"{site}","session":1,"policy_hash":"{hash}","control":{{"a":"seen","b":"seen","w":"seen"}},
                "agents":{{"a":"seen","b":"silent","w":"seen"}}}}"#
            )
        };
        let sync = |site: &str, seen: u8| {
            format!(
                r#"{{"item":"gate","site":"{site}","gate":"host-{site}","nonce":1,"seq":1,"tickets":[{{"ticket":"rx","seen":"1.{seen}",
                "closed":false,"renew":"1.{seen}","reports":[{{"key":"k","epoch":"1.1","revision":1,"kind":"promote","outcome":"done","took_ms":5}}],
                "facts":{{"lineage":"l1","position":5,"role":"active","peer_in_sync":true}},"trouble":"x"}}]}}"#
            )
        };
        let votes = r#"{"item":"service_votes","observer":"a","session":1,"services":{"rx":{"status":"down","by_site":{"a":"down","b":"up"},
            "explain":"no answer"}}}"#;
        let alarm = r#"{"item":"alarm_votes","observer":"a","session":1,"full":true,"votes":{"hot/crac-a1":{"active":true,"priority":"high",
            "asset":"crac-a1","site":"a","title":{"en":"Hot"},"explain":"x","causal":true}}}"#;
        let command =
            |verb: &str| format!(r#"{{"item":"command","key":"k{}","operator":"op","verb":{verb}}}"#, verb.len());
        let text = r#"{"nl":"x","fr":"x","de":"x","en":"x"}"#;
        let commands = [
            r#"{"on":"ticket","ticket":"rx","command":{"do":"move","to":"b","reason":"x","expect":null}}"#.to_owned(),
            r#"{"on":"ticket","ticket":"rx","command":{"do":"freeze","reason":"x","for_ms":60000}}"#.to_owned(),
            r#"{"on":"ticket","ticket":"rx","command":{"do":"force","to":"b","guard":"freshness","reason":"x"}}"#
                .to_owned(),
            r#"{"on":"alarm","alarm":"hot/crac-a1","command":{"do":"shelve","reason":"x","for_ms":60000}}"#.to_owned(),
            format!(
                r#"{{"on":"incident","do":"update","incident":"inc-000001","text":{text},"next_update_in_ms":1800000}}"#
            ),
            format!(
                r#"{{"on":"intervention","do":"plan","services":["rx"],"title":{text},"text":{text},"starts":1790000060000,"ends":1790003600000}}"#
            ),
        ];
        let lists = [
            format!("[{},{},{}]", observation("a"), observation("b"), observation("w")),
            format!("[{},{}]", sync("a", 1), sync("b", 0)),
            format!("[{votes},{alarm}]"),
            format!("[{}]", commands.map(|verb| command(&verb)).join(",")),
        ];
        lists.map(String::into_bytes).to_vec()
    }
}
