//! Transition table, votes, causes, chattering, flood.

use std::collections::BTreeMap;

use bcp_wire::Site;

use super::state::{
    AFTER_CAUSE_MS, CHATTER_HOLD_MS, CHATTER_WINDOW_MS, FLOOD_BEGIN, RETIRE_AFTER_MS, annunciation_delay_ms,
};
use super::table::{Outcome, Phase, Trigger, transition};
use super::{AgreedCondition, AlarmCommand, AlarmEvent, AlarmVote, AlarmVotes, Priority, State};
use crate::time::{LogTime, Wall};

const WALL: Wall = Wall(1_790_000_000_000);

fn vote(active: Option<bool>) -> AlarmVote {
    AlarmVote {
        active,
        priority: Priority::High,
        asset: "crac-a1".into(),
        site: Some(Site::A),
        explain: "supply.air.temperature 35 Cel > 27".into(),
        ..AlarmVote::default()
    }
}

struct Log {
    state: State,
    now: u64,
    events: Vec<AlarmEvent>,
}

impl Log {
    fn new() -> Log {
        Log { state: State::default(), now: 0, events: Vec::new() }
    }

    fn say(&mut self, observer: Site, session: u64, full: bool, votes: &[(&str, AlarmVote)]) {
        let votes = votes.iter().map(|(key, vote)| ((*key).to_owned(), vote.clone())).collect();
        let events = self.state.on_votes(LogTime(self.now), &AlarmVotes { observer, session, full, votes });
        self.events.extend(events);
    }

    /// Time passes in ticks of 250 ms, and the given observers keep saying that they live.
    fn pass(&mut self, ms: u64, alive: &[(Site, u64)]) -> Vec<AlarmEvent> {
        let end = self.now + ms;
        let from = self.events.len();
        while self.now < end {
            self.now = (self.now + 250).min(end);
            for (site, session) in alive {
                self.say(*site, *session, false, &[]);
            }
            self.tick();
        }
        self.events[from..].to_vec()
    }

    fn tick(&mut self) {
        let events = self.state.tick(LogTime(self.now), WALL);
        self.events.extend(events);
    }

    fn active(&self, key: &str) -> bool {
        self.state.alarms.get(key).is_some_and(|alarm| alarm.active)
    }

    fn phase(&self, key: &str) -> Phase {
        self.state.alarms.get(key).map_or(Phase::Normal, |alarm| alarm.phase.clone())
    }

    fn command(&mut self, key: &str, command: AlarmCommand) -> Result<(), String> {
        let events = self.state.on_command(LogTime(self.now), WALL, "op-1", key, &command)?;
        self.events.extend(events);
        Ok(())
    }

    fn annunciated(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                AlarmEvent::Annunciated { alarm, .. } => Some(alarm.as_str()),
                _ => None,
            })
            .collect()
    }
}

const HOT: &str = "supply-air-hot/crac-a1";

#[test]
fn the_transition_table_is_isa_18_2() {
    let shelved = || Phase::Shelved { until: LogTime(9), by: "x".into(), reason: "y".into() };
    let out = || Phase::OutOfService { by: "x".into(), reason: "y".into() };
    let phases = [
        Phase::Normal,
        Phase::Unacknowledged,
        Phase::Acknowledged,
        Phase::ReturnedUnacknowledged,
        shelved(),
        Phase::SuppressedByDesign,
        out(),
    ];
    let shelve = || Trigger::Shelved { until: LogTime(9), by: "x".into(), reason: "y".into() };
    let take_out = || Trigger::TakenOutOfService { by: "x".into(), reason: "y".into() };
    // Rows in the order of `phases`; `.` stays, `!` refused, a letter is where it goes (active where it matters).
    let table: [(Trigger, bool, &str); 14] = [
        (Trigger::Raised, true, "U..U..."),
        (Trigger::Cleared, false, ".RN...."),
        (Trigger::Untold, false, "...N..."),
        (Trigger::Acknowledged, true, "!A!N!!!"),
        (shelve(), true, "SSSSS!!"),
        (Trigger::Unshelved, true, "!!!!U!!"),
        (Trigger::Unshelved, false, "!!!!N!!"),
        (Trigger::ShelfExpired, true, "....U.."),
        (Trigger::ShelfExpired, false, "....N.."),
        (Trigger::SuppressionBegan, true, "DDDD..."),
        (Trigger::SuppressionEnded, true, ".....U."),
        (Trigger::SuppressionEnded, false, ".....N."),
        (take_out(), true, "OOOOOO!"),
        (Trigger::ReturnedToService, true, "!!!!!!U"),
    ];
    for (trigger, active, row) in table {
        let got: String = phases
            .iter()
            .map(|phase| match transition(phase, &trigger, active) {
                Outcome::Stays(reason) | Outcome::Refused(reason) | Outcome::To(_, reason) if reason.is_empty() => '?',
                Outcome::Stays(_) => '.',
                Outcome::Refused(_) => '!',
                Outcome::To(Phase::Normal, _) => 'N',
                Outcome::To(Phase::Unacknowledged, _) => 'U',
                Outcome::To(Phase::Acknowledged, _) => 'A',
                Outcome::To(Phase::ReturnedUnacknowledged, _) => 'R',
                Outcome::To(Phase::Shelved { .. }, _) => 'S',
                Outcome::To(Phase::SuppressedByDesign, _) => 'D',
                Outcome::To(Phase::OutOfService { .. }, _) => 'O',
            })
            .collect();
        assert_eq!(got, row, "{trigger:?}, active {active}");
    }
}

