//! SNMP v2c: reads object identifiers of one device.
//!
//! Knows: requests and their numbers, time-outs, repetitions, what each error means, how rows of tables are found.
//! Refuses to know: what values mean.
//!
//! Invariants:
//! * an answer counts only with the number of the request that is waited for, the same community, and the identifiers
//!   that were asked for; anything else is thrown away;
//! * a walk ends at the end of the subtree, at an identifier that does not grow, and at its bound of rows;
//! * a request that the device calls too big is halved, and the size that works is remembered.
//!
//! The messages of a poll are always the same but for their number, so they are built once.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::names::lookup;
use bcp_wire::{BadReason, PointName, Value};
use snmp2::{MessageType, Pdu, asn1, snmp};
use tokio::net::{UdpSocket, lookup_host};

use crate::config::{DeviceConfig, SnmpLink};
use crate::decode::{Decoder, Raw, RegisterType};
use crate::oid::Oid;
use crate::plan::chunks;
use crate::profile::{Address, Protocol, Table, row_id};
use crate::schedule::Outcome;
use crate::source::Polled;
use crate::source::device::DeviceState;

/// Longest answer that is read; a longer one is cut by the socket, and asked again in halves.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Answers that are not the one waited for, per request: more is an attack or a broken device.
const MAX_STRAYS: u32 = 64;
/// Rows asked for at once while a table is walked.
const WALK_STEP: u32 = 20;
/// Tables are looked at again this often, and single refusals doubted.
const REDISCOVER_AFTER: Duration = Duration::from_secs(3_600);
/// A row that went away makes the tables be looked at again, but not more often than this.
const REDISCOVER_AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// Longest value that is kept, as the contract's longest text, with room for what is trimmed.
const MAX_VALUE_BYTES: usize = 2 * bcp_wire::MAX_TEXT_BYTES;
/// Request numbers always take four bytes on the wire, so that a prepared message can be renumbered in place.
const REQUEST_IDS: Range<u32> = 0x0100_0000..0x7FFF_FFFF;

/// Error status of RFC 3416 that are treated one by one.
const TOO_BIG: u32 = 1;
const AUTHORIZATION_ERROR: u32 = 16;

/// One device.
#[derive(Debug)]
pub struct SnmpDevice {
    pub state: DeviceState,
    link: SnmpLink,
    socket: Option<UdpSocket>,
    next_id: u32,
    max_oids: usize,
    vars: Vec<Var>,
    /// Readings: which variable, times which other one.
    targets: Vec<Target>,
    requests: Vec<Request>,
    discovered: Option<Instant>,
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
    times: Option<usize>,
    decoder: Decoder,
}

/// A prepared message for some variables (indexes into the order of asking).
#[derive(Debug)]
struct Request {
    message: Message,
    vars: Vec<usize>,
}

#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
    /// Where the four bytes of the number stand.
    id_at: usize,
}

/// A value of an answer.
#[derive(Debug, Clone, PartialEq)]
enum Got {
    Int(i64),
    Counter(u64),
    Bytes(Vec<u8>),
    Oid(Oid),
    /// noSuchObject, noSuchInstance, endOfMibView.
    Missing,
    /// A type that no point has.
    Other,
}

/// Why a request gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot reach {address}")]
    Connect {
        address: String,
        #[source]
        cause: io::Error,
    },
    #[error("refused by the device's host")]
    Refused,
    #[error("no answer to {tries} requests of {timeout:?} each")]
    Timeout { tries: u32, timeout: Duration },
    #[error("answer cannot be read: {0}")]
    Malformed(String),
    #[error("the device refuses our credentials")]
    Auth,
    #[error("error {status} at variable {index}")]
    Status { status: u32, index: u32 },
}

