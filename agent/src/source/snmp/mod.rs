//! SNMP: reads object identifiers of one device.
//!
//! Knows: what a poll of a device consists of, what each error teaches. Refuses to know: what values mean.
//!
//! | module | knows |
//! |---|---|
//! | [`config`] | versions and credentials of a device |
//! | [`message`], [`frame`] | the bytes of requests and answers; of version 3 around them |
//! | [`usm`], [`engine`] | keys, signatures, encryption; the engine at the other end |
//! | [`counter`] | rates: a wrap told from a restart |
//! | [`identify`] | the system group, for discovery |
//! | `session` | socket, request numbers, time limits: which answer counts |
//! | `walk`, [`bulk`] | reading below an identifier until a guard ends it; how many rows at once |
//! | `table`, `readings` | rows and their names; what came, as readings |
//!
//! Invariants:
//! * an answer counts only with the number of the request that is waited for, the same community, and the identifiers
//!   that were asked for; anything else is thrown away;
//! * a walk ends at the end of the subtree, at an identifier that does not grow, and at its bound of rows;
//! * a request that the device calls too big is halved, and the size that works is remembered.
//!
//! The messages of a poll are always the same but for their number, so they are built once.

pub mod bulk;
pub mod config;
pub mod counter;
pub mod engine;
pub mod frame;
pub mod identify;
pub mod message;
mod readings;
mod session;
mod table;
pub mod usm;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::{BadReason, Value};
use snmp2::snmp;

use crate::adjust::Adjust;
use crate::config::{DeviceConfig, SnmpLink};
use crate::decode::{Decoder, Raw, RegisterType};
use crate::derive::Reading;
use crate::oid::Oid;
use crate::plan::chunks;
use crate::profile::{Address, Protocol};
use crate::schedule::Outcome;
use crate::source::Polled;
use crate::source::device::{DeviceState, TableRow};

use counter::Track;
use message::{Got, Message};
pub use session::ReadError;
use session::{Channel, Session, prepare};
use table::{Row, Walks, rows};
use walk::NO_SUCH_NAME;

/// Tables are looked at again this often, and single refusals doubted.
const REDISCOVER_AFTER: Duration = Duration::from_secs(3_600);
/// A row that went away makes the tables be looked at again, but not more often than this.
const REDISCOVER_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// A count of rows that changed makes them be looked at sooner, but a flapping one no more often than this.
const REDISCOVER_ON_CHANGE: Duration = Duration::from_secs(5);
/// Error status of RFC 3416 that is treated by itself.
const TOO_BIG: u32 = 1;
/// Time since the device started, in hundredths of a second.
const SYS_UPTIME: &str = "1.3.6.1.2.1.1.3.0";

/// One device.
#[derive(Debug)]
pub struct SnmpDevice {
    pub state: DeviceState,
    link: SnmpLink,
    channel: Channel,
    max_oids: usize,
    vars: Vec<Var>,
    /// Readings: which variable, and which others say its scale, unit or words.
    targets: Vec<Target>,
    requests: Vec<Request>,
    discovered: Option<Instant>,
    /// Columns seen while the tables are being looked at.
    walks: Walks,
    /// When sizes and refusals were last believed to be another matter than before.
    doubted: Instant,
    restarts: u64,
    /// What points said whose change calls for another look at the tables.
    heralds: Vec<Reading>,
    herald_changed: bool,
    /// Counters whose growth is read, and the uptime that tells a wrap from a restart.
    rates: BTreeMap<Oid, Track>,
    uptime: Option<usize>,
    row_vanished: bool,
    watched: bool,
    answers: Vec<Option<Got>>,
}

/// One object identifier that is read.
#[derive(Debug)]
struct Var {
    oid: Oid,
    ber: Vec<u8>,
    /// The device answers whole requests with an error because of this one.
    refused: bool,
}

#[derive(Debug)]
struct Target {
    reading: usize,
    var: usize,
    /// Siblings by their variable.
    adjust: Adjust<usize>,
    decoder: Decoder,
}

