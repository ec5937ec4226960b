//! What is asked of a device in a poll: identifiers to prepared requests, and what each error teaches about them.
//!
//! Knows: variables, chunks, refusals. Refuses to know: what values mean, sockets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snmp2::snmp;

use super::session::{ReadError, Session, prepare};
use super::table::Row;
use super::walk::NO_SUCH_NAME;
use super::{Request, SYS_UPTIME, SnmpDevice, TOO_BIG, Target, Var};
use crate::oid::Oid;
use crate::plan::chunks;
use crate::profile::Address;

impl SnmpDevice {
    /// Points of the profile and of the table rows found, to variables and requests.
    pub(super) fn set_targets(&mut self, rows: &[Row]) {
        self.vars.clear();
        self.targets.clear();
        let config = Arc::clone(&self.state.config);
        for (reading, point) in config.profile.points.iter().enumerate() {
            if let Address::Oid(oid) = &point.address {
                let var = self.var(oid.clone());
                self.targets.push(Target { reading, var, adjust: None, decoder: Arc::clone(&point.decoder) });
            }
        }
        let first = self.state.fixed();
        for (i, row) in rows.iter().enumerate() {
            let var = self.var(row.oid.clone());
            let adjust = (!row.adjust.is_idle()).then(|| Box::new(row.adjust.map(|oid| self.var(oid.clone()))));
            self.targets.push(Target { reading: first + i, var, adjust, decoder: Arc::clone(&row.decoder) });
        }
        let counted: BTreeSet<Oid> =
            self.targets.iter().filter(|target| target.decoder.rate).map(|t| self.vars[t.var].oid.clone()).collect();
        self.uptime = if counted.is_empty() { None } else { SYS_UPTIME.parse().ok().map(|oid| self.var(oid)) };
        self.rates.retain(|oid, _| counted.contains(oid));
        self.build_requests();
    }

    /// The same identifier is asked for once, however many points use it.
    fn var(&mut self, oid: Oid) -> usize {
        if let Some(known) = self.vars.iter().position(|var| var.oid == oid) {
            return known;
        }
        self.vars.push(Var { oid, refused: false });
        self.vars.len() - 1
    }

    pub(super) fn build_requests(&mut self) {
        let asked: Vec<usize> = (0..self.vars.len()).filter(|i| !self.vars[*i].refused).collect();
        self.requests = chunks(asked.len(), self.max_oids)
            .into_iter()
            .map(|range| {
                let vars = asked[range].to_vec();
                let asked: Vec<Vec<u8>> = vars.iter().map(|i| self.vars[*i].oid.to_ber()).collect();
                let oids: Vec<&[u8]> = asked.iter().map(Vec::as_slice).collect();
                Request { message: prepare(&self.link, snmp::MSG_GET, &oids, 0, 0), vars, asked: Names::of(&oids) }
            })
            .collect();
    }

    /// All requests one after the other. On failure: why, and whether anything was answered before.
    pub(super) async fn get_all(
        &mut self,
        start: Instant,
        budget: Duration,
    ) -> Result<Option<Duration>, (ReadError, bool)> {
        let (mut index, mut rtt) = (0, None);
        let known_alive = self.discovered.is_some_and(|at| at >= start);
        // What was answered before the requests became other ones.
        let mut done = BTreeSet::new();
        while index < self.requests.len() {
            let left = budget.saturating_sub(start.elapsed());
            let Some(request) = self.requests.get(index) else { break };
            if left.is_zero() {
                return Err((ReadError::Timeout { tries: 0, timeout: budget }, rtt.is_some()));
            }
            if !done.is_empty() && request.vars.iter().all(|var| done.contains(var)) {
                index += 1;
                continue;
            }
            let asked = Instant::now();
            match self.get(index, left).await {
                Ok(()) => {
                    rtt = Some(asked.elapsed());
                    let offset = i64::try_from(start.elapsed().as_millis()).unwrap_or(0);
                    for var in &self.requests[index].vars {
                        self.offsets[*var] = offset;
                    }
                    index += 1;
                }
                Err(ReadError::Status { status, index: at }) => {
                    rtt = Some(asked.elapsed());
                    done.extend(self.vars_before(index));
                    if !self.learn(index, status, at) {
                        return Err((ReadError::Status { status, index: at }, true));
                    }
                    index = 0;
                }
                // It lives, but says nothing to this: some devices drop what is too big for them.
                Err(ReadError::Timeout { tries, timeout })
                    if (rtt.is_some() || known_alive) && asked.elapsed() >= timeout =>
                {
                    done.extend(self.vars_before(index));
                    if !self.learn(index, TOO_BIG, 0) {
                        return Err((ReadError::Timeout { tries, timeout }, rtt.is_some()));
                    }
                    tracing::debug!(device = %self.state.config.id, tries, "no answer to a big request");
                    index = 0;
                }
                Err(error) => return Err((error, rtt.is_some())),
            }
        }
        Ok(rtt)
    }

