//! A fleet with the reference application, a client that writes, and somebody who watches both servers.
//!
//! Knows: which rows were acknowledged, and who could take writes when. Refuses to know: why; it asks the servers themselves
//! and the tickets' page.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bcp_fleet::reference::writer::{self, Options, Writer};
use bcp_tests::{Fleet, wait_for};
use bcp_wire::Site;
use tokio::task::{JoinHandle, block_in_place};

pub const TICKET: &str = "registry-db";
/// Anything that takes longer has failed.
pub const LIMIT: Duration = Duration::from_secs(90);
/// How often both servers are asked whether they take writes.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Above the keys of the fleet's own writer.
const FIRST_KEY: u64 = 1 << 50;
/// Enough that a tail is under way at any moment.
const ROWS_FIRST: u64 = 300;

/// What one loss of a site showed.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// From before the order to kill until the first row acknowledged afterwards.
    pub to_writable: Duration,
    pub acknowledged: u64,
    pub lost: u64,
    /// Looks that found both servers ready to take writes.
    pub two_writable: u64,
    pub looks: u64,
}

#[derive(Debug)]
pub struct Scene {
    pub fleet: Fleet,
    door: u16,
    password: String,
}

impl Scene {
    /// # Errors
    /// The fleet, or one of the servers, does not come up.
    pub async fn begin(base_port: u16, timing: &str) -> Result<Scene> {
        let args = ["--with-postgres", "--timing", timing].map(str::to_owned).to_vec();
        let fleet = Fleet::up(bcp_tests::Options { base_port, args }).await?;
        let password = std::fs::read_to_string(fleet.data_dir().join("registry.secret"))?.trim().to_owned();
        let scene = Scene { door: base_port + 912, password, fleet };
        scene.ready(Site::A).await?;
        Ok(scene)
    }

    /// Held there, and the other copy has everything.
    ///
    /// # Errors
    /// Not within [`LIMIT`].
    pub async fn ready(&self, holder: Site) -> Result<()> {
        let what = format!("{TICKET} at {holder} with a copy in sync");
        let found = wait_for(&what, LIMIT, async || {
            let ticket = self.fleet.ticket(Site::W, TICKET).await.ok()?;
            let is_held = ticket["holder"] == holder.as_str() && ticket["phase"] == "held";
            (is_held && ticket["can_failover_now"]["ok"] == true).then_some(())
        });
        if let Err(fault) = found.await {
            anyhow::bail!("{fault}; it is {}", self.fleet.ticket(Site::W, TICKET).await?);
        }
        Ok(())
    }

    /// # Errors
    /// It is refused, or does not get there.
    pub async fn move_to(&self, site: Site) -> Result<()> {
        let order = ["ctl", "move", TICKET, "--to", site.as_str(), "--reason", "alternating runs"];
        block_in_place(|| self.fleet.cli(&order))?;
        self.ready(site).await
    }

    fn server(&self, site: Site) -> u16 {
        self.fleet.port(site, 15)
    }

    /// Begins to write, and waits until rows flow.
    ///
    /// # Errors
    /// They do not.
    pub async fn write(&self) -> Result<Arc<Writer>> {
        let writer = Writer::start(Options {
            port: self.door,
            password: self.password.clone(),
            pause: Duration::from_millis(10),
            connections: 4,
            first_key: FIRST_KEY,
        });
        wait_for("rows to flow", LIMIT, async || (writer.seen().acknowledged >= ROWS_FIRST).then_some(())).await?;
        Ok(writer)
    }

    /// Kills a site under load; ends when writes go on.
    ///
    /// # Errors
    /// They do not, or what was written cannot be audited.
    pub async fn lose(&self, site: Site) -> Result<Loss> {
        let writer = self.write().await?;
        let watch = Watch::start([self.server(Site::A), self.server(Site::B)], self.password.clone());
        // Its first looks make sessions: one that begins with the kill never sees the server that is lost.
        let server = usize::from(site == Site::B);
        let sees = async || (watch.seen.borrow().each[server] > 0).then_some(());
        wait_for("the watch to see the holder take writes", LIMIT, sees).await?;
        let began = Instant::now();
        block_in_place(|| self.fleet.cli(&["kill", site.as_str()]))?;
        let dead = Instant::now();
        let after = async || writer.last().filter(|last| *last > dead);
        let (first, _) = wait_for("a row after the loss", LIMIT, after).await?;
        // What is seen here is up to a look late; the writer's own longest gap is this one, from the last row before it.
        let to_writable = Duration::from_millis(writer.seen().longest_gap_ms).min(first - began);
        // Some more, so that the audit is about both of them.
        let so_far = writer.seen().acknowledged;
        wait_for("more rows", LIMIT, async || (writer.seen().acknowledged > so_far + ROWS_FIRST).then_some(())).await?;
        writer.end();
        let (two_writable, looks) = watch.end().await?;
        let lost = self.audit(&writer).await?;
        Ok(Loss { to_writable, acknowledged: writer.seen().acknowledged, lost, two_writable, looks })
    }

