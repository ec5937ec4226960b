//! One event of one ticket: the machine decides, and its actions are carried out in order, under the ticket's lock.

use std::sync::Arc;
use std::time::Duration;

use bcp_wire::control::{PromiseAnswer, PromiseAsk, StepOrder, StepOutcome};
use bcp_wire::{Epoch, Id, Site};
use tokio::sync::oneshot;

use super::{Gate, Input};
use crate::gate::ask::post;
use crate::gate::boot_ms;
use crate::gate::machine::{Action, Event};
use crate::gate::record::BootMs;
use crate::gate::script::Call;
use crate::gate::store::DeadlineFile;

impl Gate {
    /// One event of one ticket, under its lock.
    pub(super) fn feed(&mut self, id: &Id, event: Event, mut answer: Option<oneshot::Sender<PromiseAnswer>>) {
        let Some(post) = self.posts.get_mut(id) else { return };
        let Some(lock) = post.store.lock(Duration::ZERO) else {
            // The warden is at work.
            post.postpone(event);
            return;
        };
        let mut events = std::mem::take(&mut post.pending);
        let version = post.store.version();
        if version != post.version {
            match post.store.read() {
                Ok(record) => {
                    post.version = version;
                    if record != *post.machine.stored() {
                        tracing::warn!(ticket = %id, epoch = %record.epoch, closed = record.closed, may_run = record.may_run, "the stored record was changed by the warden");
                        events.push_front(Event::RecordFound(Box::new(record)));
                    }
                }
                Err(error) => {
                    tracing::error!(%error, ticket = %id, "the gate does not act on what it cannot read");
                    post.pending = events;
                    post.postpone(event);
                    return;
                }
            }
        }
        events.push_back(event);
        while let Some(event) = events.pop_front() {
            let Some(post) = self.posts.get_mut(id) else { return };
            let actions = post.machine.step(boot_ms(), event);
            events.extend(self.perform(id, actions, &mut answer));
        }
        drop(lock);
    }

    /// Carries out actions in order. Where the record cannot be stored, only what makes things safer is done.
    fn perform(
        &mut self,
        id: &Id,
        actions: Vec<Action>,
        answer: &mut Option<oneshot::Sender<PromiseAnswer>>,
    ) -> Vec<Event> {
        let mut stored = true;
        let mut follow = Vec::new();
        for action in actions {
            let Some(post) = self.posts.get_mut(id) else { break };
            match action {
                Action::Persist(record) => {
                    match post.store.write(&record) {
                        Ok(()) => post.machine.saved(&record),
                        Err(error) => {
                            tracing::error!(%error, ticket = %id, "the record cannot be stored; nothing is begun on it");
                            post.machine.not_stored();
                            stored = false;
                        }
                    }
                    post.version = post.store.version();
                }
                Action::NoteDeadline { epoch, deadline } => {
                    post.deadline = Some((epoch, deadline));
                    let _ = self.write_deadline(id);
                }
                Action::ForgetDeadline => {
                    post.deadline = None;
                    if let Err(error) = post.store.forget_deadline() {
                        tracing::warn!(%error, ticket = %id, "an old deadline file stays");
                    }
                }
                Action::NoteActive { epoch, active, reason } => {
                    tracing::info!(ticket = %id, %epoch, active, %reason, "activity");
                    post.store.log(boot_ms(), epoch, active, &reason);
                }
                Action::KillStep => {
                    post.run += 1;
                    if let Some(step) = post.step.take() {
                        tracing::warn!(ticket = %id, pgid = step.pid, "a running step is killed");
                        step.kill_group();
                    }
                }
                Action::RunStep { order, deadline } => {
                    let key = order.key.clone();
                    let begun = if stored {
                        self.begin_step(id, order, deadline)
                    } else {
                        Err((StepOutcome::Failed, "the gate cannot store its state".to_owned()))
                    };
                    if let Err((outcome, detail)) = begun {
                        follow.push(Event::StepEnded { key, outcome, detail: Some(detail), took_ms: 0 });
                    }
                }
                Action::RunStop { epoch, holder } => self.begin_stop(id, epoch, holder),
                Action::SyncNow => self.sync_wanted = true,
                Action::AskPeers { epoch, nonce } => self.ask_peers(id, epoch, nonce),
                Action::AnswerPromise(verdict) => {
                    // Without storing there is no promise: the asker hears nothing.
                    if let Some(answer) = answer.take().filter(|_| stored) {
                        tracing::info!(ticket = %id, epoch = %verdict.epoch, verdict = ?verdict.verdict, "asked for a promise");
                        // An asker that has gone away keeps what was promised: it only makes us wait.
                        let _ = answer.send(verdict);
                    }
                }
            }
        }
        follow
    }

