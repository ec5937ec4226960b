//! What goes wrong, is repaired, or is ordered: the hands that the model, the simulation and the stories have.

use bcp_core::failover::TicketCommand;
use bcp_core::replica::{CommandVerb, Item, OperatorCommand};
use bcp_wire::Site;

use super::log::ELECT_MS;
use super::{World, at, id, rx};
use crate::host::{Host, Play};

impl World {
    #[must_use]
    pub fn reaches(&self, from: Site, to: Site) -> bool {
        from == to || !self.cut[at(from)][at(to)]
    }
    pub(super) fn both_ways(&self, one: Site, other: Site) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }
    pub fn cut(&mut self, one: Site, other: Site) {
        (self.cut[at(one)][at(other)], self.cut[at(other)][at(one)]) = (true, true);
    }
    pub fn cut_one_way(&mut self, from: Site, to: Site) {
        self.cut[at(from)][at(to)] = true;
    }
    pub fn isolate(&mut self, site: Site) {
        for other in site.others() {
            self.cut(site, other);
        }
    }
    pub fn heal(&mut self) {
        self.cut = [[false; 3]; 3];
    }
    /// A site's machines have power.
    #[must_use]
    pub fn powered(&self, site: Site) -> bool {
        self.hosts.iter().find(|host| host.site == site).is_none_or(|host| host.powered)
    }
    /// A site's machines stand still.
    #[must_use]
    pub fn frozen(&self, site: Site) -> bool {
        self.hosts.iter().any(|host| host.site == site && host.is_frozen())
    }
    #[must_use]
    pub fn decides(&self, site: Site) -> bool {
        let decider = &self.deciders[at(site)];
        decider.up && !decider.frozen && self.powered(site)
    }
    pub fn stop_decider(&mut self, site: Site) {
        self.deciders[at(site)].up = false;
    }
    pub fn start_decider(&mut self, site: Site) {
        if !self.deciders[at(site)].up {
            self.listens_anew(site, true);
        }
    }
    fn listens_anew(&mut self, site: Site, new_session: bool) {
        self.sessions += u64::from(new_session);
        let (now, session) = (self.now(), self.sessions);
        let decider = &mut self.deciders[at(site)];
        (decider.up, decider.frozen, decider.started, decider.heard) = (true, false, now, [now; 3]);
        if new_session {
            decider.session = session;
            if let Some(servers) = &mut self.servers {
                servers.forget(site);
            }
        }
    }
    pub fn freeze_decider(&mut self, site: Site) {
        self.deciders[at(site)].frozen = true;
    }
    pub fn thaw_decider(&mut self, site: Site) {
        if self.deciders[at(site)].frozen {
            self.listens_anew(site, false);
        }
    }
    /// The leader is deposed; its last proposal is lost.
    pub fn change_leader(&mut self) {
        self.leader = None;
        self.inbox.clear();
        self.no_leader_since = Some(self.now().saturating_sub(ELECT_MS));
    }
    pub fn each_host(&mut self, site: Site, mut act: impl FnMut(&mut Host, &mut Play)) {
        for n in 0..self.hosts.len() {
            if self.hosts[n].site == site {
                act(&mut self.hosts[n], &mut self.play);
                self.judge_notes(n);
            }
        }
    }
    pub fn power_off(&mut self, site: Site) {
        self.stop_decider(site);
        let running = self.active(&rx()).contains(&site);
        self.each_host(site, |host, _| host.power_off());
        self.stops += u64::from(running);
    }
    pub fn power_on(&mut self, site: Site) {
        self.each_host(site, |host, play| host.power_on(play));
        self.start_decider(site);
    }
    /// All of a site's machines stand still: a host whose guests are moved or paused.
    pub fn freeze_machine(&mut self, site: Site) {
        let now = self.now();
        self.freeze_decider(site);
        self.each_host(site, |host, _| host.freeze(now));
    }
    pub fn thaw_machine(&mut self, site: Site, clock_stood: bool) {
        let now = self.now();
        self.thaw_decider(site);
        self.each_host(site, |host, _| host.thaw(now, clock_stood));
    }
    /// From here on an actuator outside of all machines takes nothing of an epoch below the highest it was told.
    pub fn has_outside_actuator(&mut self) {
        let known = self.replica.failover.tickets.iter().map(|(id, ticket)| (id.clone(), ticket.epoch));
        self.outside = Some(known.collect());
    }
    pub fn kill_agents(&mut self, site: Site) {
        self.each_host(site, |host, _| host.kill_agent());
    }
    pub fn start_agents(&mut self, site: Site) {
        self.each_host(site, |host, play| host.start_agent(play));
    }
    pub fn pause_agents(&mut self, site: Site, paused: bool) {
        self.each_host(site, |host, _| host.paused = paused);
    }

    pub fn command(&mut self, ticket: &str, command: TicketCommand) -> String {
        self.command_by("op-1", ticket, command)
    }
    pub fn command_by(&mut self, operator: &str, ticket: &str, command: TicketCommand) -> String {
        self.commands += 1;
        let key = format!("key-{}", self.commands);
        let verb = CommandVerb::Ticket { ticket: id(ticket), command };
        let command = OperatorCommand { key: key.clone(), operator: operator.to_owned(), verb };
        self.inbox.push((self.now(), Item::Command(command)));
        key
    }

    /// Something reaches the leader once more, or late.
    pub fn propose(&mut self, item: Item) {
        self.inbox.push((self.now(), item));
    }
}