/// A prepared message for some variables (indexes into the order of asking).
#[derive(Debug)]
struct Request {
    message: Message,
    vars: Vec<usize>,
}

impl SnmpDevice {
    #[must_use]
    pub fn new(config: Arc<DeviceConfig>, link: SnmpLink) -> SnmpDevice {
        let max_oids = max_oids_of(&config);
        let mut device = SnmpDevice {
            state: DeviceState::new(config),
            link,
            channel: Channel::new(),
            max_oids,
            vars: Vec::new(),
            targets: Vec::new(),
            requests: Vec::new(),
            discovered: None,
            walks: Walks::default(),
            doubted: Instant::now(),
            restarts: 0,
            heralds: Vec::new(),
            herald_changed: false,
            rates: BTreeMap::new(),
            uptime: None,
            row_vanished: false,
            watched: false,
            answers: Vec::new(),
        };
        device.set_targets(&[]);
        device
    }

    #[must_use]
    pub fn planned(&self) -> usize {
        self.requests.len()
    }

    /// Identifiers of each request, for people.
    pub fn request_sizes(&self) -> impl Iterator<Item = usize> {
        self.requests.iter().map(|request| request.vars.len())
    }

    /// Identity of its engine, once it has proved it (version 3).
    #[must_use]
    pub fn engine_id(&self) -> Option<&[u8]> {
        self.channel.engine_id()
    }

    /// Keeps the bytes of every point from now on.
    pub fn watch(&mut self) {
        self.watched = true;
    }

