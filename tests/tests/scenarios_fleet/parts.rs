//! Scenarios in which single processes, disks or agents are what goes wrong.

use std::time::Instant;

use anyhow::{Result, ensure};
use bcp_tests::disk::Kind;
use bcp_tests::{hold_for, wait_for};
use bcp_wire::Site::{self, A, B, W};

use super::stage::{LIMIT, SECOND, Stage, TICKET, s};
use super::{Scenario, play};

pub const ALL: &[Scenario] = &[
    Scenario::new(
        8,
        "w dead (a week; here 60 s); then a dies",
        "0 moves, 0 stops but a's own; an alarm",
        play!(w_dead),
    ),
    Scenario::new(
        17,
        "disk full: w leading, then decide of the holder",
        "it steps out, others go on; 0 moves, 0 stops",
        play!(disk_full),
    )
    .on_disks(&[(W, Kind::Memory), (A, Kind::Memory)]),
    Scenario::new(
        17,
        "disk hangs: w leading, then decide of the holder",
        "it steps out, others go on; 0 moves, 0 stops",
        play!(disk_hangs),
    )
    .on_disks(&[(W, Kind::Freezing), (A, Kind::Freezing)]),
    Scenario::new(
        22,
        "a is lost, promotion at b hangs, leaders die",
        "the move ends in a service, or frozen",
        play!(step_hangs),
    ),
    Scenario::new(
        24,
        "two of three servers at a lost; then > 60 % of its agents silent",
        "capacity <= 60 s; 0 moves, 0 stops",
        play!(servers),
    )
    .up_with(&["--with-servers"]),
    Scenario::new(25, "all three collectors killed for 60 s", "0 moves, 0 stops by promises", play!(no_collectors)),
];

async fn w_dead(stage: &Stage) -> Result<String> {
    stage.lose(W)?;
    stage.quiet(60 * SECOND).await?;
    stage.until_alarm(A, &format!("ticket-no-failover/{TICKET}")).await?;
    ensure!(stage.reasons(A).await.is_some(), "nobody says that it could not move");
    stage.lose(A)?;
    hold_for(40 * SECOND, async || {
        ensure!(!stage.is_active(B).await, "b serves without a quorum");
        stage.expect(0..=0, 0..=0)
    })
    .await?;
    Ok("b did not take over alone".to_owned())
}

/// Another one leads, as the two others see it.
async fn until_not_leading(stage: &Stage, site: Site) -> Result<String> {
    let others = site.others();
    let lead = async || {
        let first = stage.leader(others[0]).await.filter(|leader| leader != site.as_str())?;
        (stage.leader(others[1]).await? == first).then_some(first)
    };
    Ok(wait_for(&format!("another one than {site} to lead"), LIMIT, lead).await?.0)
}

/// `decide` of a site is not heard by w any more.
async fn until_unheard(stage: &Stage, site: Site) -> Result<()> {
    let unheard = async || {
        let cluster = stage.fleet.api(W, "cluster").await.ok()?;
        let age = &cluster["decide"]["members"][site.as_str()]["last_contact_ms"];
        (age.is_null() || age.as_u64()? > 2_500).then_some(())
    };
    wait_for(&format!("decide of {site} to step out"), LIMIT, unheard).await?;
    Ok(())
}

async fn until_leading(stage: &Stage, site: Site) -> Result<()> {
    let lead = async || stage.leader(site).await.filter(|leader| leader == site.as_str());
    wait_for(&format!("{site} to lead"), LIMIT, lead).await?;
    Ok(())
}

/// What is done to a disk, and what undoes it.
type Fault = fn(&bcp_tests::Disk) -> Result<()>;

async fn spoilt_disks(stage: &Stage, begin: Fault, end: Fault) -> Result<String> {
    until_leading(stage, W).await?;
    let began = Instant::now();
    begin(stage.disk(W)?)?;
    let leader = until_not_leading(stage, W).await?;
    let moved = began.elapsed();
    stage.quiet(20 * SECOND).await?;
    end(stage.disk(W)?)?;
    let mended = Instant::now();
    until_leading(stage, W).await?;
    let back = mended.elapsed();
    begin(stage.disk(A)?)?;
    until_unheard(stage, A).await?;
    stage.quiet(20 * SECOND).await?;
    end(stage.disk(A)?)?;
    stage.ready(A).await?;
    stage.expect(0..=0, 0..=0)?;
    Ok(format!("{leader} led after {}, w again {} after it was mended", s(moved), s(back)))
}