#[test]
fn one_observer_raises_and_all_that_know_must_agree_to_clear() {
    let mut log = Log::new();
    let alive = [(Site::A, 1), (Site::B, 2), (Site::W, 3)];
    for (site, session) in alive {
        log.say(site, session, true, &[]);
    }
    log.say(Site::A, 1, false, &[(HOT, vote(Some(true)))]);
    log.pass(250, &alive);
    assert!(log.active(HOT));
    log.say(Site::B, 2, false, &[(HOT, vote(Some(true)))]);
    log.say(Site::A, 1, false, &[(HOT, vote(Some(false)))]);
    log.pass(250, &alive);
    assert!(log.active(HOT), "b still sees it");
    log.say(Site::B, 2, false, &[(HOT, vote(None))]);
    log.pass(250, &alive);
    assert!(!log.active(HOT), "nobody says yes, a says no");
    let over = AlarmVote { explain: "supply.air.temperature 20 Cel > 27".into(), ..vote(Some(false)) };
    log.say(Site::A, 1, false, &[(HOT, over)]);
    assert!(log.state.alarms[HOT].about.explain.contains("35 Cel"), "what is over is described by what it was");
}

#[test]
fn when_nobody_knows_nothing_changes() {
    let mut log = Log::new();
    log.say(Site::A, 1, true, &[(HOT, vote(Some(true)))]);
    log.pass(500, &[]);
    assert!(log.active(HOT));
    log.say(Site::A, 1, false, &[(HOT, vote(None))]);
    log.pass(1_000, &[(Site::A, 1)]);
    assert!(log.active(HOT), "unknown clears nothing");
    log.say(Site::A, 1, false, &[(HOT, vote(Some(true)))]);
    log.pass(60_000, &[]);
    assert!(log.active(HOT), "silence of all clears nothing");
    log.say(Site::B, 5, true, &[(HOT, vote(Some(false)))]);
    log.pass(250, &[(Site::B, 5)]);
    assert!(!log.active(HOT), "a's old yes has expired; b says no");
}

#[test]
fn a_new_session_knows_nothing_yet() {
    let mut log = Log::new();
    log.say(Site::A, 1, true, &[(HOT, vote(Some(true)))]);
    log.say(Site::B, 2, true, &[(HOT, vote(Some(true)))]);
    log.pass(250, &[(Site::A, 1), (Site::B, 2)]);
    // Both restart; their first votes do not list it.
    let restarted = [(Site::A, 11), (Site::B, 12)];
    log.pass(30_000, &restarted);
    assert!(log.active(HOT), "no full set yet: they just do not know");
    log.say(Site::A, 11, true, &[]);
    log.say(Site::B, 12, true, &[]);
    let events = log.pass(RETIRE_AFTER_MS + 500, &restarted);
    assert!(!log.active(HOT));
    assert!(events.iter().any(|event| matches!(event, AlarmEvent::Retired { .. })), "{events:?}");
}

