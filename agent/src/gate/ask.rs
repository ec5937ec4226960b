//! Requests of a gate: to collectors, other gates and its service.
//!
//! Knows: bounds of an answer and of what may be left unanswered. Refuses to know: what an answer means.

use std::sync::Arc;

use bcp_wire::control::{GateAnswer, GateSync, ServiceFacts};
use tokio::sync::{Semaphore, mpsc};

/// Longest answer of a service about itself, in bytes.
const FACTS_MAX_BYTES: usize = 64 * 1024;
/// Longest answer of a collector: 512 tickets with an order each.
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// The collectors, each with a bound on unanswered requests.
#[derive(Debug, Clone)]
pub struct Collectors(pub Arc<Vec<Target>>);

/// One that can be asked, and how many questions it may leave unanswered.
#[derive(Debug)]
pub struct Target {
    pub name: String,
    pub url: String,
    pub client: reqwest::Client,
    pub slots: Arc<Semaphore>,
}

impl Collectors {
    /// Sends to all at once; answers come as they come, and the channel closes after the last.
    #[must_use]
    pub fn ask_all(&self, sync: &GateSync) -> mpsc::Receiver<Result<GateAnswer, String>> {
        let (sender, answers) = mpsc::channel(self.0.len().max(1));
        for at in 0..self.0.len() {
            let Ok(slot) = Arc::clone(&self.0[at].slots).try_acquire_owned() else { continue };
            let (all, sender, sync) = (Arc::clone(&self.0), sender.clone(), sync.clone());
            tokio::spawn(async move {
                let target = &all[at];
                let answer = post(&target.client, &target.url, &sync).await;
                let answer = answer.map_err(|reason| format!("{}: {reason}", target.name));
                drop(slot);
                // Nobody waits for it any more once another answer was confirmed.
                let _ = sender.send(answer).await;
            });
        }
        answers
    }
}

/// Asks, and reads at most [`ANSWER_MAX_BYTES`] of an answer. The error is text for the log.
pub async fn post<Q: serde::Serialize + Sync, A: serde::de::DeserializeOwned>(
    client: &reqwest::Client,
    url: &str,
    body: &Q,
) -> Result<A, String> {
    let response = client.post(url).json(body).send().await.map_err(|error| chain(&error))?;
    let status = response.status();
    let bytes = read_body(response, ANSWER_MAX_BYTES).await?;
    if !status.is_success() {
        let text: String = String::from_utf8_lossy(&bytes).chars().take(200).collect();
        return Err(format!("{status}: {text}"));
    }
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}

async fn read_body(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + part.len() > limit {
            return Err(format!("answer is longer than {limit} bytes"));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a service says about its copy of the data.
pub async fn facts(plain: &reqwest::Client, url: &str) -> Result<ServiceFacts, String> {
    let response = plain.get(url).send().await.map_err(|error| chain(&error))?;
    if !response.status().is_success() {
        return Err(response.status().to_string());
    }
    let body = read_body(response, FACTS_MAX_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| error.to_string())
}