async fn disk_full(stage: &Stage) -> Result<String> {
    spoilt_disks(stage, bcp_tests::Disk::fill, bcp_tests::Disk::make_room).await
}

async fn disk_hangs(stage: &Stage) -> Result<String> {
    spoilt_disks(stage, bcp_tests::Disk::freeze, bcp_tests::Disk::thaw).await
}

async fn step_hangs(stage: &Stage) -> Result<String> {
    stage.order(&["hang", "b/prescriptions"])?;
    let began = stage.lose(A)?;
    let promoting = async || {
        let ticket = stage.fleet.ticket(B, TICKET).await.ok()?;
        (ticket["stage"] == "promoting").then_some(())
    };
    wait_for("a promotion to be ordered", LIMIT, promoting).await?;
    // With a lost, w and b are the quorum: whoever leads dies, and once more.
    let mut died = Vec::new();
    for _ in 0..2 {
        let lead = async || stage.leader(B).await;
        let (leader, _) = wait_for("a leader", LIMIT, lead).await?;
        stage.order(&["kill", &format!("{leader}/decide")])?;
        died.push(leader);
        hold_for(3 * SECOND, async || stage.expect(0..=1, 0..=1)).await?;
    }
    stage.order(&["resume", "b/prescriptions"])?;
    let ended = async || {
        let ticket = stage.fleet.ticket(W, TICKET).await.ok()?;
        if ticket["frozen"].is_object() {
            return Some("frozen");
        }
        let is_served = ticket["phase"] == "held" && ticket["stage"].is_null() && stage.is_active(B).await;
        is_served.then_some("served by b")
    };
    let (how, _) = wait_for("an end of the move", LIMIT, ended).await?;
    let took = began.elapsed();
    hold_for(10 * SECOND, async || stage.expect(0..=1, 0..=1)).await?;
    Ok(format!("decide of {} killed; {how} after {}", died.join(" and "), s(took)))
}

async fn servers(stage: &Stage) -> Result<String> {
    let up = async |server: &str| {
        let devices = stage.fleet.api(W, "devices").await.ok()?;
        let list = devices["devices"].as_array()?;
        list.iter().any(|device| device["id"] == server && device["source"] == "fresh").then_some(())
    };
    for server in ["app-a1", "app-a2", "app-a3"] {
        wait_for(&format!("{server} to be heard"), LIMIT, async || up(server).await).await?;
    }
    // A server counts as up after its rise time.
    stage.quiet(10 * SECOND).await?;
    let began = Instant::now();
    for unit in ["a/app-1", "a/app-2"] {
        stage.order(&["stop", unit])?;
    }
    wait_for("the one that stands by to be heard", LIMIT, async || up("app-a4").await).await?;
    let capacity = began.elapsed();
    for unit in ["a/app-1", "a/app-2"] {
        stage.order(&["start", unit])?;
    }
    for server in ["app-a1", "app-a2"] {
        wait_for(&format!("{server} to be heard again"), LIMIT, async || up(server).await).await?;
    }
    stage.quiet(10 * SECOND).await?;
    // Four of the six agents of the site.
    for unit in ["a/app-1", "a/app-2", "a/app-3", "a/app-4"] {
        stage.order(&["pause", unit])?;
    }
    stage.quiet(45 * SECOND).await?;
    for unit in ["a/app-1", "a/app-2", "a/app-3", "a/app-4"] {
        stage.order(&["resume", unit])?;
    }
    stage.quiet(5 * SECOND).await?;
    ensure!(capacity <= 60 * SECOND, "capacity after {}", s(capacity));
    Ok(format!("the one that stands by was up after {}", s(capacity)))
}

async fn no_collectors(stage: &Stage) -> Result<String> {
    let epoch = stage.epoch(W).await?;
    for site in Site::ALL {
        stage.order(&["stop", &format!("{site}/collector")])?;
    }
    stage.quiet(60 * SECOND).await?;
    for site in Site::ALL {
        stage.order(&["start", &format!("{site}/collector")])?;
    }
    let began = Instant::now();
    let back = async || stage.epoch(W).await.ok();
    wait_for("the collectors to be back", LIMIT, back).await?;
    stage.ready(A).await?;
    let ready = began.elapsed();
    stage.quiet(10 * SECOND).await?;
    ensure!(stage.epoch(W).await? == epoch, "another epoch");
    Ok(format!("still epoch {epoch}; able to move {} after the start", s(ready)))
}