#[test]
fn an_operator_acknowledges_and_shelves_with_a_reason_and_an_end() {
    let mut log = Log::new();
    let alive = [(Site::A, 1)];
    log.say(Site::A, 1, true, &[(HOT, vote(Some(true)))]);
    log.pass(250, &alive);
    assert!(log.command("no/such", AlarmCommand::Acknowledge { note: None }).is_err());
    log.command(HOT, AlarmCommand::Acknowledge { note: Some("on my way".into()) }).unwrap();
    assert_eq!(log.phase(HOT), Phase::Acknowledged);
    assert!(log.command(HOT, AlarmCommand::Shelve { reason: " ".into(), for_ms: 1_000 }).is_err());
    assert!(log.command(HOT, AlarmCommand::Shelve { reason: "works".into(), for_ms: u64::MAX }).is_err());
    log.command(HOT, AlarmCommand::Shelve { reason: "works".into(), for_ms: 10_000 }).unwrap();
    log.pass(9_500, &alive);
    assert!(matches!(log.phase(HOT), Phase::Shelved { .. }));
    log.events.clear();
    log.pass(1_000, &alive);
    assert_eq!(log.phase(HOT), Phase::Unacknowledged);
    assert_eq!(log.annunciated(), [HOT], "it is still there, so it calls again");
    let view = &log.state.views(LogTime(log.now))[0];
    assert_eq!((view.notes.len(), view.state.as_str(), view.agreed), (1, "unacknowledged", true));
}

fn fed(asset: &str, priority: Priority, causal: bool, fed_by: &[&str], active: bool) -> AlarmVote {
    AlarmVote {
        active: Some(active),
        priority,
        asset: asset.into(),
        causal,
        fed_by: fed_by.iter().map(|asset| (*asset).to_owned()).collect(),
        ..AlarmVote::default()
    }
}

#[test]
fn a_lost_site_is_one_call_and_its_symptoms_are_counted_in_first_out_order() {
    let mut log = Log::new();
    let alive = [(Site::B, 1)];
    log.say(Site::B, 1, true, &[]);
    let hosts: Vec<String> = (0..1_500).map(|n| format!("srv-{n:04}")).collect();
    let keys: Vec<String> = hosts.iter().map(|host| format!("agent-lost/{host}")).collect();
    // A few hosts are quicker than the judgement on the site.
    for (key, host) in keys.iter().zip(&hosts).take(3) {
        log.say(Site::B, 1, false, &[(key, fed(host, Priority::Medium, false, &["rack", "site-a"], true))]);
        log.pass(250, &alive);
    }
    log.say(Site::B, 1, false, &[("site-lost/site-a", fed("site-a", Priority::Critical, true, &[], true))]);
    for (key, host) in keys.iter().zip(&hosts).skip(3) {
        log.say(Site::B, 1, false, &[(key, fed(host, Priority::Medium, false, &["rack", "site-a"], true))]);
    }
    log.pass(600_000, &alive);
    assert_eq!(log.annunciated(), ["site-lost/site-a"]);
    let views = log.state.views(LogTime(log.now));
    assert_eq!((views[0].id.as_str(), views[0].symptoms), ("site-lost/site-a", 1_500));
    assert_eq!(views[0].first_symptoms[..3], keys[..3], "first out");
    assert!(log.state.alarms.values().all(|alarm| alarm.active && alarm.phase == Phase::Unacknowledged));
    // The site is back; one host is not.
    let mut back: Vec<(&str, AlarmVote)> = keys
        .iter()
        .zip(&hosts)
        .skip(1)
        .map(|(key, host)| (key.as_str(), fed(host, Priority::Medium, false, &["rack", "site-a"], false)))
        .collect();
    back.push(("site-lost/site-a", fed("site-a", Priority::Critical, true, &[], false)));
    log.say(Site::B, 1, false, &back);
    log.events.clear();
    log.pass(AFTER_CAUSE_MS + 500, &alive);
    assert_eq!(log.annunciated(), [keys[0].as_str()], "what outlives the cause is told");
    assert_eq!(log.state.alarms.len(), 2, "symptoms nobody was told of need no acknowledgement");
}

#[test]
fn what_follows_from_a_loss_is_not_told_while_the_loss_is_being_agreed() {
    let mut log = Log::new();
    let alive = [(Site::B, 1)];
    log.say(Site::B, 1, true, &[]);
    log.say(Site::B, 1, false, &[("no-failover/rx", fed("rx", Priority::Medium, false, &["site-a"], true))]);
    log.pass(17_000, &alive);
    log.say(Site::B, 1, false, &[("site-lost/a", fed("site-a", Priority::Critical, true, &[], true))]);
    log.pass(120_000, &alive);
    assert_eq!(log.annunciated(), ["site-lost/a"]);
}

