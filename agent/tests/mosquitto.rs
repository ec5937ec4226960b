//! The publisher against a real broker. Says so and passes where mosquitto is not installed; `BCP_STRICT=1` makes that a
//! failure.
#![allow(clippy::unwrap_used)]

mod support {
    pub mod delivery;
}

use bcp_agent::publish::PublishError;
use bcp_wire::{AgentStatus, Lane};
use support::delivery::{Agent, Broker, Collector, LIMIT, scratch, wait_for};

#[tokio::test]
async fn a_payload_is_owed_until_the_collector_has_it() {
    let Some(broker) = Broker::start(None) else { return };
    let (port, dir) = (broker.port, scratch("agent"));
    let mut collector = Collector::start(port);
    let agent = Agent::start(port, &dir);
    agent.describe().await;
    agent.until("a session", |f| f.connected).await;
    agent.measure(20).await;
    wait_for("20 live payloads, a description and a state", || {
        collector.listen();
        let live = collector.seen.values().filter(|(lane, _)| *lane == Lane::Data).count();
        (live == 20 && !collector.metas.is_empty() && !collector.states.is_empty()).then_some(())
    })
    .await;
    assert_eq!(collector.states[0].status, AgentStatus::Online);
    agent.until("acknowledged by the broker is not committed", |f| f.spool.payloads == 20 && f.in_flight == 0).await;
    collector.commit(1, 20, vec![(7, 8)]).await;
    agent.until("all but the holes is free", |f| f.spool.payloads == 2).await;
    wait_for("the holes come again as history", || {
        collector.listen();
        (collector.seen[&(1, 7)].1 > 1 && collector.seen[&(1, 8)].1 > 1).then_some(())
    })
    .await;
    collector.commit(1, 20, vec![]).await;
    agent.until("nothing owed", |f| f.spool.payloads == 0).await;

    // The broker dies and forgets everything; what was measured meanwhile arrives afterwards.
    drop(broker);
    agent.until("no session", |f| !f.connected).await;
    agent.measure(10).await;
    agent.until("ten owed", |f| f.spool.payloads == 10).await;
    let broker = Broker::start(Some(port)).unwrap();
    wait_for("the ten arrive", || {
        collector.listen();
        (21..=30).all(|seq| collector.seen.contains_key(&(1, seq))).then_some(())
    })
    .await;

    // It dies again with payloads that it had acknowledged: they come again.
    let before: usize = collector.seen[&(1, 25)].1;
    drop(broker);
    agent.until("no session", |f| !f.connected).await;
    let broker = Broker::start(Some(port)).unwrap();
    wait_for("sent again", || {
        collector.listen();
        (collector.seen[&(1, 25)].1 > before).then_some(())
    })
    .await;

    // Stopping on purpose says so; what is not committed is there after a restart.
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    wait_for("offline", || {
        collector.listen();
        collector.states.iter().any(|state| state.status == AgentStatus::Offline).then_some(())
    })
    .await;
    let again = Agent::start(port, &dir);
    assert_eq!(again.incarnation, 2);
    // More than the ten: what shares a segment with them is owed again until the next watermark.
    again.until("the ten are still owed", |f| f.spool.payloads >= 10).await;
    again.until("a session", |f| f.connected).await;
    wait_for("online again", || {
        collector.listen();
        collector.states.iter().any(|state| state.i == 2 && state.status == AgentStatus::Online).then_some(())
    })
    .await;

    // Dying says so too.
    again.task.abort();
    wait_for("the will", || {
        collector.listen();
        collector.states.iter().any(|state| state.i == 2 && state.status == AgentStatus::Lost).then_some(())
    })
    .await;
    drop(broker);
    std::fs::remove_dir_all(dir).unwrap();
}

/// 24: two agents with one id.
#[tokio::test]
async fn behaviour_24_a_second_agent_is_refused_and_the_first_goes_on() {
    let Some(broker) = Broker::start(None) else { return };
    let (first_dir, second_dir) = (scratch("first"), scratch("second"));
    std::fs::write(second_dir.join("incarnation"), "5").unwrap();
    let first = Agent::start(broker.port, &first_dir);
    first.until("a session", |f| f.connected).await;
    first.measure(1).await;
    first.until("a payload is out", |f| f.handed_over == 1).await;
    let second = Agent::start(broker.port, &second_dir);
    let error = tokio::time::timeout(LIMIT, second.task).await.expect("the second gives up").unwrap().unwrap_err();
    assert!(error.to_string().contains("another agent runs under the id a/gw-a"), "{error}");
    assert!(first.figures.borrow().connected && first.figures.borrow().sessions == 1, "the first noticed nothing");
    for dir in [first_dir, second_dir] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test]
async fn behaviour_24_two_that_start_at_once_do_not_both_go_on() {
    let Some(broker) = Broker::start(None) else { return };
    let (first_dir, second_dir) = (scratch("first"), scratch("second"));
    std::fs::write(second_dir.join("incarnation"), "5").unwrap();
    let first = Agent::start(broker.port, &first_dir);
    let second = Agent::start(broker.port, &second_dir);
    let ended = tokio::time::timeout(LIMIT, async {
        tokio::select! { one = first.task => one, two = second.task => two }
    });
    let error = ended.await.expect("one of them gives up").unwrap().unwrap_err();
    assert!(error.to_string().contains("another agent runs under the id a/gw-a"), "{error}");
    for dir in [first_dir, second_dir] {
        std::fs::remove_dir_all(dir).unwrap();
    }
}

#[tokio::test]
async fn a_lost_start_counter_is_found_out() {
    let Some(broker) = Broker::start(None) else { return };
    let dir = scratch("counter");
    std::fs::write(dir.join("incarnation"), "41").unwrap();
    let agent = Agent::start(broker.port, &dir);
    agent.until("a session", |f| f.connected).await;
    agent.measure(1).await;
    agent.until("a payload is out", |f| f.handed_over == 1).await;
    agent.stop.send(true).unwrap();
    agent.task.await.unwrap().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    let error = tokio::time::timeout(LIMIT, Agent::start(broker.port, &dir).task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, PublishError::CounterLost { ours: 1, seen: 42, .. }), "{error}");
    assert_eq!(Agent::start(broker.port, &dir).incarnation, 43);
    std::fs::remove_dir_all(dir).unwrap();
}
