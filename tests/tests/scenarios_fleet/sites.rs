//! Scenarios in which a whole site, or its machines, are what goes wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bcp_tests::{gatelog, hold_for, wait_for};
use bcp_wire::Site::{A, B, W};

use super::stage::{LIMIT, SECOND, Stage, TICKET, s};
use super::{Scenario, play};

/// The promises of the `metro` profile.
const STOPPED_WITHIN: Duration = Duration::from_secs(14);
const SERVED_WITHIN: Duration = Duration::from_secs(20);
/// The first epoch, which a has in every scenario.
const FIRST: &str = "1.1";

pub const ALL: &[Scenario] = &[
    Scenario::new(1, "a loses power, b in sync", "one move, served <= 20 s; nothing moves back", play!(power_lost)),
    Scenario::new(
        2,
        "a loses power, b latched stale, rpo zero",
        "no move, an alarm with the reason; forced by two, once",
        play!(power_lost_when_stale),
    ),
    Scenario::new(5, "a isolated but powered", "a stops <= 14 s, then b serves; late orders refused", play!(isolated)),
    Scenario::new(10, "43 s of isolation of a", "one move at most, no failback", play!(isolated_for_43_s)),
    Scenario::new(
        13,
        "gate, warden, decide of b paused 60 s, a promotion on its way",
        "rejected afterwards; one side",
        play!(paused),
    ),
    Scenario::new(20, "crash loop of a in the minority", "a stops <= 14 s; one move", play!(crash_loop)),
    Scenario::new(
        21,
        "a split off (24 h; here 60 s), and its return",
        "one move; old orders refused; a follows",
        play!(split),
    ),
];

async fn power_lost(stage: &Stage) -> Result<String> {
    let began = stage.lose(A)?;
    let served = stage.until_active(B, began).await?;
    stage.until_held(W, B).await?;
    stage.order(&["start", "a"])?;
    stage.until_held(A, B).await?;
    hold_for(30 * SECOND, async || stage.expect(1..=1, 0..=0)).await?;
    ensure!(served <= SERVED_WITHIN, "served after {}", s(served));
    Ok(format!("b served after {}", s(served)))
}

async fn power_lost_when_stale(stage: &Stage) -> Result<String> {
    stage.order(&["cut", "a-b"])?;
    let stale = async || stage.reasons(W).await.filter(|why| why.contains("lacks acknowledged data"));
    wait_for("the copy at b to be latched stale", LIMIT, stale).await?;
    stage.lose(A)?;
    stage.heal()?;
    stage.until_alarm(W, &format!("ticket-free/{TICKET}")).await?;
    hold_for(20 * SECOND, async || stage.expect(0..=0, 0..=0)).await?;
    let why = stage.fleet.cli(&["ctl", "explain", TICKET])?;
    ensure!(why.contains("the copy at site b lacks acknowledged data"), "nobody says why:\n{why}");
    // It lacks them, and that is what people decide on.
    stage.accept_loss();
    let force = ["ctl", "force", TICKET, "--to", "b", "--guard", "freshness", "--reason", "drill", "--operator"];
    let ask = |operator: &str| stage.order(&[&force[..], &[operator]].concat());
    ask("op-1")?;
    hold_for(5 * SECOND, async || stage.expect(0..=0, 0..=0)).await?;
    let began = Instant::now();
    ask("op-2")?;
    let served = stage.until_active(B, began).await?;
    stage.expect(1..=1, 0..=0)?;
    Ok(format!("not moved by one operator; by two, b served after {}", s(served)))
}

/// Old orders to a side that has learnt of a later epoch.
async fn refuses_old_orders(stage: &Stage) -> Result<()> {
    let knows = async || {
        let ticket = stage.fleet.ticket(W, TICKET).await.ok()?;
        let gates = ticket["gates"].as_array()?;
        gates.iter().any(|gate| gate["site"] == "a" && gate["seen"] != FIRST).then_some(())
    };
    wait_for("a to learn of the later epoch", LIMIT, knows).await?;
    until_refused(stage, "promote").await?;
    until_refused(stage, "publish").await
}

async fn until_refused(stage: &Stage, step: &str) -> Result<()> {
    let refused = async || stage.is_vetoed(A, step, FIRST).ok().filter(|vetoed| *vetoed);
    wait_for(&format!("a late {step} of epoch {FIRST} to be refused"), 10 * SECOND, refused).await?;
    Ok(())
}

