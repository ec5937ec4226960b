//! The gates of a and b by their protocol: all tickets in one request a second to all collectors at once; the first confirmed
//! answer counts. What a gate does with an order is left out: every step is reported done with the next request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bcp_identity::{Identity, http_client};
use bcp_tests::wait_for;
use bcp_wire::control::{GateAnswer, GateSync, StepOutcome, StepReport, SyncOutcome, TicketAnswer, TicketSync};
use bcp_wire::{Epoch, Id, Site};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::sites::{Sites, port};

/// An answer that comes later extends nothing that would not be lost anyway.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const HELD_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Ticket {
    seen: Option<Epoch>,
    holder: Option<Site>,
    report: Option<StepReport>,
    renewed: bool,
}

/// When a request was sent, and after how long it was confirmed, if it was.
pub type Asked = (Instant, Option<Duration>);

struct Gate {
    site: Site,
    id: Id,
    seq: u64,
    tickets: BTreeMap<Id, Ticket>,
}

#[derive(Default)]
struct Told {
    asked: Vec<Asked>,
    /// Tickets that each gate renewed with its last request.
    renewed: BTreeMap<Site, usize>,
}

pub struct Gates {
    told: Arc<Mutex<Told>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Gates {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Gates {
    pub fn start(sites: &Sites, tickets: usize, every: Duration) -> Result<Gates> {
        let told: Arc<Mutex<Told>> = Arc::default();
        let mut tasks = Vec::new();
        for site in [Site::A, Site::B] {
            let credentials = sites.credentials(&format!("agent:{site}:host-{site}"))?;
            let mut collectors = Vec::new();
            for to in Site::ALL {
                let client = http_client(&credentials, &Identity::Collector { site: to }, ANSWER_LIMIT)?;
                collectors.push((client, format!("https://127.0.0.1:{}/control/v1/sync", port(to, 2))));
            }
            let mut all = BTreeMap::new();
            for n in 0..tickets {
                all.insert(format!("t-{n:03}").parse()?, Ticket::default());
            }
            let gate = Gate { site, id: format!("host-{site}").parse()?, seq: 1 << 32, tickets: all };
            tasks.push(tokio::spawn(gate.run(collectors, every, Arc::clone(&told))));
        }
        Ok(Gates { told, tasks })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All tickets are held and were renewed.
    pub async fn all_held(&self, tickets: usize) -> Result<Duration> {
        // What was renewed before counts no more.
        self.told().renewed.clear();
        let all = async || (self.told().renewed.values().sum::<usize>() == tickets).then_some(());
        Ok(wait_for("all tickets to be held and renewed", HELD_WITHIN, all).await?.1)
    }

    pub fn since(&self, from: Instant) -> Vec<Asked> {
        self.told().asked.iter().filter(|(sent, _)| *sent >= from).copied().collect()
    }
}

impl Gate {
    async fn run(mut self, collectors: Vec<(reqwest::Client, String)>, every: Duration, told: Arc<Mutex<Told>>) {
        let mut pace = tokio::time::interval(every);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let sync = self.sync();
            let sent = Instant::now();
            let (answers, mut confirmed) = mpsc::channel(1);
            for (client, url) in &collectors {
                let (request, answers) = (client.post(url).json(&sync), answers.clone());
                tokio::spawn(async move {
                    let Ok(answer) = request.send().await else { return };
                    let Ok(answer) = answer.json::<GateAnswer>().await else { return };
                    if let SyncOutcome::Confirmed { tickets, .. } = answer.outcome {
                        // The first one counts; nobody waits for the others.
                        let _ = answers.try_send((sent.elapsed(), tickets));
                    }
                });
            }
            drop(answers);
            let first = confirmed.recv().await;
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.asked.push((sent, first.as_ref().map(|(took, _)| *took)));
            if let Some((_, tickets)) = first {
                tickets.into_iter().for_each(|answer| self.hear(answer));
            }
            told.renewed.insert(self.site, self.tickets.values().filter(|ticket| ticket.renewed).count());
        }
    }

    fn sync(&mut self) -> GateSync {
        self.seq += 1;
        let part = |(id, ticket): (&Id, &Ticket)| TicketSync {
            ticket: id.clone(),
            seen: ticket.seen.unwrap_or(Epoch::NONE),
            closed: false,
            renew: ticket.seen.filter(|_| ticket.holder == Some(self.site)),
            reports: ticket.report.iter().cloned().collect(),
            facts: None,
            trouble: None,
            unstopped: false,
            loss: None,
            forced: false,
        };
        GateSync {
            site: self.site,
            gate: self.id.clone(),
            nonce: rand::random(),
            seq: self.seq,
            tickets: self.tickets.iter().map(part).collect(),
        }
    }

    fn hear(&mut self, answer: TicketAnswer) {
        let Some(ticket) = self.tickets.get_mut(&answer.ticket) else { return };
        (ticket.seen, ticket.holder, ticket.renewed) = (Some(answer.epoch), answer.holder, answer.renewed);
        ticket.report = answer.order.map(|order| StepReport {
            key: order.key,
            epoch: order.epoch,
            revision: order.revision,
            kind: order.kind,
            outcome: StepOutcome::Done,
            detail: None,
            took_ms: 1,
        });
    }
}
