//! Behaviours 15, 19 and 20, one named test each: the publisher, a real broker, and a collector that commits what it has.
//! Says so and passes where mosquitto is not installed; `BCP_STRICT=1` makes that a failure.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support {
    pub mod delivery;
}

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bcp_wire::Lane;
use support::delivery::{Agent, Broker, Collector, scratch, wait_for};
use tokio::time::Instant;

/// Longest wait for everything to be committed.
const LIMIT: Duration = Duration::from_secs(90);

/// Commits what comes until nothing is owed any more.
async fn until_nothing_is_owed(agent: &Agent, collector: &mut Collector) {
    let end = Instant::now() + LIMIT;
    while agent.figures.borrow().spool.payloads > 0 {
        assert!(Instant::now() < end, "still owed after {LIMIT:?}: {:?}", agent.figures.borrow());
        collector.listen();
        collector.commit_all().await;
        // A collector says what it has committed a few times a second.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    collector.listen();
}

/// 15: a broker that forgets its sessions and all that it acknowledged loses nothing, and nothing is told as lost.
#[tokio::test]
async fn behaviour_15_a_broker_that_loses_its_sessions_loses_no_payload() {
    const EACH: usize = 300;
    let Some(mut broker) = Broker::start(None) else { return };
    let (port, dir) = (broker.port, scratch("sessions"));
    let mut collector = Collector::start(port);
    let agent = Agent::start(port, &dir);
    let mut produced = 0;
    for round in 1..=4_u64 {
        agent.until("a session", |figures| figures.connected && figures.sessions >= round).await;
        agent.measure_from(produced, EACH).await;
        produced += EACH;
        let heard = collector.seen.len();
        // In the middle of it: some are committed, some are with the broker, some on the way to it.
        wait_for("some of them", || {
            collector.listen();
            (collector.seen.len() >= heard + EACH / 10).then_some(())
        })
        .await;
        collector.commit_all().await;
        drop(broker);
        agent.measure_from(produced, EACH).await;
        produced += EACH;
        broker = Broker::start(Some(port)).unwrap();
    }
    until_nothing_is_owed(&agent, &mut collector).await;
    let mut by_value: BTreeMap<u64, BTreeSet<(u64, u64)>> = BTreeMap::new();
    for arrived in &collector.arrived {
        if let Some(value) = arrived.value {
            by_value.entry(value as u64).or_default().insert(arrived.key);
        }
    }
    assert_eq!(by_value.keys().copied().collect::<Vec<_>>(), (0..produced as u64).collect::<Vec<_>>(), "none is lost");
    assert!(by_value.values().all(|keys| keys.len() == 1), "each has one number, however often it came");
    let figures = agent.figures.borrow().clone();
    assert_eq!((collector.gaps, figures.spool.dropped, figures.spool.payloads), (0, 0, 0));
    assert_eq!(figures.committed, produced as u64, "produced = committed");
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    drop(broker);
    std::fs::remove_dir_all(dir).unwrap();
}

/// 19: after an outage what is measured now comes at once, marked as live; the backlog follows in order, as history, paced.
#[tokio::test]
async fn behaviour_19_live_goes_first_and_the_backlog_follows_in_order() {
    const BACKLOG: usize = 300;
    const PER_S: u32 = 100;
    let Some(broker) = Broker::start(None) else { return };
    let (port, dir) = (broker.port, scratch("backlog"));
    // A start that never finds a broker.
    let before = Agent::start(1, &dir);
    before.measure(BACKLOG).await;
    before.until("the backlog", |figures| figures.spool.payloads == BACKLOG as u64).await;
    before.stop.send(true).unwrap();
    before.task.await.unwrap().unwrap();

    let mut collector = Collector::start(port);
    let agent = Agent::paced(port, &dir, PER_S);
    agent.until("a session", |figures| figures.connected).await;
    let mut live = 0;
    let end = Instant::now() + LIMIT;
    loop {
        agent.measure_from(BACKLOG + live, 1).await;
        live += 1;
        collector.listen();
        let old = collector.seen.keys().filter(|key| key.0 == 1).count();
        if old >= BACKLOG {
            break;
        }
        if live % 10 == 0 {
            collector.commit_all().await;
        }
        assert!(Instant::now() < end, "{old} of {BACKLOG} after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What is sent again before the collector could say that it has it does not count here.
    let mut known = BTreeSet::new();
    let firsts: Vec<_> = collector.arrived.iter().filter(|arrived| known.insert(arrived.key)).collect();
    let all = |i| firsts.iter().filter(move |arrived| arrived.key.0 == i && arrived.lane != Lane::Event);
    assert!(all(1).all(|arrived| arrived.lane == Lane::Hist), "what is old is never told as now");
    let order: Vec<u64> = all(1).map(|arrived| arrived.key.1).collect();
    assert!(order.windows(2).all(|pair| pair[0] < pair[1]), "oldest first: {order:?}");
    assert!(all(2).all(|arrived| arrived.lane == Lane::Data), "what is new is told as now");
    let (first, last) = (all(1).next().unwrap().at, all(1).next_back().unwrap().at);
    let least = Duration::from_secs(1) * (BACKLOG as u32) / PER_S * 8 / 10;
    assert!(last - first >= least, "paced: {BACKLOG} in {:?}", last - first);
    // Live payloads did not wait for the backlog's end.
    let among = all(2).filter(|arrived| arrived.at < last).count();
    assert!(among * 2 > live, "{among} of {live} live payloads came before the last of the backlog");
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    drop(broker);
    std::fs::remove_dir_all(dir).unwrap();
}

/// 20: what is sent again is the same payload under the same number, so that a collector can pass it over.
#[tokio::test]
async fn behaviour_20_what_is_sent_again_is_the_same_payload() {
    const COUNT: usize = 50;
    let Some(broker) = Broker::start(None) else { return };
    let (port, dir) = (broker.port, scratch("again"));
    let mut collector = Collector::start(port);
    let agent = Agent::start(port, &dir);
    agent.until("a session", |figures| figures.connected).await;
    agent.measure(COUNT).await;
    // Nothing is committed: everything comes again, and once more.
    wait_for("everything three times", || {
        collector.listen();
        let often = collector.seen.values().filter(|(_, times)| *times >= 3).count();
        (often >= COUNT).then_some(())
    })
    .await;
    let mut first: BTreeMap<(u64, u64), &[u8]> = BTreeMap::new();
    for arrived in &collector.arrived {
        let known = first.entry(arrived.key).or_insert(&arrived.payload);
        assert_eq!(*known, arrived.payload, "{:?} came with two contents", arrived.key);
    }
    assert_eq!(first.len(), COUNT);
    until_nothing_is_owed(&agent, &mut collector).await;
    assert_eq!(agent.figures.borrow().committed, COUNT as u64, "each was committed once");
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    drop(broker);
    std::fs::remove_dir_all(dir).unwrap();
}