async fn isolated(stage: &Stage) -> Result<String> {
    let since = gatelog::boot_ms();
    let began = stage.isolate(A)?;
    let stopped = stage.until_stopped(A, since).await?;
    let served = stage.until_active(B, began).await?;
    // By the door itself: a knows nothing of the later epoch yet.
    until_refused(stage, "publish").await?;
    stage.heal()?;
    refuses_old_orders(stage).await?;
    hold_for(15 * SECOND, async || stage.expect(1..=1, 1..=1)).await?;
    ensure!(stopped <= STOPPED_WITHIN, "a stopped after {}", s(stopped));
    Ok(format!("a stopped after {}, b served after {}", s(stopped), s(served)))
}

async fn isolated_for_43_s(stage: &Stage) -> Result<String> {
    let since = gatelog::boot_ms();
    stage.isolate(A)?;
    hold_for(43 * SECOND, async || stage.expect(0..=1, 0..=1)).await?;
    stage.heal()?;
    hold_for(60 * SECOND, async || stage.expect(1..=1, 1..=1)).await?;
    let stopped = stage.until_stopped(A, since).await?;
    ensure!(stage.is_active(B).await, "b does not serve");
    Ok(format!("a stopped after {}; b kept it", s(stopped)))
}

async fn paused(stage: &Stage) -> Result<String> {
    // Answers to b take so long that a promotion is on its way when its gate stands still.
    for from in ["a", "w"] {
        stage.order(&["delay", &format!("{from}-b"), "700", "--one-way"])?;
    }
    stage.order(&["ctl", "move", TICKET, "--to", "b", "--reason", "drill"])?;
    let promoting = async || {
        let ticket = stage.fleet.ticket(W, TICKET).await.ok()?;
        (ticket["stage"] == "promoting").then_some(())
    };
    wait_for("a promotion to be ordered", LIMIT, promoting).await?;
    for part in ["host", "warden", "decide"] {
        stage.order(&["pause", &format!("b/{part}")])?;
    }
    let had_begun = !stage.intervals(B)?.is_empty();
    let epoch = stage.epoch(W).await?;
    hold_for(60 * SECOND, async || stage.expect(0..=2, 1..=2)).await?;
    stage.heal()?;
    let woke = gatelog::boot_ms();
    for part in ["decide", "warden", "host"] {
        stage.order(&["resume", &format!("b/{part}")])?;
    }
    let served = async || (stage.is_active(A).await || stage.is_active(B).await).then_some(());
    wait_for("the service somewhere", LIMIT, served).await?;
    hold_for(15 * SECOND, async || stage.expect(0..=2, 1..=2)).await?;
    let late = stage.intervals(B)?.into_iter().find(|late| late.from >= woke && late.epoch.to_string() == epoch);
    ensure!(late.is_none(), "the promotion of {epoch} was carried out after 60 s: {late:?}");
    ensure!(stage.is_active(A).await != stage.is_active(B).await, "not one side");
    let at = if stage.is_active(A).await { "a" } else { "b" };
    let had = if had_begun { "promoted before the pause" } else { "not promoted" };
    Ok(format!("epoch {epoch} {had}, not revived; {at} serves under {}", stage.epoch(W).await?))
}

async fn crash_loop(stage: &Stage) -> Result<String> {
    let since = gatelog::boot_ms();
    let began = stage.isolate(A)?;
    let mut kills = 0;
    let mut served = None;
    while began.elapsed() < 40 * SECOND {
        for part in ["decide", "host"] {
            // It may be down at this moment.
            kills += usize::from(stage.order(&["kill", &format!("a/{part}")]).is_ok());
        }
        hold_for(SECOND, async || stage.expect(0..=1, 0..=1)).await?;
        if served.is_none() && stage.is_active(B).await {
            served = Some(began.elapsed());
        }
    }
    let stopped = stage.until_stopped(A, since).await?;
    stage.heal()?;
    hold_for(20 * SECOND, async || stage.expect(1..=1, 1..=1)).await?;
    let served = served.context("b does not serve")?;
    ensure!(stopped <= STOPPED_WITHIN, "a stopped after {}", s(stopped));
    Ok(format!("{kills} kills; a stopped after {}, b served after {}", s(stopped), s(served)))
}

async fn split(stage: &Stage) -> Result<String> {
    stage.isolate(A)?;
    hold_for(60 * SECOND, async || stage.expect(0..=1, 0..=1)).await?;
    stage.heal()?;
    refuses_old_orders(stage).await?;
    // It cools down, so that it could not move by itself; that a has everything again is latched all the same.
    let in_sync = async || {
        let ticket = stage.fleet.ticket(W, TICKET).await.ok()?;
        (ticket["holder"] == "b" && ticket["sync"]["peer_in_sync"] == true).then_some(())
    };
    let (_, waited) = wait_for("the copy at a to be latched in sync", LIMIT, in_sync).await?;
    ensure!(stage.is_active(B).await, "b does not serve");
    stage.expect(1..=1, 1..=1)?;
    Ok(format!("a in sync {} after it had refused the old orders", s(waited)))
}
