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
//! | `requests` | identifiers to requests; what each error teaches |
//! | `session`, `judge` | socket, request numbers, time limits; which answer counts |
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
mod judge;
pub mod message;
mod readings;
mod requests;
mod session;
mod table;
pub mod usm;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::{BadReason, Value};

use crate::adjust::Adjust;
use crate::config::{DeviceConfig, SnmpLink};
use crate::decode::{Decoder, Raw, RegisterType};
use crate::derive::Reading;
use crate::oid::Oid;
use crate::profile::{Address, Protocol};
use crate::resolver::Resolver;
use crate::schedule::Outcome;
use crate::source::Polled;
use crate::source::device::{DeviceState, TableRow};

use counter::Track;
use message::{Got, Message};
use requests::Names;
pub use session::ReadError;
use session::{Channel, Session};
use table::{Walks, rows};

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
    /// Of the poll under way: what came for each variable, and when after its start.
    answers: Vec<Option<Got>>,
    offsets: Vec<i64>,
}

/// One object identifier that is read.
#[derive(Debug)]
struct Var {
    oid: Oid,
    /// The device answers whole requests with an error because of this one.
    refused: bool,
}

#[derive(Debug)]
struct Target {
    reading: usize,
    var: usize,
    /// Siblings by their variable, where there are any.
    adjust: Option<Box<Adjust<usize>>>,
    decoder: Arc<Decoder>,
}

/// A prepared message for some variables (indexes into the order of asking).
#[derive(Debug)]
struct Request {
    message: Message,
    vars: Vec<usize>,
    /// Their identifiers on the wire, one after the other.
    asked: Names,
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
            offsets: Vec::new(),
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

    /// The address is looked for with this, where it is a name.
    pub fn find_with(&mut self, resolver: &Resolver) {
        self.channel.resolver = resolver.clone();
    }

    /// Keeps the bytes of every point from now on.
    pub fn watch(&mut self) {
        self.watched = true;
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
            // Rare, and large: not a part of every poll.
            match Box::pin(self.discover(start, budget)).await {
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
        self.offsets.clear();
        self.offsets.resize(self.vars.len(), 0);
        if trouble.is_none() {
            match self.get_all(start, budget).await {
                Ok(last) => rtt = last,
                Err((error, answered)) => {
                    reason = reason_of(&error);
                    outcome = if answered { Outcome::Answered } else { outcome_of(&error) };
                    trouble = Some(chain(&error));
                }
            }
        }
        self.decode(start, reason);
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
