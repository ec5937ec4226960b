//! `fleet service-step`: the actuator that a gate calls, once per step.
//!
//! Reads `BCP_STEP`, `BCP_EPOCH` and `BCP_PARAMS` (a JSON object of texts). Exit codes: 0 done, 10 already done, 20 veto, 1 failed.
//! Invariants: a step of an epoch below the one on record is vetoed; the record is raised before anything is done.
//! `stop` needs no running fleet: where nobody takes orders, it kills the service by its process id.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bcp_wire::{Epoch, Site};

use super::{Service, Want, journal};
use crate::api::{Action, Client, Done, PublishOrder, ServiceDone, ServiceOrder, TargetOrder};
use crate::front::{Published, Route};
use crate::ports::{BasePort, loopback};
use crate::servers;

const ALREADY: u8 = 10;
const VETO: u8 = 20;
/// How long `verify-stopped` and `stop` look for a port that goes away.
const GONE_WITHIN: Duration = Duration::from_millis(2_000);

/// Whom the step is for, from the command line.
#[derive(Debug, Clone)]
pub struct Step {
    pub service: Service,
    pub site: Site,
    pub base: BasePort,
    pub data_dir: PathBuf,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Already,
    Veto(String),
    Failed(String),
}

impl Outcome {
    /// Says why on standard error, where the gate takes it from.
    #[must_use]
    pub fn report(self) -> ExitCode {
        match self {
            Outcome::Done => ExitCode::SUCCESS,
            Outcome::Already => ExitCode::from(ALREADY),
            Outcome::Veto(reason) => {
                eprintln!("veto: {reason}");
                ExitCode::from(VETO)
            }
            Outcome::Failed(reason) => {
                eprintln!("error: {reason}");
                ExitCode::FAILURE
            }
        }
    }
}

/// What the gate says in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    pub step: String,
    pub epoch: Epoch,
    pub params: BTreeMap<String, String>,
}

impl Orders {
    /// # Errors
    /// Names the variable that is missing or malformed.
    pub fn from_env(variables: impl Iterator<Item = (String, String)>) -> Result<Orders, String> {
        let all: BTreeMap<String, String> = variables.filter(|(name, _)| name.starts_with("BCP_")).collect();
        let get = |name: &str| all.get(name).ok_or_else(|| format!("{name} is not set; a gate calls this program"));
        let epoch = get("BCP_EPOCH")?;
        Ok(Orders {
            step: get("BCP_STEP")?.clone(),
            epoch: epoch.parse().map_err(|fault| format!("BCP_EPOCH: {fault}"))?,
            params: all
                .get("BCP_PARAMS")
                .map_or(Ok(BTreeMap::new()), |text| serde_json::from_str(text))
                .map_err(|fault| format!("BCP_PARAMS: {fault}"))?,
        })
    }
}

impl Step {
    /// Carries out one step.
    pub async fn run(&self, orders: &Orders) -> Outcome {
        let directory = self.service.directory(&self.data_dir, self.site);
        // Looking and stopping never raise the record: a stop of epoch 3 must not hinder a promotion of epoch 3.
        if orders.step == "verify-stopped" {
            return self.verify_stopped().await;
        }
        if orders.step == "stop" {
            return self.stop(orders.epoch).await;
        }
        let seen = match journal::raise(&directory, orders.epoch) {
            Ok(seen) => seen,
            Err(fault) => return Outcome::Failed(fault.to_string()),
        };
        if seen > orders.epoch {
            return Outcome::Veto(format!("epoch {} is superseded: {seen} was seen here", orders.epoch));
        }
        match orders.step.as_str() {
            "seal" => self.seal(orders.epoch, seen).await,
            "promote" => self.start(Want::Active, orders.epoch).await,
            "follow" if self.service == Service::PatientPortal => self.start(Want::Active, orders.epoch).await,
            "follow" => self.start(Want::Standby, orders.epoch).await,
            "publish" => self.publish(orders.epoch, [(self.site, 100)].into()).await,
            "weigh" => match weights(&orders.params) {
                Ok(weights) => self.publish(orders.epoch, weights).await,
                Err(reason) => Outcome::Veto(reason),
            },
            "capacity" => self.start_server(&orders.params).await,
            other => Outcome::Veto(format!("unknown step {other}")),
        }
    }

    fn client(&self) -> Result<Client, Outcome> {
        Client::new(self.base).map_err(|refusal| Outcome::Failed(refusal.error))
    }

