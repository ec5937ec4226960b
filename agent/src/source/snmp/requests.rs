//! What is asked of a device in a poll: identifiers to prepared requests, and what each error teaches about them.
//!
//! Knows: variables, chunks, refusals. Refuses to know: what values mean, sockets.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snmp2::snmp;

use super::message::Got;
use super::session::{ReadError, Session, prepare};
use super::table::Row;
use super::walk::NO_SUCH_NAME;
use super::{Request, SYS_UPTIME, SnmpDevice, TOO_BIG, Target, Var};
use crate::adjust::Adjust;
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
                let adjust = Adjust::default();
                self.targets.push(Target { reading, var, adjust, decoder: point.decoder.clone() });
            }
        }
        let first = self.state.fixed();
        for (i, row) in rows.iter().enumerate() {
            let var = self.var(row.oid.clone());
            let adjust = row.adjust.map(|oid| self.var(oid.clone()));
            self.targets.push(Target { reading: first + i, var, adjust, decoder: row.decoder.clone() });
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
        self.vars.push(Var { ber: oid.to_ber(), oid, refused: false });
        self.vars.len() - 1
    }

    pub(super) fn build_requests(&mut self) {
        let asked: Vec<usize> = (0..self.vars.len()).filter(|i| !self.vars[*i].refused).collect();
        self.requests = chunks(asked.len(), self.max_oids)
            .into_iter()
            .map(|range| {
                let vars = asked[range].to_vec();
                let oids: Vec<&[u8]> = vars.iter().map(|i| self.vars[*i].ber.as_slice()).collect();
                Request { message: prepare(&self.link, snmp::MSG_GET, &oids, 0, 0), vars }
            })
            .collect();
    }

    /// All requests one after the other. On failure: why, and whether anything was answered before.
    pub(super) async fn get_all(
        &mut self,
        start: Instant,
        budget: Duration,
        offsets: &mut [i64],
    ) -> Result<Option<Duration>, (ReadError, bool)> {
        let (mut index, mut rtt) = (0, None);
        let known_alive = self.discovered.is_some_and(|at| at >= start);
        let mut done: BTreeSet<usize> = BTreeSet::new();
        while index < self.requests.len() {
            let left = budget.saturating_sub(start.elapsed());
            let Some(request) = self.requests.get(index) else { break };
            if left.is_zero() {
                return Err((ReadError::Timeout { tries: 0, timeout: budget }, rtt.is_some()));
            }
            if request.vars.iter().all(|var| done.contains(var)) {
                index += 1;
                continue;
            }
            let asked = Instant::now();
            match self.get(index, left).await {
                Ok(values) => {
                    rtt = Some(asked.elapsed());
                    let offset = i64::try_from(start.elapsed().as_millis()).unwrap_or(0);
                    let vars = self.requests.get(index).map(|request| request.vars.clone()).unwrap_or_default();
                    for (var, got) in vars.into_iter().zip(values) {
                        self.answers[var] = got;
                        offsets[var] = offset;
                        done.insert(var);
                    }
                    index += 1;
                }
                Err(ReadError::Status { status, index: at }) => {
                    rtt = Some(asked.elapsed());
                    if !self.learn(index, status, at) {
                        return Err((ReadError::Status { status, index: at }, true));
                    }
                    index = 0;
                }
                // It lives, but says nothing to this: some devices drop what is too big for them.
                Err(ReadError::Timeout { tries, timeout })
                    if (rtt.is_some() || known_alive)
                        && asked.elapsed() >= timeout
                        && self.learn(index, TOO_BIG, 0) =>
                {
                    tracing::debug!(device = %self.state.config.id, tries, "no answer to a big request");
                    index = 0;
                }
                Err(error) => return Err((error, rtt.is_some())),
            }
        }
        Ok(rtt)
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

    async fn get(&mut self, request: usize, left: Duration) -> Result<Vec<Option<Got>>, ReadError> {
        let Some(request) = self.requests.get_mut(request) else { return Ok(Vec::new()) };
        let expected: Vec<&[u8]> = request.vars.iter().map(|var| self.vars[*var].ber.as_slice()).collect();
        let mut session = Session { link: &self.link, channel: &mut self.channel };
        session
            .exchange(&mut request.message, left, |pdu| {
                let mut values: Vec<Option<Got>> = vec![None; expected.len()];
                for (position, (oid, value)) in pdu.varbinds.clone().enumerate() {
                    // In order is the rule; a device that reorders is still understood.
                    let place = if expected.get(position).is_some_and(|want| *want == oid) {
                        Some(position)
                    } else {
                        expected.iter().position(|want| *want == oid)
                    };
                    if let Some(slot) = place.and_then(|place| values.get_mut(place)) {
                        *slot = Some(value);
                    }
                }
                values
            })
            .await
    }
}
