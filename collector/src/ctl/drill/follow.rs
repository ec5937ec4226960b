//! A drill under way: its orders, and what came of them, until nothing of it is left to do.
//!
//! Knows: what to wait for, and for how long. Invariant: every wait has a limit, and whatever ends one early becomes the note
//! in the report.

use std::time::{Duration, Instant};

use bcp_core::drill::DrillKind;
use bcp_core::failover::{TicketCommand, TicketEvent, TicketView};
use bcp_core::ledger::LedgerEvent;
use bcp_core::replica::{CommandResult, CommandVerb, Replica};
use bcp_wire::control::Phase;
use bcp_wire::{Epoch, Id, Site};

use crate::ctl::server::{Server, StateAnswer};

/// A long poll: short enough to notice the limit of a wait.
const POLL_MS: u64 = 1_000;
/// The side that lost the ticket has everything again within this time, or the report says that it has not.
const PROTECTED_WITHIN: Duration = Duration::from_secs(120);
/// Collectors have a leader again within this time, or the drill is over.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);
/// A collector that does not answer is asked again until the limit of the wait.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is waited for.
enum Until {
    /// The lease of this epoch has run out.
    Free { epoch: Epoch },
    /// Nothing moves any more, under an epoch above this one.
    Settled { above: Epoch },
    /// The standby is latched in sync, and every gate has been heard: the other side could take over.
    Protected,
    /// Nothing stands in the way of an order.
    Movable { to: Site },
}

impl Until {
    fn holds(&self, view: &TicketView, replica: &Replica) -> bool {
        let is_still = view.stage.is_none() && view.phase == Phase::Held;
        match self {
            // Whoever was quicker, a move follows.
            Until::Free { epoch } => view.phase == Phase::Free || view.epoch > *epoch || view.stage.is_some(),
            Until::Settled { above } => is_still && view.epoch > *above,
            Until::Protected => {
                is_still && view.sync.peer_in_sync == Some(true) && view.gates.iter().all(|gate| gate.present)
            }
            Until::Movable { to } => is_still && replica.order_blocks(&view.id, *to).is_empty(),
        }
    }

    const fn what(&self) -> &'static str {
        match self {
            Until::Free { .. } => "the lease did not run out: do its gates know of drills?",
            Until::Settled { .. } => "the move did not end",
            Until::Protected => "the standby was not in sync again",
            Until::Movable { .. } => "it could not be moved back",
        }
    }
}

/// Why it went no further.
type Note = String;

pub(super) struct Follower<'a> {
    server: &'a Server,
    drill: String,
    ticket: Id,
    limit: Duration,
    /// Ledger entry that was shown last.
    shown: u64,
    changed_at: u64,
}