    /// Points of the profile and of the table rows found, to variables and requests.
    fn set_targets(&mut self, rows: &[Row]) {
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

    fn build_requests(&mut self) {
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

    /// Polls everything once, at most for `budget`.
    pub async fn poll(&mut self, budget: Duration) -> Polled {
        let start = Instant::now();
        let budget = budget.max(self.link.timeout);
        let stale = self.discovered.is_some_and(|at| {
            at.elapsed() > REDISCOVER_AFTER
                || (self.row_vanished && at.elapsed() > REDISCOVER_AT_MOST_EVERY)
                || (self.herald_changed && at.elapsed() > REDISCOVER_ON_CHANGE)
        });
        let (mut trouble, mut outcome, mut reason) = (None, Outcome::Answered, BadReason::Timeout);
        if self.discovered.is_none() || stale {
            match self.discover(start, budget).await {
                Ok(true) => {
                    self.discovered = Some(Instant::now());
                    self.row_vanished = false;
                    self.herald_changed = false;
                }
                Ok(false) => tracing::debug!(device = %self.state.config.id, "its tables are still being walked"),
                Err(error) => {
                    (trouble, outcome) = (Some(chain(&error)), outcome_of(&error));
                    reason = reason_of(&error);
                }
            }
        }
        self.state.begin();
        let mut rtt = None;
        self.answers.clear();
        self.answers.resize(self.vars.len(), None);
        let mut offsets = vec![0_i64; self.vars.len()];
        if trouble.is_none() {
            match self.get_all(start, budget, &mut offsets).await {
                Ok(last) => rtt = last,
                Err((error, answered)) => {
                    reason = reason_of(&error);
                    outcome = if answered { Outcome::Answered } else { outcome_of(&error) };
                    trouble = Some(chain(&error));
                }
            }
        }
        self.decode(start, &offsets, reason);
        self.hear_heralds();
        let restarted = std::mem::replace(&mut self.restarts, self.channel.restarts) != self.channel.restarts;
        if outcome != Outcome::Answered || restarted {
            // It may be another device now: look at its tables and firmware again.
            self.discovered = None;
            self.walks = Walks::default();
        }
        Polled {
            outcome,
            samples: self.state.finish(),
            meta: self.state.changed_meta(),
            trouble,
            rtt,
            transition: None,
        }
    }

    /// All requests one after the other. On failure: why, and whether anything was answered before.
    async fn get_all(
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

    /// Notes that rows may have come or gone, as a count of them that has changed tells.
    fn hear_heralds(&mut self) {
        let config = Arc::clone(&self.state.config);
        let points = config.profile.tables.iter().filter_map(|table| table.again_when);
        let heard: Vec<Reading> = points.map(|point| self.state.reading(point)).collect();
        let told = |reading: &Reading| matches!(reading, Some(Ok(_)));
        let changed = |(before, now): (&Reading, &Reading)| told(before) && told(now) && before != now;
        self.herald_changed |= self.heralds.iter().zip(&heard).any(changed);
        self.heralds = heard;
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

    /// True while there are tables whose rows are not known yet.
    #[must_use]
    pub fn is_discovering(&self) -> bool {
        self.discovered.is_none() && self.walks.seen() > 0
    }

    /// Reads the firmware's name, and finds the rows of every table. False where the time was not enough: walking
    /// takes about half of it, and goes on in the next poll.
    async fn discover(&mut self, start: Instant, budget: Duration) -> Result<bool, ReadError> {
        let config = Arc::clone(&self.state.config);
        let Some(deadline) = start.checked_add(budget) else { return Ok(true) };
        if self.doubted.elapsed() > REDISCOVER_AFTER {
            self.doubted = Instant::now();
            self.max_oids = max_oids_of(&config);
            self.vars.iter_mut().for_each(|var| var.refused = false);
            self.build_requests();
        }
        let mut session = Session { link: &self.link, channel: &mut self.channel };
        // One small question first: whether it lives at all, and what its firmware is.
        let firmware = config.profile.fingerprint.as_ref().and_then(|fingerprint| match &fingerprint.address {
            Address::Oid(oid) => Some(oid.clone()),
            Address::Register { .. } => None,
        });
        let asked: Vec<Oid> = [SYS_UPTIME.parse().ok(), firmware].into_iter().flatten().collect();
        match session.get_few(&asked, deadline).await {
            Ok(values) => {
                let text = Decoder { kind: RegisterType::String, ..Decoder::default() };
                if let Some(Some(Got::Bytes(bytes))) = values.get(1)
                    && let Ok(Value::Text(firmware)) = text.decode(Raw::Bytes(bytes))
                {
                    self.state.set_firmware(firmware);
                }
            }
            // Only silence means that the rest would be silent as well.
            Err(ReadError::Status { .. }) => {}
            Err(error) => return Err(error),
        }
        let tables = &config.profile.tables;
        if tables.is_empty() {
            return Ok(true);
        }
        let before = self.walks.seen();
        match session.walk_tables(tables, &mut self.walks, start + budget / 2, deadline).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            // Cut short by its own share of the time, not by silence.
            Err(ReadError::Timeout { .. }) if self.walks.seen() > before && Instant::now() >= deadline => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        let rows = rows(tables, &std::mem::take(&mut self.walks));
        self.state.set_rows(rows.iter().map(|row| TableRow {
            name: row.name.clone(),
            pattern: row.pattern.clone(),
            unit: row.unit,
            source: row.oid.to_string(),
            optional: row.optional,
            publish: row.publish,
        }));
        self.set_targets(&rows);
        Ok(true)
    }
}

fn outcome_of(error: &ReadError) -> Outcome {
    match error {
        ReadError::Timeout { .. } => Outcome::Silent,
        ReadError::Connect { .. } | ReadError::Refused => Outcome::Refused,
        ReadError::Malformed(_) | ReadError::Auth(_) | ReadError::Status { .. } => Outcome::Answered,
    }
}

const fn reason_of(error: &ReadError) -> BadReason {
    match error {
        ReadError::Timeout { .. } | ReadError::Connect { .. } | ReadError::Refused => BadReason::Timeout,
        ReadError::Malformed(_) => BadReason::Decode,
        ReadError::Auth(_) => BadReason::Auth,
        ReadError::Status { .. } => BadReason::Exception,
    }
}

fn max_oids_of(config: &DeviceConfig) -> usize {
    match config.profile.protocol {
        Protocol::Snmp { max_oids } => max_oids,
        Protocol::Modbus { .. } => 1,
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
