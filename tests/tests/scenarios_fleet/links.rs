//! Scenarios in which the network is what goes wrong.

use std::time::Instant;

use anyhow::{Result, ensure};
use bcp_tests::{gatelog, hold_for, wait_for};
use bcp_wire::Site::{self, A, B, W};

use super::stage::{LIMIT, SECOND, Stage, s};
use super::{Scenario, play};

const PAIRS: [&str; 3] = ["a-b", "a-w", "b-w"];

pub const ALL: &[Scenario] = &[
    Scenario::new(3, "a-b cut (1 h; here 60 s)", "0 moves, 0 stops; b stale; no alarm after heal", play!(cut_ab)),
    Scenario::new(4, "a->b cut one way (1 h; here 60 s)", "0 moves, 0 stops; no alarm after heal", play!(cut_a_to_b)),
    Scenario::new(6, "a sends but cannot receive", "a stops; one move at most", play!(a_is_deaf)),
    Scenario::new(6, "w, leading, sends but cannot receive", "the lead moves; 0 moves, 0 stops", play!(w_is_deaf)),
    Scenario::new(7, "a-w cut for 60 s", "0 moves, 0 stops", play!(cut_aw)),
    Scenario::new(9, "links of a flap 5 s / 5 s (1 h; here 2 min)", "one move at most", play!(flapping)),
    Scenario::new(11, "4 s blip of all links", "0 moves, 0 stops", play!(blip)),
    Scenario::new(12, "(wide) 30 % loss, 100 +- 50 ms (1 h; here 2 min)", "0 moves, 0 stops", play!(bad_network))
        .up_with(&["--timing", "wide"]),
];

async fn until_stale(stage: &Stage) -> Result<()> {
    let stale = async || stage.reasons(W).await.filter(|why| why.contains("lacks acknowledged data"));
    wait_for("the copy at b to be latched stale", LIMIT, stale).await?;
    Ok(())
}

async fn cut_ab(stage: &Stage) -> Result<String> {
    let before = stage.alarms(W).await?;
    stage.order(&["cut", "a-b"])?;
    let began = Instant::now();
    until_stale(stage).await?;
    let stale = began.elapsed();
    stage.quiet(60 * SECOND - stale.min(60 * SECOND)).await?;
    stage.heal()?;
    let clear = stage.until_no_alarm_but(&before).await?;
    stage.quiet(10 * SECOND).await?;
    Ok(format!("b stale after {}, no alarm {} after heal", s(stale), s(clear)))
}

async fn cut_a_to_b(stage: &Stage) -> Result<String> {
    let before = stage.alarms(W).await?;
    stage.order(&["cut", "a-b", "--one-way"])?;
    stage.quiet(60 * SECOND).await?;
    stage.heal()?;
    let clear = stage.until_no_alarm_but(&before).await?;
    stage.quiet(10 * SECOND).await?;
    Ok(format!("no alarm {} after heal", s(clear)))
}

/// Nothing comes back to it: no lease, no promise.
async fn a_is_deaf(stage: &Stage) -> Result<String> {
    let since = gatelog::boot_ms();
    for from in [B, W] {
        stage.order(&["cut", &format!("{from}-a"), "--one-way"])?;
    }
    let stopped = stage.until_stopped(A, since).await?;
    hold_for(30 * SECOND, async || stage.expect(0..=1, 1..=1)).await?;
    stage.heal()?;
    let served = async || (stage.is_active(A).await || stage.is_active(B).await).then_some(());
    wait_for("the service somewhere", LIMIT, served).await?;
    stage.expect(0..=1, 1..=1)?;
    Ok(format!("a stopped after {}", s(stopped)))
}

async fn until_lead(stage: &Stage, from: Site, is_at_w: bool) -> Result<String> {
    let what = if is_at_w { "w to lead again" } else { "another one than w to lead" };
    let lead = async || stage.leader(from).await.filter(|leader| (leader == "w") == is_at_w);
    Ok(wait_for(what, LIMIT, lead).await?.0)
}

async fn w_is_deaf(stage: &Stage) -> Result<String> {
    until_lead(stage, A, true).await?;
    let began = Instant::now();
    for from in [A, B] {
        stage.order(&["cut", &format!("{from}-w"), "--one-way"])?;
    }
    let leader = until_lead(stage, A, false).await?;
    let moved = began.elapsed();
    stage.quiet(60 * SECOND).await?;
    stage.heal()?;
    let healed = Instant::now();
    until_lead(stage, A, true).await?;
    let back = healed.elapsed();
    stage.quiet(5 * SECOND).await?;
    Ok(format!("{leader} leads after {}, w again {} after heal", s(moved), s(back)))
}

async fn cut_aw(stage: &Stage) -> Result<String> {
    stage.order(&["cut", "a-w"])?;
    stage.quiet(60 * SECOND).await?;
    stage.heal()?;
    stage.quiet(10 * SECOND).await?;
    Ok("a served all along".to_owned())
}

async fn flapping(stage: &Stage) -> Result<String> {
    for _ in 0..12 {
        stage.isolate(A)?;
        hold_for(5 * SECOND, async || stage.expect(0..=1, 0..=1)).await?;
        stage.heal()?;
        hold_for(5 * SECOND, async || stage.expect(0..=1, 0..=1)).await?;
    }
    let account = stage.account()?;
    ensure!(stage.is_active(A).await || stage.is_active(B).await, "nobody serves");
    Ok(format!("{} moves in 12 rounds", account.moves))
}

async fn blip(stage: &Stage) -> Result<String> {
    for pair in PAIRS {
        stage.order(&["cut", pair])?;
    }
    stage.quiet(4 * SECOND).await?;
    stage.heal()?;
    stage.quiet(45 * SECOND).await?;
    Ok("a served all along".to_owned())
}

async fn bad_network(stage: &Stage) -> Result<String> {
    for pair in PAIRS {
        stage.order(&["delay", pair, "50", "--jitter", "100"])?;
        stage.order(&["lose", pair, "30"])?;
    }
    stage.quiet(120 * SECOND).await?;
    stage.heal()?;
    stage.quiet(10 * SECOND).await?;
    Ok("a served all along".to_owned())
}