    /// False where the warden does not know now what this gate knows.
    fn write_deadline(&mut self, id: &Id) -> bool {
        let (Some(post), Some(own)) = (self.posts.get_mut(id), self.own) else { return true };
        let Some((epoch, deadline)) = post.deadline else { return true };
        let file = DeadlineFile {
            boot_id: self.boot_id.clone(),
            ticket: id.clone(),
            epoch,
            deadline,
            gate: own,
            step: post.step,
        };
        let written = post.store.write_deadline(&file);
        if let Err(error) = &written {
            tracing::error!(%error, ticket = %id, "the deadline cannot be written: the warden will stop the service at the old one");
        }
        written.is_ok()
    }

    /// Starts a step up to its gate, tells the warden, looks at the lease once more, lets go.
    fn begin_step(&mut self, id: &Id, order: StepOrder, deadline: Option<BootMs>) -> Result<(), (StepOutcome, String)> {
        let failed = |error: std::io::Error| (StepOutcome::Failed, format!("cannot be started: {error}"));
        let Some(post) = self.posts.get_mut(id) else { return Ok(()) };
        tracing::info!(ticket = %id, step = order.kind.as_str(), epoch = %order.epoch, key = %order.key, "step begins");
        let call = Call {
            step: order.kind.as_str(),
            epoch: order.epoch,
            holder: Some(order.holder),
            deadline,
            params: serde_json::to_string(&order.params).unwrap_or_else(|_| "{}".to_owned()),
        };
        let mut running = post.script.start(&call).map_err(failed)?;
        post.run += 1;
        post.step = Some(running.mark());
        let (run, limit) = (post.run, post.config.step_timeout.get());
        let is_known = self.write_deadline(id);
        let Some(post) = self.posts.get_mut(id) else { return Ok(()) };
        if !is_known {
            // A step that the warden could not kill might start the service after the warden stopped it.
            running.kill();
            post.step = None;
            return Err((StepOutcome::Failed, "the gate cannot tell its warden".to_owned()));
        }
        if deadline.is_some_and(|deadline| boot_ms() >= deadline) {
            running.kill();
            post.step = None;
            return Err((StepOutcome::Rejected, "the lease ran out before the step began".to_owned()));
        }
        if let Err(error) = running.go() {
            running.kill();
            post.step = None;
            return Err(failed(error));
        }
        let (inputs, ticket, key) = (self.inputs.clone(), id.clone(), order.key);
        tokio::task::spawn_blocking(move || {
            let ended = running.wait(limit);
            // The loop is gone only when the gate stops; the order is then repeated to its next life.
            let _ = inputs.blocking_send(Input::StepEnded { ticket, run, key, ended });
        });
        Ok(())
    }

    fn begin_stop(&mut self, id: &Id, epoch: Epoch, holder: Option<Site>) {
        let Some(post) = self.posts.get_mut(id) else { return };
        tracing::warn!(ticket = %id, %epoch, "stopping the service");
        post.run += 1;
        let (run, script, limit) = (post.run, post.script.clone(), post.config.step_timeout.get());
        let (inputs, ticket) = (self.inputs.clone(), id.clone());
        tokio::task::spawn_blocking(move || {
            let ended = script.stop_and_verify(epoch, holder, limit);
            // As above; the warden finishes what a gate leaves behind.
            let _ = inputs.blocking_send(Input::StopEnded { ticket, run, ended });
        });
    }

    fn ask_peers(&self, id: &Id, epoch: Epoch, nonce: u64) {
        tracing::warn!(ticket = %id, %epoch, "no collector answers; asking the other gates to wait");
        for (peer, target) in &self.peers {
            let ask =
                PromiseAsk { site: self.setup.site, gate: self.setup.gate.clone(), ticket: id.clone(), epoch, nonce };
            let (client, url, peer) = (target.client.clone(), target.url.clone(), peer.clone());
            let (inputs, ticket) = (self.inputs.clone(), id.clone());
            let Ok(slot) = Arc::clone(&target.slots).try_acquire_owned() else { continue };
            tokio::spawn(async move {
                let answer = post::<_, PromiseAnswer>(&client, &url, &ask).await.and_then(|answer| {
                    let same = (answer.site, &answer.gate) == (peer.0, &peer.1)
                        && (&answer.ticket, answer.epoch, answer.nonce) == (&ask.ticket, ask.epoch, ask.nonce);
                    if same { Ok(answer) } else { Err("answers another question".to_owned()) }
                });
                drop(slot);
                // The loop is gone: so is the lease.
                let _ = inputs.send(Input::Promise { ticket, peer, nonce, answer }).await;
            });
        }
    }
}
