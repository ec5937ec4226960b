//! What users see: HAProxy in front of both sites, and a client that asks it all the time.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bcp_tests::{Fleet, wait_for};
use bcp_wire::Site;
use tokio::task::JoinHandle;

/// HAProxy's port, above all those of the fleet behind it.
const PORT_OFFSET: u16 = 990;
/// From one request to the next.
const ASK_EVERY: Duration = Duration::from_millis(20);
const GIVE_UP_AFTER: Duration = Duration::from_millis(500);

/// Debian's HAProxy; it ends with this value.
pub struct Balancer(Child);

impl Balancer {
    /// Sends users to whichever site says that its service is active, asked five times a second.
    pub fn start(fleet: &Fleet) -> Result<Balancer> {
        let port = |site: Site| fleet.port(site, 11);
        let text = format!(
            "global\n  nbthread 1\n\
             defaults\n  mode http\n  timeout connect 200ms\n  timeout client 2s\n  timeout server 2s\n  timeout check 500ms\n\
             frontend users\n  bind 127.0.0.1:{users}\n  default_backend prescriptions\n\
             backend prescriptions\n  option httpchk GET /health\n  http-check expect status 200\n\
             \x20 default-server inter 200ms fall 1 rise 1 on-marked-down shutdown-sessions\n\
             \x20 server a 127.0.0.1:{a} check\n  server b 127.0.0.1:{b} check\n",
            users = fleet.port(Site::A, PORT_OFFSET),
            a = port(Site::A),
            b = port(Site::B),
        );
        let config = fleet.data_dir().join("haproxy.cfg");
        std::fs::File::create(&config)?.write_all(text.as_bytes())?;
        let log = std::fs::File::create(fleet.data_dir().join("haproxy.log"))?;
        let child = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("haproxy cannot be started; Debian has it as a package")?;
        Ok(Balancer(child))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An answer of the service, and which site gave it.
type Answer = (Instant, Site);

/// Asks without end; every request is a connection of its own.
pub struct User {
    answers: Arc<Mutex<Vec<Answer>>>,
    task: JoinHandle<()>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl User {
    pub fn start(fleet: &Fleet) -> Result<User> {
        let client = reqwest::Client::builder().timeout(GIVE_UP_AFTER).pool_max_idle_per_host(0).no_proxy().build()?;
        let url = format!("http://127.0.0.1:{}/", fleet.port(Site::A, PORT_OFFSET));
        let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
        let kept = Arc::clone(&answers);
        let task = tokio::spawn(async move {
            let mut pace = tokio::time::interval(ASK_EVERY);
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                pace.tick().await;
                let Ok(answer) = client.get(&url).send().await else { continue };
                if !answer.status().is_success() {
                    continue;
                }
                let text = answer.text().await.unwrap_or_default();
                let from = Site::ALL.into_iter().find(|site| text.contains(&format!("at site {site},")));
                if let Some(site) = from {
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), site));
                }
            }
        });
        Ok(User { answers, task })
    }

    fn answers(&self) -> Vec<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When this site answered first since then.
    pub async fn served_by(&self, site: Site, since: Instant, limit: Duration) -> Result<Instant> {
        let what = format!("an answer of site {site} through HAProxy");
        let first = async || self.answers().into_iter().find(|(at, from)| *from == site && *at >= since);
        Ok(wait_for(&what, limit, first).await?.0.0)
    }

    /// The longest time without an answer since then: from the last one before it to the first one after it.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let all = self.answers();
        let from = all.iter().rposition(|(at, _)| *at < since).unwrap_or(0);
        all[from..].windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap_or_default()
    }
}