#[test]
fn a_less_urgent_cause_silences_nothing_more_urgent() {
    let mut log = Log::new();
    log.say(
        Site::B,
        1,
        true,
        &[
            ("load/ups-1", fed("ups-1", Priority::Medium, true, &[], true)),
            ("down/rx", fed("rx", Priority::Critical, true, &["ups-1"], true)),
        ],
    );
    log.pass(30_000, &[(Site::B, 1)]);
    assert_eq!(log.annunciated(), ["down/rx", "load/ups-1"]);
}

#[test]
fn chattering_is_damped_and_counted() {
    let mut log = Log::new();
    let alive = [(Site::A, 1)];
    log.say(Site::A, 1, true, &[]);
    for _ in 0..10 {
        log.say(Site::A, 1, false, &[(HOT, vote(Some(true)))]);
        log.pass(2_000, &alive);
        log.say(Site::A, 1, false, &[(HOT, vote(Some(false)))]);
        log.pass(2_000, &alive);
    }
    let raises = log.events.iter().filter(|event| matches!(event, AlarmEvent::Raised { .. })).count();
    assert_eq!(raises, 3, "the rest is one long alarm");
    assert!(log.state.alarms[HOT].chattering && log.state.alarms[HOT].damped >= 5);
    let events = log.pass(CHATTER_HOLD_MS + 500, &alive);
    assert!(events.iter().any(|event| matches!(event, AlarmEvent::ChatteringEnded { .. })));
    assert!(!log.active(HOT));
}

#[test]
fn a_flood_begins_and_ends() {
    let mut log = Log::new();
    let alive = [(Site::A, 1)];
    let votes: BTreeMap<String, AlarmVote> = (0..=FLOOD_BEGIN)
        .map(|n| (format!("r/{n}"), fed(&format!("x{n}"), Priority::High, false, &[], true)))
        .collect();
    log.state.on_votes(LogTime(0), &AlarmVotes { observer: Site::A, session: 1, full: true, votes });
    log.pass(2_000, &alive);
    assert!(log.state.flood);
    log.pass(600_000, &alive);
    assert!(!log.state.flood);
    assert!(log.events.iter().any(|event| matches!(event, AlarmEvent::FloodEnded { .. })));
}

#[test]
fn a_condition_of_the_log_needs_no_votes() {
    let mut log = Log::new();
    let condition = |active| AgreedCondition { alarm: "ticket-frozen/rx".into(), vote: vote(active) };
    log.state.on_conditions(LogTime(0), vec![condition(Some(true))]);
    log.pass(annunciation_delay_ms(Priority::High) + 250, &[]);
    assert_eq!(log.annunciated(), ["ticket-frozen/rx"]);
    log.state.on_conditions(LogTime(log.now), vec![condition(Some(false))]);
    log.tick();
    assert_eq!(log.phase("ticket-frozen/rx"), Phase::ReturnedUnacknowledged);
    log.command("ticket-frozen/rx", AlarmCommand::Acknowledge { note: None }).unwrap();
    log.pass(CHATTER_WINDOW_MS + 500, &[]);
    assert_eq!(log.state.alarms.len(), 0);
}

#[test]
fn suppression_by_design_follows_the_vote() {
    let mut log = Log::new();
    let alive = [(Site::A, 1)];
    let suppressed = |on| AlarmVote { suppressed: on, ..vote(Some(true)) };
    log.say(Site::A, 1, true, &[(HOT, suppressed(true))]);
    log.pass(5_000, &alive);
    assert_eq!((log.phase(HOT), log.annunciated().len()), (Phase::SuppressedByDesign, 0));
    log.say(Site::A, 1, false, &[(HOT, suppressed(false))]);
    log.pass(500, &alive);
    assert_eq!((log.phase(HOT), log.annunciated()), (Phase::Unacknowledged, vec![HOT]));
}

#[test]
fn the_state_survives_json() {
    let mut log = Log::new();
    log.say(Site::A, 1, true, &[(HOT, vote(Some(true)))]);
    log.pass(2_000, &[(Site::A, 1)]);
    log.command(HOT, AlarmCommand::Shelve { reason: "works".into(), for_ms: 10_000 }).unwrap();
    let text = serde_json::to_string(&log.state).unwrap();
    assert_eq!(serde_json::from_str::<State>(&text).unwrap(), log.state);
}