    /// Acknowledged rows that are not on the server behind the door.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn audit(&self, writer: &Writer) -> Result<u64> {
        let keys = writer.acknowledged();
        ensure!(keys.len() as u64 == writer.seen().acknowledged - writer.seen().lost, "not every key was kept");
        let (client, driver) = writer::connect(self.door, &self.password).await.context("nobody behind the door")?;
        let missing = writer::missing(&client, &keys).await.context("the audit was not answered")?;
        driver.abort();
        Ok(missing.len() as u64 + writer.seen().lost)
    }

    /// The copy at b is behind, then a is lost: nothing may be promoted. What `explain` says.
    ///
    /// # Errors
    /// b took writes, or nobody says why it did not.
    pub async fn stale(&self) -> Result<String> {
        block_in_place(|| self.fleet.cli(&["cut", "a-b"]))?;
        wait_for("the copy at b to be marked stale", LIMIT, async || {
            let ticket = self.fleet.ticket(Site::W, TICKET).await.ok()?;
            ticket["can_failover_now"].to_string().contains("lacks acknowledged data").then_some(())
        })
        .await?;
        let watch = Watch::start([self.server(Site::A), self.server(Site::B)], self.password.clone());
        let writer = self.write().await?;
        block_in_place(|| self.fleet.cli(&["kill", "a"]))?;
        writer.end();
        // The lease has run out, and what follows a loss has had its time.
        wait_for("the ticket to be free", LIMIT, async || {
            let ticket = self.fleet.ticket(Site::W, TICKET).await.ok()?;
            (ticket["phase"] == "free").then_some(())
        })
        .await?;
        let key = format!("ticket-free/{TICKET}");
        wait_for("the alarm", LIMIT, async || (self.fleet.active_alarms(Site::W, &key).await.ok()? > 0).then_some(()))
            .await?;
        bcp_tests::hold_for(Duration::from_secs(5), async || {
            let ticket = self.fleet.ticket(Site::W, TICKET).await?;
            ensure!(ticket["phase"] == "free", "{ticket}");
            Ok(())
        })
        .await?;
        let (b_took_writes, looks) = watch.end_for(1).await?;
        ensure!(b_took_writes == 0 && looks > 50, "b took writes at {b_took_writes} of {looks} looks");
        let said = block_in_place(|| self.fleet.cli(&["ctl", "explain", TICKET]))?;
        ensure!(said.contains("the copy at site b lacks acknowledged data"), "{said}");
        Ok(said)
    }
}

/// Asks both servers, over and over, whether they take writes.
struct Watch {
    stop: tokio::sync::watch::Sender<bool>,
    seen: tokio::sync::watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    both: u64,
    each: [u64; 2],
    looks: u64,
}

impl Watch {
    fn start(ports: [u16; 2], password: String) -> Watch {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (tell, told) = tokio::sync::watch::channel(Seen::default());
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut pace = tokio::time::interval(LOOK_EVERY);
            let mut sessions = [None, None];
            while !*stopped.borrow() {
                pace.tick().await;
                seen.looks += 1;
                let a = takes_writes(&mut sessions[0], ports[0], &password).await;
                let b = takes_writes(&mut sessions[1], ports[1], &password).await;
                seen.each[0] += u64::from(a);
                seen.each[1] += u64::from(b);
                // In this order: the first takes writes after the second was seen to, so both did at once.
                seen.both += u64::from(a && b && takes_writes(&mut sessions[0], ports[0], &password).await);
                tell.send_replace(seen);
            }
        });
        Watch { stop, seen: told, task }
    }

    async fn ended(self) -> Result<Seen> {
        self.stop.send_replace(true);
        self.task.await?;
        Ok(*self.seen.borrow())
    }

    async fn end(self) -> Result<(u64, u64)> {
        let seen = self.ended().await?;
        ensure!(seen.each.iter().all(|each| *each > 0), "one server was never seen to take writes: {seen:?}");
        Ok((seen.both, seen.looks))
    }

    async fn end_for(self, server: usize) -> Result<(u64, u64)> {
        let seen = self.ended().await?;
        Ok((seen.each[server], seen.looks))
    }
}

type Session = (tokio_postgres::Client, JoinHandle<()>);

/// In a session that is kept: a new one may take longer than the moment that is looked for.
async fn takes_writes(session: &mut Option<Session>, port: u16, password: &str) -> bool {
    if session.is_none() {
        *session = writer::connect(port, password).await;
    }
    let Some((client, _)) = session else { return false };
    // Of a write itself the answer would wait for the standby.
    let asked = client.simple_query("SELECT pg_is_in_recovery()");
    match tokio::time::timeout(LOOK_EVERY * 4, asked).await {
        Ok(Ok(said)) => said
            .iter()
            .any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("f"))),
        Ok(Err(_)) | Err(_) => {
            *session = None;
            false
        }
    }
}
