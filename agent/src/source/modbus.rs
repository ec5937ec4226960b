//! Modbus TCP: reads blocks, one at a time per address.
//!
//! Knows: the connection, time-outs, what each exception means. Refuses to know: what registers mean.
//!
//! Invariants:
//! * one request is under way per address at any time;
//! * after a time-out or a broken frame the connection is dropped, so a late answer reaches nobody;
//! * the number of registers of every answer is checked against the request before one is used.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::{BadReason, Value};
use tokio::net::TcpStream;
use tokio_modbus::client::{Client, Context, tcp};
use tokio_modbus::prelude::{Slave, SlaveContext};
use tokio_modbus::{Request, Response};

use crate::config::{DeviceConfig, ModbusLink};
use crate::decode::{Decoder, Raw, RegisterType};
use crate::plan::{Block, Item, Limits, ReadPlan, Refused, Space};
use crate::profile::{Address, Protocol};
use crate::schedule::Outcome;
use crate::source::Polled;
use crate::source::device::DeviceState;

/// What was learnt about holes is doubted after this long.
const RELEARN_AFTER: Duration = Duration::from_secs(600);
/// Wait after "busy" or "acknowledge" before the one repetition.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Most refused requests in one poll: log2 of the largest plan, with room for several holes. The rest waits.
const MAX_REFUSALS: u32 = 32;

/// One connection and the devices behind it.
#[derive(Debug)]
pub struct Bus {
    line: Line,
    units: Vec<Unit>,
}

#[derive(Debug)]
struct Unit {
    state: DeviceState,
    link: ModbusLink,
    pause: Duration,
    plan: ReadPlan,
    learnt_at: Option<Instant>,
    identified: bool,
    /// Bytes of each point are kept for people to see.
    watched: bool,
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("no connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("connection lost: {0}")]
    Lost(#[source] io::Error),
    #[error("answer of another request or form: {0}")]
    Mismatch(String),
    #[error("answer of {got} instead of {want} values")]
    Length { got: usize, want: u16 },
    #[error("exception {code} ({})", exception_text(*code))]
    Exception { code: u8 },
}

const fn exception_text(code: u8) -> &'static str {
    match code {
        1 => "function not supported",
        2 => "illegal address",
        3 => "illegal value",
        4 => "device failure",
        5 => "acknowledged, takes longer",
        6 => "busy",
        8 => "memory parity",
        10 => "gateway has no path",
        11 => "device behind the gateway does not answer",
        _ => "unknown",
    }
}

/// Registers or bits of one block.
#[derive(Debug)]
enum Data {
    Words(Vec<u16>),
    Bits(Vec<bool>),
}

/// The TCP connection, made when needed.
struct Line {
    address: String,
    context: Option<Context>,
    /// The connection has answered before: if it breaks now, it may merely have been idle for too long.
    proven: bool,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("address", &self.address).field("connected", &self.context.is_some()).finish()
    }
}

impl Line {
    async fn connect(&mut self, timeout: Duration) -> Result<(), ReadError> {
        let connect = TcpStream::connect(self.address.as_str());
        let stream = match tokio::time::timeout(timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(ReadError::Connect(error)),
            Err(_) => return Err(ReadError::ConnectTimeout(timeout)),
        };
        stream.set_nodelay(true).map_err(ReadError::Connect)?;
        self.context = Some(tcp::attach_slave(stream, Slave(0)));
        self.proven = false;
        Ok(())
    }

    /// One read. The connection survives it only if the answer was in order.
    async fn read(&mut self, unit: u8, block: &Block, timeout: Duration) -> Result<Data, ReadError> {
        let mut again = self.proven;
        loop {
            if self.context.is_none() {
                self.connect(timeout).await?;
            }
            match self.exchange(unit, block, timeout).await {
                Err(ReadError::Lost(_)) if again => again = false,
                other => return other,
            }
        }
    }