impl<'a> Follower<'a> {
    pub(super) const fn new(server: &'a Server, drill: String, ticket: Id, limit: Duration) -> Follower<'a> {
        Follower { server, drill, ticket, limit, shown: 0, changed_at: 0 }
    }

    /// Everything between the beginning and the end; the note, where it went no further. Ctrl-C undoes what can be undone.
    pub(super) async fn play(&mut self, kind: DrillKind, to: Site, back: bool, reason: &str) -> Option<Note> {
        let interrupted = tokio::select! {
            note = self.steps(kind, to, back, reason) => return note.err(),
            _ = tokio::signal::ctrl_c() => "its operator ended it".to_owned(),
        };
        let reason = format!("drill {}: {interrupted}", self.drill);
        let abort = TicketCommand::Abort { reason, expect: None };
        // Where nothing moves there is nothing to undo.
        let _ = self.order("abort", CommandVerb::Ticket { ticket: self.ticket.clone(), command: abort }).await;
        Some(interrupted)
    }

    async fn steps(&mut self, kind: DrillKind, to: Site, back: bool, reason: &str) -> Result<(), Note> {
        let view = self.look().await?;
        let (from, epoch) = (view.holder, view.epoch);
        if kind == DrillKind::Isolate {
            self.wait(Until::Free { epoch }, self.limit).await?;
        }
        self.order_move("out", to, reason).await?;
        let view = self.wait(Until::Settled { above: epoch }, self.limit).await?;
        if view.holder != Some(to) {
            let holder = view.holder.map_or_else(|| "nobody".to_owned(), |site| format!("site {site}"));
            return Err(format!("{holder} has it, and not site {to}"));
        }
        let protected = self.wait(Until::Protected, PROTECTED_WITHIN).await;
        let (true, Some(from)) = (back, from) else { return protected.map(|_| ()) };
        let view = self.wait(Until::Movable { to: from }, self.limit).await?;
        self.order_move("back", from, reason).await?;
        self.wait(Until::Settled { above: view.epoch }, self.limit).await?;
        self.wait(Until::Protected, PROTECTED_WITHIN).await?;
        Ok(())
    }

    /// The order that `bcpctl move` gives, compared with what is seen now. Where the rules were quicker, theirs counts.
    async fn order_move(&mut self, name: &str, to: Site, reason: &str) -> Result<(), Note> {
        let view = self.look().await?;
        if view.holder == Some(to) || view.stage.is_some() {
            return Ok(());
        }
        let reason = format!("drill {}: {reason}", self.drill);
        let command = TicketCommand::Move { to, reason, expect: Some((view.epoch, view.revision)) };
        let verb = CommandVerb::Ticket { ticket: self.ticket.clone(), command };
        let said = self.order(name, verb).await.map_err(|error| format!("the order got no answer: {error:#}"))?;
        if said.ok { Ok(()) } else { Err(format!("the order was refused: {}", said.message)) }
    }

    /// An order of this drill: its key says so, and its second copy does nothing, so it is given until there is an answer.
    pub(super) async fn order(&self, name: &str, verb: CommandVerb) -> anyhow::Result<CommandResult> {
        let began = Instant::now();
        loop {
            match self.server.order_keyed(format!("{}-{name}", self.drill), verb.clone(), true).await {
                Err(_) if began.elapsed() < ANSWERED_WITHIN => tokio::time::sleep(ASK_AGAIN_AFTER).await,
                answer => return answer,
            }
        }
    }

    async fn look(&mut self) -> Result<TicketView, Note> {
        let began = Instant::now();
        let answer: StateAnswer = loop {
            match self.server.state().await {
                Ok(answer) => break answer,
                Err(_) if began.elapsed() < ANSWERED_WITHIN => tokio::time::sleep(ASK_AGAIN_AFTER).await,
                Err(error) => return Err(format!("no collector answered: {error:#}")),
            }
        };
        self.tell(&answer.replica);
        view(&answer.replica, &self.ticket).ok_or_else(|| "its ticket is gone".to_owned())
    }

    async fn wait(&mut self, until: Until, limit: Duration) -> Result<TicketView, Note> {
        let (began, since) = (Instant::now(), self.shown);
        while began.elapsed() < limit {
            let Ok(answer) = self.server.state_after(self.changed_at, POLL_MS).await else {
                // The collector that was asked is starting, or hears no leader: the drill goes on without it.
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
                continue;
            };
            let replica = answer.replica;
            self.changed_at = replica.changed_at;
            self.tell(&replica);
            if replica.drills.running_named(&self.drill).is_none() && replica.ledger.seq >= self.shown {
                // An answer from before the drill's beginning, or somebody ended it.
                if replica.drills.past.iter().any(|past| past.drill == self.drill) {
                    return Err("it was ended by somebody else".to_owned());
                }
                continue;
            }
            if let Some(reason) = ended_early(&replica, &self.drill, since) {
                return Err(reason);
            }
            match view(&replica, &self.ticket) {
                Some(view) if until.holds(&view, &replica) => return Ok(view),
                Some(_) => {}
                None => return Err("its ticket is gone".to_owned()),
            }
        }
        Err(format!("{} within {} s", until.what(), limit.as_secs()))
    }

    /// Progress: every new entry of the drill.
    fn tell(&mut self, replica: &Replica) {
        let Some(running) = replica.drills.running_named(&self.drill) else { return };
        for entry in running.gathered.entries.iter().filter(|entry| entry.seq > self.shown) {
            let after_ms = entry.log_time.since(running.at);
            eprintln!("{:>8.3} s  {}", after_ms as f64 / 1e3, entry.text);
        }
        self.shown = running.gathered.entries.last().map_or(self.shown, |entry| self.shown.max(entry.seq));
    }
}

/// What ended a move without a new epoch in force, in an entry after this one.
fn ended_early(replica: &Replica, drill: &str, since: u64) -> Option<Note> {
    let entries = &replica.drills.running_named(drill)?.gathered.entries;
    entries.iter().filter(|entry| entry.seq > since).find_map(|entry| match &entry.what {
        LedgerEvent::Ticket {
            event: TicketEvent::DrainCancelled { reason, .. } | TicketEvent::MoveStuck { reason, .. },
        } => Some(reason.clone()),
        _ => None,
    })
}

fn view(replica: &Replica, id: &Id) -> Option<TicketView> {
    replica.ticket_views().into_iter().find(|view| view.id == *id)
}