    async fn order(&self, want: Want, epoch: Epoch) -> Outcome {
        let client = match self.client() {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        let order = ServiceOrder { service: self.service, site: self.site, want, epoch };
        match client.ask::<_, ServiceDone>("service", &order).await {
            Ok(done) if done.was_already => Outcome::Already,
            Ok(_) => Outcome::Done,
            Err(refusal) => Outcome::Failed(refusal.error),
        }
    }

    /// One server of the reserve.
    async fn start_server(&self, params: &BTreeMap<String, String>) -> Outcome {
        let server = params.get("server").map_or("", String::as_str);
        let Some(unit) = servers::unit_of(self.site, server) else {
            return Outcome::Veto(format!("no server `{server}` stands by at {}", self.site));
        };
        let client = match self.client() {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        let order = TargetOrder { action: Action::Start, target: format!("{}/{unit}", self.site) };
        match client.ask::<_, Done>("target", &order).await {
            Ok(_) => Outcome::Done,
            Err(refusal) => Outcome::Failed(refusal.error),
        }
    }

    async fn start(&self, want: Want, epoch: Epoch) -> Outcome {
        self.order(want, epoch).await
    }

    /// A standby is nothing that has to be stopped: nobody is served by it, and it keeps the data.
    async fn stop(&self, epoch: Epoch) -> Outcome {
        if self.health().await.as_deref() == Some("standby") {
            return Outcome::Already;
        }
        let outcome = self.order(Want::Stopped, epoch).await;
        let verified = self.verify_stopped().await;
        match (outcome, verified) {
            (outcome @ (Outcome::Done | Outcome::Already), Outcome::Done) => outcome,
            // Nobody took the order, and yet nothing runs.
            (Outcome::Failed(_), Outcome::Done) => Outcome::Done,
            (_, outcome) => outcome,
        }
    }

    /// Older epochs are refused from now on; a copy that is active under one is stopped.
    async fn seal(&self, epoch: Epoch, seen: Epoch) -> Outcome {
        match self.health().await.as_deref() {
            Some("active") if self.service == Service::Prescriptions => self.stop(epoch).await,
            _ if seen == epoch => Outcome::Already,
            _ => Outcome::Done,
        }
    }

    async fn publish(&self, epoch: Epoch, weights: BTreeMap<Site, u32>) -> Outcome {
        let client = match self.client() {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        let order = PublishOrder { service: self.service, route: Route { epoch, weights } };
        match client.ask::<_, Published>("publish", &order).await {
            Ok(Published::Done) => Outcome::Done,
            Ok(Published::Already) => Outcome::Already,
            Ok(Published::Superseded) => Outcome::Veto(format!("a later epoch than {epoch} is published")),
            Err(refusal) => Outcome::Failed(refusal.error),
        }
    }

    async fn verify_stopped(&self) -> Outcome {
        let begun = Instant::now();
        let address = loopback(self.base.site(self.site, self.service.port()));
        loop {
            if tokio::net::TcpStream::connect(address).await.is_err() {
                return Outcome::Done;
            }
            if self.health().await.as_deref() == Some("standby") {
                return Outcome::Done;
            }
            if begun.elapsed() > GONE_WITHIN {
                return Outcome::Failed(format!("{} still answers at {}", self.service, self.site));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn health(&self) -> Option<String> {
        crate::install_crypto();
        let http = bcp_identity::plain_http().timeout(Duration::from_millis(500)).build().ok()?;
        let port = self.base.site(self.site, self.service.port());
        http.get(format!("http://127.0.0.1:{port}/health")).send().await.ok()?.text().await.ok()
    }
}

/// `a = "50"` and so on, or `weights = "a:50 b:50"`.
fn weights(params: &BTreeMap<String, String>) -> Result<BTreeMap<Site, u32>, String> {
    let mut weights = BTreeMap::new();
    let mut put = |site: &str, weight: &str| -> Result<(), String> {
        let site: Site = site.trim().parse().map_err(|_| format!("no site `{site}`"))?;
        let weight = weight.trim().parse().map_err(|_| format!("`{weight}` is no weight"))?;
        weights.insert(site, weight);
        Ok(())
    };
    for (name, value) in params {
        match name.as_str() {
            "a" | "b" => put(name, value)?,
            "weights" => {
                for pair in value.split([' ', ',']).filter(|pair| !pair.is_empty()) {
                    let (site, weight) = pair.split_once([':', '=']).ok_or_else(|| format!("`{pair}` is no weight"))?;
                    put(site, weight)?;
                }
            }
            _ => {}
        }
    }
    if weights.values().all(|weight| *weight == 0) {
        return Err("weights would leave no site serving".to_owned());
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_nobody_serving_is_refused() {
        let read = |name: &str, value: &str| weights(&[(name.to_owned(), value.to_owned())].into());
        assert_eq!(read("weights", "a:30 b:70"), Ok([(Site::A, 30), (Site::B, 70)].into()));
        assert_eq!(read("a", "100"), Ok([(Site::A, 100)].into()));
        assert!(read("weights", "a:0 b:0").is_err());
        assert!(read("weights", "c:1").is_err());
        assert!(weights(&BTreeMap::new()).is_err());
    }

    #[test]
    fn orders_come_from_the_environment() {
        let env = |pairs: &[(&str, &str)]| {
            Orders::from_env(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        };
        let orders =
            env(&[("BCP_STEP", "weigh"), ("BCP_EPOCH", "1.3"), ("BCP_PARAMS", r#"{"a":"10"}"#), ("PATH", "x")])
                .unwrap();
        assert_eq!(orders.epoch, Epoch { incarnation: 1, counter: 3 });
        assert_eq!(orders.params, [("a".to_owned(), "10".to_owned())].into());
        assert!(env(&[("BCP_STEP", "stop")]).unwrap_err().contains("BCP_EPOCH"));
    }
}
