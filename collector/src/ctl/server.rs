//! The collector that answers: requests to its control listener, in the operator's name.

use std::time::Duration;

use anyhow::{Context, bail};
use bcp_core::failover::TicketView;
use bcp_core::replica::{CommandResult, CommandVerb, Replica};
use bcp_identity::{Credentials, Identity, http_client};
use bcp_wire::{Id, Site};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::args::Access;
use crate::decide::control::Admitted;
use crate::decide::node::CommandRequest;

/// A command is committed within a tick or two, or there is no leader.
const REQUEST_LIMIT: Duration = Duration::from_secs(8);
/// A node that is let in learns the log first.
const ADMIT_LIMIT: Duration = Duration::from_secs(40);

#[derive(Debug, Deserialize)]
pub(super) struct StateAnswer {
    leader: Option<Site>,
    quorum: bool,
    pub replica: Replica,
}

/// The collector that answers.
pub(super) struct Server {
    url: String,
    client: reqwest::Client,
}

impl Server {
    /// The address does not say which site it is: any of the three collectors will do, and nothing else.
    pub async fn reach(access: &Access) -> anyhow::Result<Server> {
        let credentials = credentials(access)?;
        let url = access.url.trim_end_matches('/').to_owned();
        let mut last = None;
        for site in Site::ALL {
            let client = http_client(&credentials, &Identity::Collector { site }, REQUEST_LIMIT)?;
            match client.get(format!("{url}/control/v1/status")).send().await {
                Ok(_) => return Ok(Server { url, client }),
                Err(error) => last = Some(error),
            }
        }
        let Some(error) = last else { bail!("no collector to try") };
        Err(error).with_context(|| format!("no collector answers at {url}"))
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> anyhow::Result<T> {
        let answer = request.send().await?;
        let status = answer.status();
        let body = answer.bytes().await?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body)?);
        }
        let reason = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let reason = reason.and_then(|reason| Some(reason.get("reason")?.as_str()?.to_owned()));
        bail!("{}", reason.unwrap_or_else(|| format!("the collector answered {status}")))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.answer(self.client.get(format!("{}{path}", self.url))).await
    }

    pub async fn state(&self) -> anyhow::Result<StateAnswer> {
        let state: StateAnswer = self.get("/control/v1/state").await?;
        if !state.quorum || state.leader.is_none() {
            eprintln!("bcpctl: this collector hears no leader; what follows may be old");
        }
        Ok(state)
    }

    /// The state once something changed after `changed_at`, or after this time.
    pub async fn state_after(&self, changed_at: u64, wait_ms: u64) -> anyhow::Result<StateAnswer> {
        self.get(&format!("/control/v1/state?after={changed_at}&wait_ms={wait_ms}")).await
    }

    pub async fn ticket(&self, id: &Id) -> anyhow::Result<TicketView> {
        let views = self.state().await?.replica.ticket_views();
        views.into_iter().find(|view| view.id == *id).with_context(|| format!("there is no ticket {id}"))
    }

    /// What operators decide about members.
    pub async fn admit(&self, path: &str) -> anyhow::Result<Admitted> {
        self.answer(self.client.post(format!("{}{path}", self.url)).timeout(ADMIT_LIMIT)).await
    }

    pub async fn order(&self, verb: CommandVerb, unconditional: bool) -> anyhow::Result<CommandResult> {
        self.order_keyed(format!("{:032x}", rand::random::<u128>()), verb, unconditional).await
    }

    /// An order with a key of its own: given twice, it is carried out once.
    pub async fn order_keyed(
        &self,
        key: String,
        verb: CommandVerb,
        unconditional: bool,
    ) -> anyhow::Result<CommandResult> {
        let request = CommandRequest { key, verb, unconditional };
        self.answer(self.client.post(format!("{}/control/v1/command", self.url)).json(&request)).await
    }
}

pub(super) fn credentials(access: &Access) -> anyhow::Result<Credentials> {
    if let (Some(ca), Some(cert), Some(key)) = (&access.ca, &access.cert, &access.key) {
        return Ok(Credentials { ca: ca.clone(), cert: cert.clone(), key: key.clone() });
    }
    let dir = access.credentials.as_ref().context("give --credentials DIR, or --ca, --cert and --key")?;
    if let Some(name) = &access.operator {
        return Ok(Credentials::in_dir(dir, &Identity::Operator { name: name.clone() }));
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let names: Vec<Id> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("operator-")?.strip_suffix(".pem")?.parse().ok())
        .collect();
    match names.as_slice() {
        [name] => Ok(Credentials::in_dir(dir, &Identity::Operator { name: name.clone() })),
        [] => bail!("{} has no operator-NAME.pem", dir.display()),
        several => {
            let names: Vec<&str> = several.iter().map(AsRef::as_ref).collect();
            bail!("{} has several operators; give --operator: {}", dir.display(), names.join(", "))
        }
    }
}
