//! Three collectors with many tickets, each in a directory of its own, as processes that end with this one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use bcp_identity::{Credentials, Identity, http_client, pki};
use bcp_tests::{fleet, wait_for};
use bcp_wire::Site;
use serde_json::Value;

const BASE_PORT: u16 = 26_000;
const READY: Duration = Duration::from_secs(60);
const OPERATOR: &str = "operator:bench";

/// Ports of a site, as in a fleet.
pub fn port(site: Site, offset: u16) -> u16 {
    let of_site = match site {
        Site::A => 0,
        Site::B => 100,
        Site::W => 200,
    };
    BASE_PORT + of_site + offset
}

pub struct Sites {
    dir: PathBuf,
    running: Vec<(Site, Running)>,
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id().cast_signed()) {
            // Gently, so that a supervisor ends its own processes too.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        self.running.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Tickets that two gates share; each site holds half of them.
fn policy(tickets: usize, timing: &str) -> String {
    let mut text = format!("timing = \"{timing}\"\n[service.s]\ntitle = {{ en = \"Service\" }}\n");
    for n in 0..tickets {
        let preferred = if n % 2 == 0 { "a" } else { "b" };
        let _ = write!(
            text,
            "[ticket.t-{n:03}]\nservice = \"s\"\nmode = \"auto\"\nsites = [\"a\", \"b\"]\npreferred = \"{preferred}\"\n\
             rpo = \"availability\"\nmove_when = [\"site_lost(holder)\"]\nloss = \"stop\"\n\
             gates = {{ a = [\"host-a\"], b = [\"host-b\"] }}\naccept_unfenced = true\n"
        );
    }
    text
}

impl Sites {
    pub fn prepare(dir: PathBuf, tickets: usize, timing: &str) -> Result<Sites> {
        let hosts = ["127.0.0.1".to_owned()];
        let pki_dir = dir.join("pki");
        pki::create_ca(&pki_dir, "bench")?;
        for identity in ["collector:a", "collector:b", "collector:w", "agent:a:host-a", "agent:b:host-b", OPERATOR] {
            pki::issue(&pki_dir, &identity.parse::<Identity>()?, &hosts)?;
        }
        std::fs::write(dir.join("policy.toml"), policy(tickets, timing))?;
        for site in Site::ALL {
            std::fs::create_dir_all(dir.join(site.as_str()))?;
            std::fs::write(dir.join(format!("{site}/collector.toml")), Self::config(site))?;
        }
        Ok(Sites { dir, running: Vec::new() })
    }

    fn config(site: Site) -> String {
        let of = |scheme: &str, offset: u16| {
            let one = |other: &Site| format!("{other} = \"{scheme}127.0.0.1:{}\"", port(*other, offset));
            site.others().iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let own = |offset: u16| format!("\"127.0.0.1:{}\"", port(site, offset));
        format!(
            "site = \"{site}\"\ndata_dir = \"data\"\npolicy = \"../policy.toml\"\n\
             [listen]\npublic = {public}\nconsole = {console}\ncontrol = {control}\n\
             [mqtt]\nembedded = {mqtt}\nbrokers = {{ {site} = {mqtt}, {brokers} }}\n\
             [control]\ncredentials = {{ ca = \"../pki/ca.pem\", cert = \"../pki/collector-{site}.pem\", key = \"../pki/collector-{site}.key\" }}\n\
             peers = {{ {peers} }}\n\
             [public]\nkey = \"data/publish.key\"\nknown_keys = {{ {site} = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }}\n\
             origins = {{ {origins} }}\n[history]\nretention = \"30d\"\n",
            public = own(0),
            console = own(1),
            control = own(2),
            mqtt = own(3),
            brokers = of("", 3),
            peers = of("https://", 2),
            origins = of("http://", 0),
        )
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn credentials(&self, identity: &str) -> Result<Credentials> {
        Ok(Credentials::in_dir(&self.dir.join("pki"), &identity.parse()?))
    }

    /// `decide` alone, or `run` with everything beside it.
    pub fn start(&mut self, what: &str) -> Result<()> {
        Site::ALL.into_iter().try_for_each(|site| self.start_one(site, what))
    }

    pub fn start_one(&mut self, site: Site, what: &str) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.join(format!("{site}/log")))?;
        let child = Command::new(fleet::binary())
            .args(["collector", what, "--config"])
            .arg(self.dir.join(format!("{site}/collector.toml")))
            // The kernel ends it with this process. `1` would say that its parent is a fleet.
            .env("BCP_DIE_WITH_PARENT", "kernel")
            .env("BCP_SELF_ARGS", "collector")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", fleet::binary().display()))?;
        self.running.push((site, Running(child)));
        Ok(())
    }

    /// As a power cut would.
    pub fn kill(&mut self, site: Site) -> Result<()> {
        for (_, running) in self.running.iter_mut().filter(|(of, _)| *of == site) {
            running.0.kill()?;
        }
        self.running.retain(|(of, _)| *of != site);
        Ok(())
    }

    pub fn stop(&mut self) {
        self.running.clear();
    }

    /// The decide process of each site that runs.
    pub fn decide_pids(&self) -> Vec<(Site, u32)> {
        let of = |(site, running): &(Site, Running)| {
            let started = running.0.id();
            let below = children(started).into_iter().find(|pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split(|byte| *byte == 0).any(|part| part == b"decide")
            });
            (*site, below.unwrap_or(started))
        };
        self.running.iter().map(of).collect()
    }

    pub async fn status(&self, site: Site) -> Result<Value> {
        let client = http_client(&self.credentials(OPERATOR)?, &Identity::Collector { site }, Duration::from_secs(3))?;
        let url = format!("https://127.0.0.1:{}/control/v1/status", port(site, 2));
        Ok(client.get(url).send().await?.json().await?)
    }

    /// The leader as the others see it.
    pub async fn leader(&self) -> Result<Site> {
        let agreed = async || {
            let mut seen = Vec::new();
            for (site, _) in &self.running {
                let status = self.status(*site).await.ok()?;
                seen.push(status["standing"]["leader"].as_str()?.parse::<Site>().ok()?);
            }
            let first = *seen.first()?;
            seen.iter().all(|site| *site == first).then_some(first)
        };
        Ok(wait_for("a leader that all hear", READY, agreed).await?.0)
    }
}

fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}
