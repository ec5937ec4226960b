//! Everything at once at what is not decide: page, console's history and event stream, broker. All on loopback, all bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bcp_wire::Site;
use rumqttc::{AsyncClient, MqttOptions, PublishOptions};
use tokio::task::JoinHandle;

use super::sites::port;

/// Clients of each kind per site, each with one request under way.
const CLIENTS: usize = 16;
/// Event streams per site that are opened and hardly read.
const STREAMS: usize = 32;
/// Messages each publisher sends in a burst, and how often.
const BURST: u64 = 50;
const BURST_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Counts {
    pages: AtomicU64,
    history: AtomicU64,
    messages: AtomicU64,
    streams: AtomicU64,
}

pub struct Flood {
    counts: Arc<Counts>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Flood {
    pub fn start() -> Result<Flood> {
        let counts: Arc<Counts> = Arc::default();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build()?;
        let mut tasks = Vec::new();
        for site in Site::ALL {
            for n in 0..CLIENTS {
                let page = format!("http://127.0.0.1:{}/{}/", port(site, 0), ["nl", "fr", "de", "en"][n % 4]);
                tasks.push(tokio::spawn(ask(client.clone(), page, Arc::clone(&counts), |counts| &counts.pages)));
                let history = format!(
                    "http://127.0.0.1:{}/api/v1/history?device=dev-{n}&point=outlet.1.current&from=-24h&max=20000",
                    port(site, 1)
                );
                tasks.push(tokio::spawn(ask(client.clone(), history, Arc::clone(&counts), |counts| &counts.history)));
            }
            for _ in 0..STREAMS {
                let url = format!("http://127.0.0.1:{}/api/v1/stream", port(site, 1));
                tasks.push(tokio::spawn(listen(client.clone(), url, Arc::clone(&counts))));
            }
            tasks.push(tokio::spawn(publish(site, Arc::clone(&counts))));
        }
        Ok(Flood { counts, tasks })
    }

    /// What was asked and sent in this time, per second.
    pub fn per_second(&self, length: Duration) -> String {
        let rate = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64 / length.as_secs_f64();
        let Counts { pages, history, messages, streams } = &*self.counts;
        format!(
            "{:.0} pages, {:.0} reads of history, {:.0} MQTT messages a second; {} event streams opened",
            rate(pages),
            rate(history),
            rate(messages),
            streams.load(Ordering::Relaxed)
        )
    }
}

async fn ask(client: reqwest::Client, url: String, counts: Arc<Counts>, count: fn(&Counts) -> &AtomicU64) {
    loop {
        if let Ok(answer) = client.get(&url).send().await
            && answer.bytes().await.is_ok()
        {
            count(&counts).fetch_add(1, Ordering::Relaxed);
        } else {
            tokio::time::sleep(BURST_EVERY).await;
        }
    }
}

/// A reader that takes one piece a second.
async fn listen(client: reqwest::Client, url: String, counts: Arc<Counts>) {
    loop {
        if let Ok(mut answer) = client.get(&url).send().await {
            counts.streams.fetch_add(1, Ordering::Relaxed);
            while answer.chunk().await.is_ok_and(|piece| piece.is_some()) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Batches of readings, as many as the client takes.
async fn publish(site: Site, counts: Arc<Counts>) {
    let options = MqttOptions::new(format!("flood-{site}"), ("127.0.0.1", port(site, 3)));
    let (client, mut events) = AsyncClient::builder(options).capacity(1_000).build();
    let polling = tokio::spawn(async move {
        loop {
            if events.poll().await.is_err() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let mut pace = tokio::time::interval(BURST_EVERY);
    for seq in 1.. {
        if (seq - 1) % BURST == 0 {
            pace.tick().await;
        }
        let topic = format!("bcp/v1/{site}/flood-{site}/data/dev-{}", seq % 16);
        let t_ms = 1_790_000_000_000_u64 + seq;
        let body = format!(r#"{{"v":1,"i":1,"s":{seq},"t":{t_ms},"vals":{{"outlet.1.current":{}.5}}}}"#, seq % 40);
        if client.publish(topic, body, PublishOptions::at_most_once()).await.is_err() {
            break;
        }
        counts.messages.fetch_add(1, Ordering::Relaxed);
    }
    polling.abort();
}
