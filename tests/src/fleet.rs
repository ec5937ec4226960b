//! One running fleet.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use bcp_wire::Site;

/// From start to ready; the product promises 10 s on an idle machine, a busy test machine gets more.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// From the stop signal to the end of every process.
const DOWN_WITHIN: Duration = Duration::from_secs(30);
/// One request. What has ended refuses at once; only what stands still, or a machine that does, needs longer.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// First port; each test binary uses its own range, below those the system gives to outgoing connections (32768 up).
    pub base_port: u16,
    /// Further arguments of `fleet up`.
    pub args: Vec<String>,
}

#[derive(Debug)]
pub struct Fleet {
    child: Child,
    base_port: u16,
    data_dir: PathBuf,
    http: reqwest::Client,
    /// How long it took to become ready.
    pub ready_after: Duration,
}

/// The binary under test: `BCP_FLEET_BIN`, or the release build of this workspace.
#[must_use]
pub fn binary() -> PathBuf {
    std::env::var_os("BCP_FLEET_BIN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/fleet"), PathBuf::from)
}

impl Fleet {
    /// Starts a fleet in a directory of its own and waits until it says it is ready.
    ///
    /// # Errors
    /// Where it ends early or does not become ready; its last lines are in the error.
    pub async fn up(options: Options) -> Result<Fleet> {
        let data_dir = Fleet::dir(&options);
        let _ = std::fs::remove_dir_all(&data_dir);
        std::fs::create_dir_all(&data_dir)?;
        Fleet::up_in(data_dir, options).await
    }

    /// Where [`Fleet::up`] keeps its files.
    #[must_use]
    pub fn dir(options: &Options) -> PathBuf {
        std::env::temp_dir().join(format!("bcp-tests-{}-{}", std::process::id(), options.base_port))
    }

    /// As [`Fleet::up`], in a directory that is there.
    ///
    /// # Errors
    /// As [`Fleet::up`].
    pub async fn up_in(data_dir: PathBuf, options: Options) -> Result<Fleet> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let began = Instant::now();
        let mut child = Command::new(binary())
            .args(["up", "--base-port", &options.base_port.to_string(), "--data-dir"])
            .arg(&data_dir)
            .args(&options.args)
            // As on a host that trusts no authority: nothing in the fleet asks one.
            .envs([("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/dev/null")])
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(data_dir.join("up.stderr"))?)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", binary().display()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        // The pipe is read to its end on a thread of its own, so that the fleet never blocks on it.
        std::thread::spawn(move || {
            let mut line = String::new();
            while stdout.read_line(&mut line).is_ok_and(|n| n > 0) {
                line.clear();
            }
        });
        let http =
            reqwest::Client::builder().timeout(REQUEST_WITHIN).redirect(reqwest::redirect::Policy::none()).build()?;
        let mut fleet = Fleet { child, base_port: options.base_port, data_dir, http, ready_after: Duration::ZERO };
        let ready = crate::wait_for("the fleet to be ready", READY_WITHIN, async || {
            for site in Site::ALL {
                if fleet.status(fleet.port(site, 1), "/readyz").await != Some(200)
                    || fleet.status(fleet.port(site, 0), "/nl/").await != Some(200)
                {
                    return None;
                }
            }
            let tickets = fleet.api(Site::W, "tickets").await.ok()?;
            let list = tickets["tickets"].as_array()?;
            list.iter().any(|t| t["id"] == "prescriptions" && t["holder"] == "a" && t["phase"] == "held").then_some(())
        })
        .await;
        if let Err(fault) = ready {
            let said = std::fs::read_to_string(fleet.data_dir.join("up.stderr")).unwrap_or_default();
            fleet.stop()?;
            bail!("{fault}; it said:\n{said}");
        }
        fleet.ready_after = began.elapsed();
        Ok(fleet)
    }

    #[must_use]
    pub fn port(&self, site: Site, offset: u16) -> u16 {
        let site_offset = match site {
            Site::A => 0,
            Site::B => 100,
            Site::W => 200,
        };
        self.base_port + site_offset + offset
    }

    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs `fleet ARGS --base-port N`, as a user would in a second terminal.
    ///
    /// # Errors
    /// Where it cannot be started or does not exit 0.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let output = self.cli_output(args)?;
        if !output.status.success() {
            bail!("fleet {args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// As [`Fleet::cli`], whatever the exit code.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn cli_output(&self, args: &[&str]) -> Result<Output> {
        Ok(Command::new(binary())
            .args(args)
            .args(["--base-port", &self.base_port.to_string()])
            .stdin(Stdio::null())
            .output()?)
    }

    /// `GET /api/v1/PATH` on the console port of a site.
    ///
    /// # Errors
    /// Where there is no answer, or none in JSON.
    pub async fn api(&self, site: Site, path: &str) -> Result<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.port(site, 1));
        Ok(self.http.get(&url).send().await?.json().await?)
    }

    /// A page or document by port.
    ///
    /// # Errors
    /// Where there is no answer.
    pub async fn text(&self, port: u16, path: &str) -> Result<String> {
        Ok(self.http.get(format!("http://127.0.0.1:{port}{path}")).send().await?.text().await?)
    }

    /// Status code, or none where nobody answers.
    pub async fn status(&self, port: u16, path: &str) -> Option<u16> {
        self.http.get(format!("http://127.0.0.1:{port}{path}")).send().await.ok().map(|r| r.status().as_u16())
    }

    /// One ticket as a site sees it.
    ///
    /// # Errors
    /// Where the site does not answer or does not know it.
    pub async fn ticket(&self, site: Site, id: &str) -> Result<Value> {
        let all = self.api(site, "tickets").await?;
        let found = all["tickets"].as_array().and_then(|list| list.iter().find(|t| t["id"] == id)).cloned();
        found.with_context(|| format!("{site} knows no ticket {id}"))
    }

    /// Alarms of a rule that are active at a site.
    ///
    /// # Errors
    /// Where the site does not answer.
    pub async fn active_alarms(&self, site: Site, rule_and_asset: &str) -> Result<usize> {
        let all = self.api(site, "alarms").await?;
        Ok(all["alarms"]
            .as_array()
            .map_or(0, |list| list.iter().filter(|a| a["id"] == rule_and_asset && a["active"] == true).count()))
    }

    /// One point of a device.
    ///
    /// # Errors
    /// Where the site does not answer or has no such point.
    pub async fn point(&self, site: Site, device: &str, point: &str) -> Result<Value> {
        let all = self.api(site, &format!("points?device={device}")).await?;
        let found = all["points"].as_array().and_then(|list| list.iter().find(|p| p["point"] == point)).cloned();
        found.with_context(|| format!("{site} has no {device} {point}"))
    }

    /// Ends the fleet as Ctrl-C does and waits until all its processes are gone.
    ///
    /// # Errors
    /// Where it does not end in time (it is killed then).
    pub fn stop(&mut self) -> Result<Duration> {
        let began = Instant::now();
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        while began.elapsed() < DOWN_WITHIN {
            if self.child.try_wait()?.is_some() {
                return Ok(began.elapsed());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("the fleet did not end within {DOWN_WITHIN:?}")
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.stop();
        if std::env::var_os("BCP_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.data_dir);
        }
    }
}