    async fn exchange(&mut self, unit: u8, block: &Block, timeout: Duration) -> Result<Data, ReadError> {
        // Taken out: a poll that is dropped half-way leaves no connection with an answer under way.
        let Some(mut context) = self.context.take() else {
            return Err(ReadError::Lost(io::ErrorKind::NotConnected.into()));
        };
        context.set_slave(Slave(unit));
        let (at, count) = (block.address, block.count);
        let request = match block.space {
            Space::Holding => Request::ReadHoldingRegisters(at, count),
            Space::Input => Request::ReadInputRegisters(at, count),
            Space::Coil => Request::ReadCoils(at, count),
            Space::Discrete => Request::ReadDiscreteInputs(at, count),
        };
        let answer = match tokio::time::timeout(timeout, context.call(request)).await {
            Err(_) => return Err(ReadError::Timeout(timeout)),
            Ok(Err(tokio_modbus::Error::Transport(error))) => return Err(broken(error)),
            Ok(Err(tokio_modbus::Error::Protocol(error))) => return Err(ReadError::Mismatch(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        let data = match (block.space, answer) {
            (_, Err(code)) => {
                self.keep(context);
                return Err(ReadError::Exception { code: u8::from(code) });
            }
            (Space::Holding, Ok(Response::ReadHoldingRegisters(words)))
            | (Space::Input, Ok(Response::ReadInputRegisters(words))) => {
                if words.len() != usize::from(count) {
                    return Err(ReadError::Length { got: words.len(), want: count });
                }
                Data::Words(words)
            }
            (Space::Coil, Ok(Response::ReadCoils(bits)))
            | (Space::Discrete, Ok(Response::ReadDiscreteInputs(bits))) => {
                // Bits come in whole bytes: up to seven more than were asked for.
                if bits.len() != usize::from(count).next_multiple_of(8) {
                    return Err(ReadError::Length { got: bits.len(), want: count });
                }
                Data::Bits(bits)
            }
            (_, Ok(_)) => return Err(ReadError::Mismatch("another function".to_owned())),
        };
        self.keep(context);
        Ok(data)
    }

    fn keep(&mut self, context: Context) {
        self.context = Some(context);
        self.proven = true;
    }
}

/// A frame that cannot be read is the device's fault, not the connection's.
fn broken(error: io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => ReadError::Mismatch(error.to_string()),
        // The library reports an orderly close as "no error".
        _ if error.raw_os_error() == Some(0) => ReadError::Lost(io::ErrorKind::UnexpectedEof.into()),
        _ => ReadError::Lost(error),
    }
}

/// The plan of a profile's points.
#[must_use]
pub fn plan(device: &DeviceConfig) -> ReadPlan {
    let (limits, _) = limits_of(device);
    let items = device.profile.points.iter().enumerate().filter_map(|(point, described)| match described.address {
        Address::Register { space, address, len } => Some(Item { space, address, len, point }),
        Address::Oid(_) => None,
    });
    ReadPlan::new(items.collect(), limits)
}

fn limits_of(device: &DeviceConfig) -> (Limits, Duration) {
    match device.profile.protocol {
        Protocol::Modbus { limits, pause } => (limits, pause),
        // The configuration refuses such a pair; an empty plan is what it would mean.
        Protocol::Snmp { .. } => (Limits { max_registers: 1, max_bits: 1, max_gap: 0 }, Duration::ZERO),
    }
}

impl Bus {
    #[must_use]
    pub fn new(address: String, devices: Vec<(Arc<DeviceConfig>, ModbusLink)>) -> Bus {
        let units = devices
            .into_iter()
            .map(|(device, link)| Unit {
                plan: plan(&device),
                pause: limits_of(&device).1,
                identified: device.profile.fingerprint.is_none(),
                state: DeviceState::new(device),
                link,
                learnt_at: None,
                watched: false,
            })
            .collect();
        Bus { line: Line { address, context: None, proven: false }, units }
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.line.address
    }

    /// Takes over the devices of `next`. Those that are configured as before keep their plan and what was learnt, and the
    /// connection stays.
    pub fn adopt(&mut self, next: Bus) {
        let mut before = std::mem::take(&mut self.units);
        let kept = |unit: Unit| match before.iter().position(|old| old.state.config == unit.state.config) {
            Some(at) => before.swap_remove(at),
            None => unit,
        };
        self.units = next.units.into_iter().map(kept).collect();
    }

    pub fn devices(&self) -> impl Iterator<Item = &DeviceState> {
        self.units.iter().map(|unit| &unit.state)
    }

    pub fn planned(&self) -> impl Iterator<Item = usize> {
        self.units.iter().map(|unit| unit.plan.blocks().len())
    }

    /// Keeps the bytes of every point from now on.
    pub fn watch(&mut self) {
        for unit in &mut self.units {
            unit.watched = true;
        }
    }

    /// Polls one device, at most for `budget`.
    pub async fn poll(&mut self, slot: usize, budget: Duration) -> Polled {
        match self.units.get_mut(slot) {
            Some(unit) => unit.poll(&mut self.line, budget).await,
            None => Polled {
                outcome: Outcome::Refused,
                samples: Vec::new(),
                meta: None,
                trouble: None,
                rtt: None,
                transition: None,
            },
        }
    }
}

/// How the walk over the blocks ended.
struct Walk {
    answered: bool,
    outcome_if_silent: Outcome,
    trouble: Option<String>,
    rtt: Option<Duration>,
}

impl Unit {
    async fn poll(&mut self, line: &mut Line, budget: Duration) -> Polled {
        let start = Instant::now();
        if self.learnt_at.is_some_and(|at| at.elapsed() > RELEARN_AFTER) {
            self.learnt_at = None;
            self.plan.forget();
        }
        self.state.begin();
        for item in self.plan.items() {
            self.state.set_bad(item.point, BadReason::Timeout);
        }
        let refused: Vec<usize> = self.plan.holes().collect();
        for point in refused {
            self.state.set_bad(point, BadReason::Exception);
        }
        let budget = budget.max(self.link.timeout);
        let walk = self.walk(line, start, budget).await;
        if walk.answered && !self.identified {
            self.identify(line).await;
        }
        let samples = self.state.finish();
        Polled {
            outcome: if walk.answered { Outcome::Answered } else { walk.outcome_if_silent },
            samples,
            meta: self.state.changed_meta(),
            trouble: walk.trouble,
            rtt: walk.rtt,
            transition: None,
        }
    }

    async fn walk(&mut self, line: &mut Line, start: Instant, budget: Duration) -> Walk {
        let mut walk = Walk { answered: false, outcome_if_silent: Outcome::Silent, trouble: None, rtt: None };
        let (mut index, mut refusals, mut repeated) = (0, 0, false);
        while let Some(block) = self.plan.blocks().get(index).cloned() {
            let Some(left) = budget.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                walk.trouble =
                    Some(format!("stopped after {budget:?}: {} requests are left", self.plan.blocks().len() - index));
                break;
            };
            if index > 0 && !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            let asked = Instant::now();
            let read =
                line.read(self.link.unit, &block, self.link.timeout.min(left.max(Duration::from_millis(1)))).await;
            let error = match read {
                Ok(data) => {
                    walk.answered = true;
                    walk.rtt = Some(asked.elapsed());
                    self.take(&block, &data, start);
                    index += 1;
                    repeated = false;
                    continue;
                }
                Err(error) => error,
            };
            if walk.trouble.is_none() {
                walk.trouble = Some(format!("{} {}+{}: {error}", block.space.as_str(), block.address, block.count));
            }
            match error {
                ReadError::Exception { code: 2 | 3 } => {
                    walk.answered = true;
                    self.learnt_at.get_or_insert_with(Instant::now);
                    if let Some(Refused::Hole { point }) = self.plan.refused(index) {
                        self.state.set_bad(point, BadReason::Exception);
                    }
                    refusals += 1;
                    if refusals > MAX_REFUSALS {
                        break;
                    }
                }
                ReadError::Exception { code: 5 | 6 } if !repeated => {
                    walk.answered = true;
                    repeated = true;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                ReadError::Exception { code: 10 | 11 } => {
                    // The gateway is well; the unit behind it is not.
                    walk.answered = false;
                    break;
                }
                ReadError::Exception { code } => {
                    walk.answered = true;
                    let reason = if code == 1 { BadReason::Config } else { BadReason::Exception };
                    self.block_is_bad(&block, reason);
                    index += 1;
                    repeated = false;
                }
                ReadError::Length { .. } | ReadError::Mismatch(_) => {
                    walk.answered = true;
                    self.block_is_bad(&block, BadReason::Decode);
                    index += 1;
                    repeated = false;
                }
                ReadError::Connect(_) | ReadError::Lost(_) => {
                    walk.outcome_if_silent = Outcome::Refused;
                    break;
                }
                ReadError::ConnectTimeout(_) | ReadError::Timeout(_) => break,
            }
        }
        walk
    }

    fn block_is_bad(&mut self, block: &Block, reason: BadReason) {
        for item in self.plan.items().get(block.items.clone()).unwrap_or_default() {
            self.state.set_bad(item.point, reason);
        }
    }

    /// Decodes the items of a block.
    fn take(&mut self, block: &Block, data: &Data, start: Instant) {
        let offset_ms = i64::try_from(start.elapsed().as_millis()).unwrap_or(0);
        let config = Arc::clone(&self.state.config);
        for item in self.plan.items().get(block.items.clone()).unwrap_or_default() {
            let Some(point) = config.profile.points.get(item.point) else { continue };
            let from = usize::from(item.address - block.address);
            let raw = match data {
                Data::Words(words) => words.get(from..from + usize::from(item.len)).map(Raw::Registers),
                Data::Bits(bits) => bits.get(from).copied().map(Raw::Bit),
            };
            if self.watched
                && let Some(raw) = raw
            {
                self.state.set_raw(item.point, hex(raw));
            }
            let reading = raw.map_or(Err(BadReason::Decode), |raw| point.decoder.decode(raw));
            self.state.set(item.point, Some(reading), offset_ms);
        }
    }

    /// Reads the firmware's name, once.
    async fn identify(&mut self, line: &mut Line) {
        self.identified = true;
        let Some(fingerprint) = &self.state.config.profile.fingerprint else { return };
        let Address::Register { space, address, len } = fingerprint.address else { return };
        let block = Block { space, address, count: len, items: 0..0 };
        if let Ok(Data::Words(words)) = line.read(self.link.unit, &block, self.link.timeout).await {
            let text = Decoder { kind: RegisterType::String, ..Decoder::default() };
            if let Ok(Value::Text(firmware)) = text.decode(Raw::Registers(&words)) {
                self.state.set_firmware(firmware);
            }
        }
    }
}

fn hex(raw: Raw<'_>) -> String {
    match raw {
        Raw::Registers(words) => words.iter().map(|word| format!("{word:04x}")).collect::<Vec<_>>().join(" "),
        Raw::Bit(bit) => u8::from(bit).to_string(),
        Raw::Int(_) | Raw::Counter(_) | Raw::Float(_) | Raw::Bytes(_) => String::new(),
    }
}
