//! The driver as played: what it does with a machine's actions, and how programs end, in the order of
//! `agent/src/gate/driver.rs`.

use std::collections::VecDeque;

use bcp_agent::gate::machine::{Action, Event, FoundDeadline};
use bcp_agent::gate::record::BootMs;
use bcp_wire::Id;
use bcp_wire::control::{StepKind, StepOutcome};

use super::{Host, Note, Play, Running, STEP_MS};
use crate::bug::Bug;

impl Host {
    /// Programs end, the warden looks, the machine hears that time passed.
    pub fn advance(&mut self, play: &mut Play) {
        if !self.powered {
            return;
        }
        let tickets: Vec<Id> = self.posts.keys().cloned().collect();
        for id in &tickets {
            self.programs_end(id, play);
            if play.bug != Some(Bug::NoWarden) {
                self.warden_looks(id, play);
            }
            let roll = play.roll();
            self.feed(id, Event::Ticked { dice: roll }, None, play);
        }
    }

    fn programs_end(&mut self, id: &Id, play: &mut Play) {
        let now = play.now;
        let Some(post) = self.posts.get_mut(id) else { return };
        if let Some(step) = post.step.take_if(|step| step.ends <= now) {
            let outcome = post.force.get(&step.order.kind).copied().unwrap_or(StepOutcome::Done);
            if step.order.kind == StepKind::Promote && matches!(outcome, StepOutcome::Done | StepOutcome::Already) {
                post.running = Some(step.order.epoch);
                (post.copy.in_sync, post.copy.alone, post.copy.wants_alone) = (false, false, true);
                self.wish_ended(id);
            }
            let key = step.order.key.clone();
            play.wishes.notes.push(Note::Ended { ticket: id.clone(), order: step.order, outcome });
            self.feed(id, Event::StepEnded { key, outcome, detail: None, took_ms: STEP_MS }, None, play);
        }
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.stop.take_if(|ends| *ends <= now).is_some() {
            let verified = !post.force.contains_key(&StepKind::Stop);
            if verified && post.running.take().is_some() {
                play.wishes.notes.push(Note::ServiceStopped { ticket: id.clone() });
            }
            self.feed(id, Event::StopEnded { verified, detail: None }, None, play);
        }
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.warden.take_if(|ends| *ends <= now).is_some() {
            if post.running.take().is_some() {
                play.wishes.notes.push(Note::ServiceStopped { ticket: id.clone() });
            }
            let before = post.disk.clone();
            (post.disk.may_run, post.disk.promoted, post.file) = (false, None, None);
            post.disk.writes += 1;
            let after = Box::new(post.disk.clone());
            play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
        }
    }

    /// One event of one ticket, under its lock; `nonce` of the answer, where it is one.
    pub fn feed(&mut self, id: &Id, event: Event, nonce: Option<u64>, play: &mut Play) {
        let clock = self.clock(play.now);
        let Some(post) = self.posts.get_mut(id) else { return };
        if post.machine.is_none() {
            return;
        }
        if self.paused || post.warden.is_some() {
            // A paused process finds it all when it goes on; time and questions come anew.
            if !matches!(event, Event::Ticked { .. } | Event::PromiseAsked(_)) && post.pending.len() < 64 {
                post.pending.push_back((event, nonce));
            }
            return;
        }
        let mut events = std::mem::take(&mut post.pending);
        if let Some(machine) = &post.machine
            && post.version != post.disk.writes
        {
            post.version = post.disk.writes;
            if *machine.stored() != post.disk {
                events.push_front((Event::RecordFound(Box::new(post.disk.clone())), None));
            }
        }
        events.push_back((event, nonce));
        while let Some((event, nonce)) = events.pop_front() {
            let sent = match &event {
                Event::Answered { sent, .. } => *sent,
                _ => clock,
            };
            let Some(machine) = self.posts.get_mut(id).and_then(|post| post.machine.as_mut()) else { return };
            let actions = machine.step(clock, event);
            self.perform(id, actions, (nonce, sent), &mut events, play);
        }
    }

    fn perform(
        &mut self,
        id: &Id,
        actions: Vec<Action>,
        (nonce, sent): (Option<u64>, BootMs),
        follow: &mut VecDeque<(Event, Option<u64>)>,
        play: &mut Play,
    ) {
        let (now, clock) = (play.now, self.clock(play.now));
        let mut stored = true;
        for action in actions {
            let Some(post) = self.posts.get_mut(id) else { return };
            match action {
                Action::Persist(record) => {
                    let kept = !self.disk_full || play.bug == Some(Bug::UnstoredIsTold);
                    if let Some(machine) = post.machine.as_mut() {
                        if kept {
                            machine.saved(&record);
                        }
                        if self.disk_full {
                            machine.not_stored();
                        }
                    }
                    if self.disk_full {
                        stored = false;
                        continue;
                    }
                    let before = std::mem::replace(&mut post.disk, (*record).clone());
                    post.version = post.disk.writes;
                    if let Some(promise) = record.promise.filter(|promise| before.promise.as_ref() != Some(promise)) {
                        let (until, epoch) = (self.real_of(promise.until), promise.epoch);
                        play.wishes.notes.push(Note::Promised { ticket: id.clone(), epoch, until });
                    }
                    let after = Box::new(self.posts[id].disk.clone());
                    play.wishes.notes.push(Note::Stored { ticket: id.clone(), before: Box::new(before), after });
                }
                Action::NoteDeadline { epoch, deadline } => {
                    post.file = Some(FoundDeadline { epoch, deadline });
                    play.wishes.notes.push(Note::Extended { ticket: id.clone(), epoch, deadline, nonce, sent });
                }
                Action::ForgetDeadline => post.file = None,
                Action::NoteActive { .. } => {}
                Action::KillStep => {
                    if play.bug != Some(Bug::LossLeavesStep) {
                        post.step = None;
                    }
                }
                Action::RunStep { order, deadline } => {
                    let key = order.key.clone();
                    let ended = |outcome| Event::StepEnded { key, outcome, detail: None, took_ms: 0 };
                    if !stored {
                        follow.push_back((ended(StepOutcome::Failed), None));
                    } else if deadline.is_some_and(|deadline| clock >= deadline) {
                        follow.push_back((ended(StepOutcome::Rejected), None));
                    } else {
                        if order.kind == StepKind::Promote {
                            post.running = Some(order.epoch);
                        }
                        let by_chance = play.dice.as_mut().map_or(STEP_MS, |dice| 50 + dice.below(900));
                        let takes = self.step_takes_ms.unwrap_or(by_chance);
                        play.wishes.notes.push(Note::Began { ticket: id.clone(), order: order.clone() });
                        post.step = Some(Running { order, ends: now + takes });
                    }
                }
                Action::RunStop { .. } => {
                    let (file, lost) = (post.file, post.disk.may_run && post.running.is_some());
                    let ends = if lost { self.gate_stop_ends(file, play) } else { now };
                    if let Some(post) = self.posts.get_mut(id) {
                        post.stop = Some(ends);
                    }
                }
                Action::SyncNow => self.sync_now = true,
                Action::AskPeers { epoch, nonce } => play.wishes.asks.push((id.clone(), epoch, nonce)),
                Action::AnswerPromise(answer) if stored => play.wishes.promises.push(answer),
                Action::AnswerPromise(_) => {}
            }
        }
    }
}
