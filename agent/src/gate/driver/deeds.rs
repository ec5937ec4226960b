//! One event of one ticket: the machine decides, and its actions are carried out in order, under the ticket's lock.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::control::{PromiseAnswer, PromiseAsk, StepOrder, StepOutcome};
use bcp_wire::{Epoch, Id, Site};

use super::{Asker, Gate, Input, Post};
use crate::gate::ask::post;
use crate::gate::boot_ms;
use crate::gate::machine::{Action, Event};
use crate::gate::record::BootMs;
use crate::gate::script::Call;
use crate::gate::store::{DeadlineFile, StoreError, WRITTEN};

impl Post {
    /// What the warden, or a disk, changed since the last look.
    fn look(&mut self, boot_id: &str) -> Result<Vec<Event>, StoreError> {
        let mut found = Vec::new();
        let mut version = self.store.version();
        if version != self.version {
            match self.store.read() {
                Ok(record) if record == *self.machine.stored() => {}
                Ok(record) => {
                    tracing::warn!(ticket = %self.config.id, epoch = %record.epoch, closed = record.closed, may_run = record.may_run, "the stored record was changed by the warden");
                    found.push(Event::RecordFound(Box::new(record)));
                }
                Err(error @ (StoreError::Gone { .. } | StoreError::Damaged { .. })) => {
                    tracing::error!(%error, ticket = %self.config.id, "the service is stopped, the epoch closed");
                    self.store.set_aside();
                    version = self.store.version();
                    found.push(Event::RecordLost { reason: error.to_string() });
                }
                Err(error) => return Err(error),
            }
            self.version = version;
        }
        let mark = self.store.stop_mark(boot_id);
        if mark.is_some() && mark != self.stop_mark {
            tracing::warn!(ticket = %self.config.id, "the warden says that it stopped the service");
            found.push(Event::WardenStopped);
        }
        self.stop_mark = mark;
        Ok(found)
    }
}

impl Gate {
    /// One event of one ticket, under its lock.
    pub(super) fn feed(&mut self, id: &Id, event: Event, mut answer: Option<Asker>) {
        let Some(post) = self.posts.get_mut(id) else { return };
        let Some(lock) = post.store.lock(Duration::ZERO) else {
            let unstopped = post.store.is_being_stopped(&self.boot_id);
            post.machine.blinded("the warden is at work on this ticket", unstopped);
            post.postpone(event);
            return;
        };
        let found = match post.look(&self.boot_id) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, ticket = %id, "the gate does not act on what it cannot read");
                post.machine.blinded(&format!("its record cannot be read: {error}"), false);
                post.postpone(event);
                return;
            }
        };
        let mut events: VecDeque<Event> = found.into();
        events.append(&mut post.pending);
        events.push_back(event);
        while let Some(event) = events.pop_front() {
            let Some(post) = self.posts.get_mut(id) else { return };
            let actions = post.machine.step(boot_ms(), event);
            // What follows comes before what waits.
            for event in self.perform(id, actions, &mut answer).into_iter().rev() {
                events.push_front(event);
            }
        }
        drop(lock);
    }

    /// Carries out actions in order. Where the record cannot be stored, only what makes things safer is done.
    fn perform(&mut self, id: &Id, actions: Vec<Action>, answer: &mut Option<Asker>) -> Vec<Event> {
        let mut stored = true;
        let mut follow = Vec::new();
        for action in actions {
            let Some(post) = self.posts.get_mut(id) else { break };
            match action {
                Action::Persist(record) => match post.store.write(&record) {
                    Ok(()) => {
                        post.machine.saved(&record);
                        // One that vanished meanwhile is missed at the next look.
                        post.version = post.store.version().or(WRITTEN);
                    }
                    Err(error) => {
                        tracing::error!(%error, ticket = %id, "the record cannot be stored; nothing is begun on it");
                        post.machine.not_stored(&error.to_string());
                        stored = false;
                        post.version = post.store.version();
                    }
                },
                Action::NoteDeadline { epoch, deadline } => {
                    let before = post.deadline.replace((epoch, deadline));
                    let fault = self.write_deadline(id).err().map(|error| error.to_string());
                    if let Some(post) = self.posts.get_mut(id).filter(|_| fault.is_some()) {
                        post.deadline = before;
                    }
                    follow.push(Event::DeadlineNoted { epoch, deadline, fault });
                }
                Action::ForgetDeadline => {
                    post.deadline = None;
                    if let Err(error) = post.store.forget_deadline(&self.boot_id) {
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
                Action::RunStop { epoch, holder } => {
                    // Where the warden does not hear that the gate stops by itself, it only stops as well.
                    let _ = self.write_deadline(id);
                    self.begin_stop(id, epoch, holder);
                }
                Action::SyncNow => self.sync_wanted = true,
                Action::AskPeers { epoch, nonce } => self.ask_peers(id, epoch, nonce),
                Action::AnswerPromise(verdict) => {
                    // Without storing there is no promise: the asker hears nothing.
                    if let Some(Asker::Gate(answer)) = answer.take().filter(|_| stored) {
                        tracing::info!(ticket = %id, epoch = %verdict.epoch, verdict = ?verdict.verdict, "asked for a promise");
                        // An asker that has gone away keeps what was promised: it only makes us wait.
                        let _ = answer.send(verdict);
                    }
                }
                Action::AnswerForce(outcome) => {
                    if let Some(Asker::Operator(answer)) = answer.take().filter(|_| stored) {
                        tracing::warn!(ticket = %id, ?outcome, "ordered by two operators");
                        // Whoever went away can ask again: the same order is answered the same.
                        let _ = answer.send(outcome);
                    }
                }
            }
        }
        follow
    }

    /// The warden knows what this gate knows, or why not.
    fn write_deadline(&mut self, id: &Id) -> io::Result<()> {
        let Some(post) = self.posts.get_mut(id) else { return Ok(()) };
        let Some((epoch, deadline)) = post.deadline else { return Ok(()) };
        let own = self.own.ok_or_else(|| io::Error::other("this process is not in /proc"));
        let written = own.and_then(|gate| {
            let (boot_id, ticket) = (self.boot_id.clone(), id.clone());
            let brief = Some(post.machine.record().brief());
            post.store.write_deadline(&DeadlineFile { boot_id, ticket, epoch, deadline, gate, step: post.step, brief })
        });
        if let Err(error) = &written {
            tracing::error!(%error, ticket = %id, "the warden cannot be told; what it knows is what counts");
        }
        written
    }

    /// Starts a step up to its gate, tells the warden, looks at the lease once more, lets go.
    fn begin_step(&mut self, id: &Id, order: StepOrder, deadline: Option<BootMs>) -> Result<(), (StepOutcome, String)> {
        let failed = |error: std::io::Error| (StepOutcome::Failed, format!("cannot be started: {error}"));
        let Some(post) = self.posts.get_mut(id) else { return Ok(()) };
        tracing::info!(ticket = %id, step = order.kind.as_str(), epoch = %order.epoch, key = %order.key, "step begins");
        let call = Call {
            key: order.key.clone(),
            step: order.kind.as_str(),
            epoch: order.epoch,
            holder: Some(order.holder),
            deadline,
            params: serde_json::to_string(&order.params).unwrap_or_else(|_| "{}".to_owned()),
        };
        let limit = post.config.step_timeout.get();
        let mut running = post.script.start(&call, limit).map_err(failed)?;
        post.run += 1;
        post.step = Some(running.mark());
        let run = post.run;
        let is_known = self.write_deadline(id).is_ok();
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