    /// Variables of the requests before this one.
    fn vars_before(&self, request: usize) -> impl Iterator<Item = usize> {
        self.requests.iter().take(request).flat_map(|request| request.vars.iter().copied())
    }

    /// Draws the lesson of an error status. False where there is none to draw.
    fn learn(&mut self, request: usize, status: u32, at: u32) -> bool {
        let Some(vars) = self.requests.get(request).map(|request| request.vars.clone()) else { return false };
        let blamed = at.checked_sub(1).and_then(|at| vars.get(at as usize)).copied();
        if status != TOO_BIG
            && let Some(blamed) = blamed.or_else(|| (vars.len() == 1).then(|| vars[0]))
        {
            tracing::debug!(device = %self.state.config.id, oid = %self.vars[blamed].oid, status, "refused by the device");
            self.vars[blamed].refused = true;
            // How version 1 says that a row is gone.
            let first_row = self.state.fixed();
            let in_row = |target: &Target| target.var == blamed && target.reading >= first_row;
            self.row_vanished |= status == NO_SUCH_NAME && self.targets.iter().any(in_row);
        } else if vars.len() > 1 {
            self.max_oids = (vars.len() / 2).max(1);
            tracing::debug!(device = %self.state.config.id, max_oids = self.max_oids, "smaller requests from now on");
        } else {
            return false;
        }
        self.build_requests();
        true
    }

    /// One request; what it is answered stands in `answers` then.
    async fn get(&mut self, request: usize, left: Duration) -> Result<(), ReadError> {
        let Some(request) = self.requests.get_mut(request) else { return Ok(()) };
        let Request { message, vars, asked } = request;
        let answers = &mut self.answers;
        let mut session = Session { link: &self.link, channel: &mut self.channel };
        session
            .exchange(message, left, |pdu| {
                vars.iter().for_each(|var| answers[*var] = None);
                for (position, (oid, value)) in pdu.varbinds.clone().enumerate() {
                    // In order is the rule; a device that reorders is still understood.
                    let place = if asked.get(position) == Some(oid) { Some(position) } else { asked.position(oid) };
                    if let Some(var) = place.and_then(|place| vars.get(place)) {
                        answers[*var] = Some(value);
                    }
                }
            })
            .await
    }
}

/// Identifiers as they are on the wire. They lie together, because every poll reads through them.
#[derive(Debug)]
pub(super) struct Names {
    bytes: Box<[u8]>,
    ends: Box<[usize]>,
}

impl Names {
    fn of(oids: &[&[u8]]) -> Names {
        let end = |end: &mut usize, oid: &&[u8]| {
            *end += oid.len();
            Some(*end)
        };
        Names { bytes: oids.concat().into(), ends: oids.iter().scan(0, end).collect() }
    }

    const fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..*self.ends.get(at)?)
    }

    fn position(&self, oid: &[u8]) -> Option<usize> {
        (0..self.len()).find(|at| self.get(*at) == Some(oid))
    }
}