impl SnmpDevice {
    #[must_use]
    pub fn new(config: Arc<DeviceConfig>, link: SnmpLink) -> SnmpDevice {
        let max_oids = match config.profile.protocol {
            Protocol::Snmp { max_oids } => max_oids,
            Protocol::Modbus { .. } => 1,
        };
        let mut device = SnmpDevice {
            state: DeviceState::new(config),
            link,
            socket: None,
            next_id: rand::random_range(REQUEST_IDS),
            max_oids,
            vars: Vec::new(),
            targets: Vec::new(),
            requests: Vec::new(),
            discovered: None,
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
                self.targets.push(Target { reading, var, times: None, decoder: point.decoder.clone() });
            }
        }
        let first = self.state.fixed();
        for (i, row) in rows.iter().enumerate() {
            let var = self.var(row.oid.clone());
            let times = row.times.clone().map(|oid| self.var(oid));
            self.targets.push(Target { reading: first + i, var, times, decoder: row.decoder.clone() });
        }
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
                Request { message: message(&self.link.community, snmp::MSG_GET, &oids, 0, 0), vars }
            })
            .collect();
    }

    /// Polls everything once, at most for `budget`.
    pub async fn poll(&mut self, budget: Duration) -> Polled {
        let start = Instant::now();
        let budget = budget.max(self.link.timeout);
        let stale = self.discovered.is_some_and(|at| {
            at.elapsed() > REDISCOVER_AFTER || (self.row_vanished && at.elapsed() > REDISCOVER_AT_MOST_EVERY)
        });
        let (mut trouble, mut outcome) = (None, Outcome::Answered);
        if self.discovered.is_none() || stale {
            match self.discover(start, budget).await {
                Ok(()) => {
                    self.discovered = Some(Instant::now());
                    self.row_vanished = false;
                }
                Err(error) => (trouble, outcome) = (Some(chain(&error)), outcome_of(&error)),
            }
        }
        self.state.begin();
        let mut rtt = None;
        let mut reason = BadReason::Timeout;
        self.answers.clear();
        self.answers.resize(self.vars.len(), None);
        let mut offsets = vec![0_i64; self.vars.len()];
        if trouble.is_none() {
            match self.get_all(start, budget, &mut offsets).await {
                Ok(last) => rtt = last,
                Err((error, answered)) => {
                    if matches!(error, ReadError::Auth) {
                        reason = BadReason::Auth;
                    }
                    outcome = if answered { Outcome::Answered } else { outcome_of(&error) };
                    trouble = Some(chain(&error));
                }
            }
        }
        self.decode(&offsets, reason);
        if outcome != Outcome::Answered {
            // It may come back as another device: look at its tables and firmware again then.
            self.discovered = None;
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
        let mut session = Session { link: &self.link, socket: &mut self.socket, next_id: &mut self.next_id };
        session
            .exchange(&mut request.message, left, |pdu| {
                let mut values: Vec<Option<Got>> = vec![None; expected.len()];
                for (position, (oid, value)) in pdu.varbinds.clone().enumerate() {
                    // In order is the rule; a device that reorders is still understood.
                    let place = if expected.get(position).is_some_and(|want| *want == oid.as_bytes()) {
                        Some(position)
                    } else {
                        expected.iter().position(|want| *want == oid.as_bytes())
                    };
                    if let Some(slot) = place.and_then(|place| values.get_mut(place)) {
                        *slot = Some(got(&value));
                    }
                }
                values
            })
            .await
    }

    fn decode(&mut self, offsets: &[i64], reason: BadReason) {
        let number = |got: &Option<Got>| match got {
            #[allow(clippy::cast_precision_loss)] // as everywhere: numbers are doubles
            Some(Got::Int(n)) => Some(*n as f64),
            #[allow(clippy::cast_precision_loss)]
            Some(Got::Counter(n)) => Some(*n as f64),
            _ => None,
        };
        let first_row = self.state.fixed();
        for target in &self.targets {
            let (answer, offset) = (&self.answers[target.var], offsets[target.var]);
            if self.watched
                && let Some(answer) = answer
            {
                self.state.set_raw(target.reading, shown(answer));
            }
            let reading = match answer {
                None if self.vars[target.var].refused => Err(BadReason::Exception),
                None => Err(reason),
                Some(Got::Missing) => {
                    self.row_vanished |= target.reading >= first_row;
                    Err(BadReason::Exception)
                }
                Some(Got::Other) => Err(BadReason::Decode),
                Some(Got::Int(n)) => target.decoder.decode(Raw::Int(*n)),
                Some(Got::Counter(n)) => target.decoder.decode(Raw::Counter(*n)),
                Some(Got::Bytes(bytes)) => target.decoder.decode(Raw::Bytes(bytes)),
                Some(Got::Oid(oid)) => Value::text(&oid.to_string()).ok_or(BadReason::Decode),
            };
            let reading = match (target.times, reading) {
                (Some(times), Ok(Value::Num(value))) => number(&self.answers[times])
                    .ok_or(BadReason::Decode)
                    .and_then(|factor| Value::num(value * factor).ok_or(BadReason::Range)),
                (_, reading) => reading,
            };
            match reading {
                Ok(value) => self.state.set(target.reading, Some(Ok(value)), offset),
                Err(reason) => self.state.set_bad(target.reading, reason),
            }
        }
    }

    /// Reads the firmware's name, and finds the rows of every table.
    async fn discover(&mut self, start: Instant, budget: Duration) -> Result<(), ReadError> {
        let config = Arc::clone(&self.state.config);
        let Some(deadline) = start.checked_add(budget) else { return Ok(()) };
        let mut session = Session { link: &self.link, socket: &mut self.socket, next_id: &mut self.next_id };
        if let Some(Address::Oid(oid)) = config.profile.fingerprint.as_ref().map(|f| &f.address) {
            match session.get_few(std::slice::from_ref(oid), deadline).await {
                Ok(values) => {
                    let text = Decoder { kind: RegisterType::String, ..Decoder::default() };
                    if let Some(Some(Got::Bytes(bytes))) = values.first()
                        && let Ok(Value::Text(firmware)) = text.decode(Raw::Bytes(bytes))
                    {
                        self.state.set_firmware(firmware);
                    }
                }
                // Only silence means that the rest would be silent as well.
                Err(ReadError::Status { .. } | ReadError::Malformed(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if config.profile.tables.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::new();
        for table in &config.profile.tables {
            rows.extend(session.rows(table, deadline).await?);
        }
        self.state.set_rows(rows.iter().map(|row| (row.name.clone(), row.unit, row.oid.to_string(), row.optional)));
        self.set_targets(&rows);
        Ok(())
    }
}

fn outcome_of(error: &ReadError) -> Outcome {
    match error {
        ReadError::Timeout { .. } => Outcome::Silent,
        ReadError::Connect { .. } | ReadError::Refused => Outcome::Refused,
        ReadError::Malformed(_) | ReadError::Auth | ReadError::Status { .. } => Outcome::Answered,
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

/// One point of one row of a table.
#[derive(Debug)]
struct Row {
    name: PointName,
    unit: &'static str,
    oid: Oid,
    times: Option<Oid>,
    decoder: Decoder,
    optional: bool,
}

/// Socket and numbers of a device, borrowed for a while.
struct Session<'a> {
    link: &'a SnmpLink,
    socket: &'a mut Option<UdpSocket>,
    next_id: &'a mut u32,
}

impl Session<'_> {
    /// Sends a message until it is answered, and gives what `read` makes of the answer.
    async fn exchange<T>(
        &mut self,
        message: &mut Message,
        left: Duration,
        mut read: impl FnMut(&Pdu<'_>) -> T,
    ) -> Result<T, ReadError> {
        let start = Instant::now();
        let tries = u32::from(self.link.retries) + 1;
        for _ in 0..tries {
            let timeout = self.link.timeout.min(left.saturating_sub(start.elapsed()));
            if timeout.is_zero() {
                break;
            }
            let id = self.number();
            message.renumber(id);
            if self.socket.is_none() {
                *self.socket = Some(connect(&self.link.address).await?);
            }
            let Some(socket) = self.socket.as_ref() else { break };
            if let Err(error) = socket.send(&message.bytes).await {
                *self.socket = None;
                return Err(socket_error(&self.link.address, error));
            }
            let community = self.link.community.as_bytes();
            match tokio::time::timeout(timeout, answer(socket, id, community, &mut read)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => {
                    if matches!(error, ReadError::Connect { .. } | ReadError::Refused) {
                        *self.socket = None;
                    }
                    return Err(error);
                }
                Err(_) => {}
            }
        }
        Err(ReadError::Timeout { tries, timeout: self.link.timeout })
    }

    fn number(&mut self) -> u32 {
        let id = *self.next_id;
        *self.next_id = if id + 1 < REQUEST_IDS.end { id + 1 } else { REQUEST_IDS.start };
        id
    }

    /// Values of a few identifiers, in their order.
    async fn get_few(&mut self, oids: &[Oid], deadline: Instant) -> Result<Vec<Option<Got>>, ReadError> {
        let ber: Vec<Vec<u8>> = oids.iter().map(Oid::to_ber).collect();
        let slices: Vec<&[u8]> = ber.iter().map(Vec::as_slice).collect();
        let mut message = message(&self.link.community, snmp::MSG_GET, &slices, 0, 0);
        let left = deadline.saturating_duration_since(Instant::now());
        self.exchange(&mut message, left, |pdu| {
            let mut values = vec![None; oids.len()];
            for (oid, value) in pdu.varbinds.clone() {
                if let Some(place) = slices.iter().position(|want| *want == oid.as_bytes()) {
                    values[place] = Some(got(&value));
                }
            }
            values
        })
        .await
    }

    /// Everything below `column`: index and value, at most `most`.
    async fn walk(&mut self, column: &Oid, most: usize, deadline: Instant) -> Result<Vec<(Vec<u32>, Got)>, ReadError> {
        let mut found: Vec<(Vec<u32>, Got)> = Vec::new();
        let mut last = column.clone();
        loop {
            let ber = last.to_ber();
            let mut message = message(&self.link.community, snmp::MSG_GET_BULK, &[&ber], 0, WALK_STEP);
            let left = deadline.saturating_duration_since(Instant::now());
            let step: Vec<(Option<Oid>, Got)> = self
                .exchange(&mut message, left, |pdu| {
                    pdu.varbinds.clone().map(|(oid, value)| (Oid::from_ber(oid.as_bytes()), got(&value))).collect()
                })
                .await?;
            if step.is_empty() {
                return Ok(found);
            }
            for (oid, value) in step {
                let Some(oid) = oid.filter(|oid| *oid > last) else { return Ok(found) };
                let Some(index) = column.suffix_of(&oid) else { return Ok(found) };
                if value == Got::Missing || found.len() >= most {
                    return Ok(found);
                }
                found.push((index.to_vec(), value));
                last = oid;
            }
        }
    }

    /// The points of a table's rows.
    async fn rows(&mut self, table: &Table, deadline: Instant) -> Result<Vec<Row>, ReadError> {
        let mut indexes = self.walk(&table.walk, table.max_rows, deadline).await?;
        if let Some((column, wanted)) = &table.filter {
            let mut kept = Vec::new();
            for part in indexes.chunks(WALK_STEP as usize) {
                let oids: Vec<Oid> = part.iter().map(|(index, _)| column.below(index)).collect();
                let values = self.get_few(&oids, deadline).await?;
                let fits = |value: Option<Got>| value.is_some_and(|value| label(&value) == *wanted);
                kept.extend(
                    part.iter().cloned().zip(values).filter(|(_, value)| fits(value.clone())).map(|(row, _)| row),
                );
            }
            indexes = kept;
        }
        let mut taken = BTreeSet::new();
        let mut rows = Vec::new();
        for (index, value) in indexes {
            let (mark, id) = if table.labelled {
                ("{id}", row_id(&label(&value), &mut taken))
            } else {
                ("{n}", index.last().map(ToString::to_string).unwrap_or_default())
            };
            for point in &table.points {
                let Ok(name) = point.pattern.replace(mark, &id).parse::<PointName>() else { continue };
                let Some(definition) = lookup(&name) else { continue };
                rows.push(Row {
                    name,
                    unit: definition.unit,
                    oid: point.column.below(&index),
                    times: point.times.as_ref().map(|times| times.below(&index)),
                    decoder: point.decoder.clone(),
                    optional: point.optional,
                });
            }
        }
        Ok(rows)
    }
}

/// A value as the text that labels and filters compare.
fn label(value: &Got) -> String {
    match value {
        Got::Int(n) => n.to_string(),
        Got::Counter(n) => n.to_string(),
        Got::Bytes(bytes) => String::from_utf8_lossy(bytes).trim().to_owned(),
        Got::Oid(oid) => oid.to_string(),
        Got::Missing | Got::Other => String::new(),
    }
}

fn shown(value: &Got) -> String {
    match value {
        Got::Int(n) => format!("{n:#x}"),
        Got::Counter(n) => format!("{n:#x}"),
        Got::Bytes(bytes) => bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect(),
        Got::Oid(oid) => oid.to_string(),
        Got::Missing => "no such object".to_owned(),
        Got::Other => "?".to_owned(),
    }
}

async fn connect(address: &str) -> Result<UdpSocket, ReadError> {
    let failed = |cause| ReadError::Connect { address: address.to_owned(), cause };
    let target = lookup_host(address).await.map_err(failed)?.next();
    let target = target.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await.map_err(failed)?;
    // Connected: datagrams of other senders never arrive, and "port unreachable" does.
    socket.connect(target).await.map_err(failed)?;
    Ok(socket)
}

fn socket_error(address: &str, cause: io::Error) -> ReadError {
    if cause.kind() == io::ErrorKind::ConnectionRefused {
        ReadError::Refused
    } else {
        ReadError::Connect { address: address.to_owned(), cause }
    }
}

/// Waits for the answer with this number.
async fn answer<T>(
    socket: &UdpSocket,
    id: u32,
    community: &[u8],
    read: &mut impl FnMut(&Pdu<'_>) -> T,
) -> Result<T, ReadError> {
    let mut strays = 0;
    let mut malformed = None;
    while strays < MAX_STRAYS {
        socket.readable().await.map_err(|error| socket_error("the device", error))?;
        match receive(socket, id, community, read) {
            Ok(Received::Answer(result)) => return result,
            Ok(Received::Stray) => strays += 1,
            Ok(Received::Malformed(why)) => {
                strays += 1;
                malformed = Some(why);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(socket_error("the device", error)),
        }
    }
    Err(ReadError::Malformed(malformed.unwrap_or_else(|| "too many answers to other questions".to_owned())))
}

enum Received<T> {
    Answer(Result<T, ReadError>),
    /// Late, or not for us.
    Stray,
    Malformed(String),
}

fn receive<T>(
    socket: &UdpSocket,
    id: u32,
    community: &[u8],
    read: &mut impl FnMut(&Pdu<'_>) -> T,
) -> io::Result<Received<T>> {
    let mut buffer = [0_u8; MAX_ANSWER_BYTES];
    let length = socket.try_recv(&mut buffer)?;
    if length == MAX_ANSWER_BYTES {
        // Cut off, so its number cannot be trusted either; but only our own device writes to this socket.
        return Ok(Received::Answer(Err(ReadError::Status { status: TOO_BIG, index: 0 })));
    }
    let pdu = match Pdu::from_bytes(buffer.get(..length).unwrap_or_default()) {
        Ok(pdu) => pdu,
        Err(error) => return Ok(Received::Malformed(error.to_string())),
    };
    let ours =
        pdu.message_type == MessageType::Response && u32::try_from(pdu.req_id) == Ok(id) && pdu.community == community;
    Ok(match (ours, pdu.error_status) {
        (false, _) => Received::Stray,
        (true, 0) => Received::Answer(Ok(read(&pdu))),
        (true, AUTHORIZATION_ERROR) => Received::Answer(Err(ReadError::Auth)),
        (true, status) => Received::Answer(Err(ReadError::Status { status, index: pdu.error_index })),
    })
}

fn got(value: &snmp2::Value<'_>) -> Got {
    match value {
        snmp2::Value::Integer(n) => Got::Int(*n),
        snmp2::Value::Counter32(n) | snmp2::Value::Unsigned32(n) | snmp2::Value::Timeticks(n) => {
            Got::Int(i64::from(*n))
        }
        snmp2::Value::Counter64(n) => Got::Counter(*n),
        snmp2::Value::OctetString(bytes) => Got::Bytes(bytes.get(..MAX_VALUE_BYTES).unwrap_or(bytes).to_vec()),
        snmp2::Value::ObjectIdentifier(oid) => Oid::from_ber(oid.as_bytes()).map_or(Got::Other, Got::Oid),
        snmp2::Value::NoSuchObject | snmp2::Value::NoSuchInstance | snmp2::Value::EndOfMibView => Got::Missing,
        _ => Got::Other,
    }
}

/// A request for these identifiers, with a number to be filled in. `first` and `second` are error status and index of
/// a GET, non-repeaters and repetitions of a GETBULK.
fn message(community: &str, kind: u8, oids: &[&[u8]], first: u32, second: u32) -> Message {
    let varbinds: Vec<u8> = oids
        .iter()
        .flat_map(|oid| field(asn1::TYPE_SEQUENCE, &[&field(asn1::TYPE_OBJECTIDENTIFIER, &[oid]), &NULL]))
        .collect();
    let list = field(asn1::TYPE_SEQUENCE, &[&varbinds]);
    let id = field(asn1::TYPE_INTEGER, &[&REQUEST_IDS.start.to_be_bytes()]);
    let (first, second) = (integer(first), integer(second));
    let after_id = first.len() + second.len() + list.len();
    let pdu = field(kind, &[&id, &first, &second, &list]);
    let version = integer(snmp2::Version::V2C as u32);
    let community = field(asn1::TYPE_OCTETSTRING, &[community.as_bytes()]);
    let bytes = field(asn1::TYPE_SEQUENCE, &[&version, &community, &pdu]);
    let id_at = bytes.len().saturating_sub(after_id + 4);
    Message { bytes, id_at }
}

/// X.690: tag, length, contents.
fn field(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length: usize = contents.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(length + 6);
    bytes.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => bytes.push(short),
        _ => {
            let long = length.to_be_bytes();
            let used = long.len() - long.iter().take_while(|byte| **byte == 0).count();
            // At most the eight bytes of a length: it fits.
            bytes.push(0x80 | u8::try_from(used).unwrap_or(8));
            bytes.extend_from_slice(&long[long.len() - used..]);
        }
    }
    for part in contents {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A number that is not negative, in as few bytes as the rules allow.
fn integer(value: u32) -> Vec<u8> {
    let wide = u64::from(value).to_be_bytes();
    let skip = wide.iter().zip(&wide[1..]).take_while(|(byte, next)| **byte == 0 && **next < 0x80).count();
    field(asn1::TYPE_INTEGER, &[&wide[skip..]])
}

const NULL: [u8; 2] = [asn1::TYPE_NULL, 0];

impl Message {
    fn renumber(&mut self, id: u32) {
        if let Some(place) = self.bytes.get_mut(self.id_at..self.id_at + 4) {
            place.copy_from_slice(&id.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_can_be_renumbered_in_place() {
        let oids: Vec<Vec<u8>> =
            (0..60).map(|i| format!("1.3.6.1.4.1.2021.10.1.5.{i}").parse::<Oid>().unwrap().to_ber()).collect();
        for count in [0, 1, 9, 60] {
            let slices: Vec<&[u8]> = oids[..count].iter().map(Vec::as_slice).collect();
            let mut message = message("public", snmp::MSG_GET, &slices, 0, 0);
            for id in [REQUEST_IDS.start, 0x1234_5678, REQUEST_IDS.end - 1] {
                message.renumber(id);
                let pdu = Pdu::from_bytes(&message.bytes).unwrap();
                assert_eq!(u32::try_from(pdu.req_id), Ok(id));
                assert_eq!((pdu.community, pdu.error_status, pdu.error_index), (&b"public"[..], 0, 0));
                let read: Vec<Vec<u8>> = pdu.varbinds.map(|(oid, _)| oid.as_bytes().to_vec()).collect();
                assert_eq!(read, oids[..count]);
            }
        }
    }
}
