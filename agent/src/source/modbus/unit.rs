//! One device on a bus: what a poll of it consists of.
//!
//! Knows: what each exception means, what was learnt about holes, when to look at the firmware again. Refuses to know:
//! connections, what registers mean.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::{BadReason, Value};

use super::config::ModbusLink;
use super::limits_of;
use super::line::{Asked, Data, Line, ReadError};
use super::plan;
use crate::config::DeviceConfig;
use crate::decode::{Decoder, Raw, RegisterType};
use crate::plan::{Block, ReadPlan, Refused};
use crate::profile::Address;
use crate::schedule::Outcome;
use crate::source::Polled;
use crate::source::device::DeviceState;

/// What was learnt about holes is doubted after this long.
const RELEARN_AFTER: Duration = Duration::from_secs(600);
/// The firmware is asked for again after this long, and whenever the device was away.
const IDENTIFY_EVERY: Duration = Duration::from_secs(3_600);
/// Wait after "busy" or "acknowledge" before the one repetition.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Most refused requests in one poll: log2 of the largest plan, with room for several holes. The rest waits.
const MAX_REFUSALS: u32 = 32;

/// One device and what is known about it.
#[derive(Debug)]
pub(super) struct Unit {
    pub state: DeviceState,
    link: ModbusLink,
    pause: Duration,
    plan: ReadPlan,
    learnt_at: Option<Instant>,
    /// When its firmware was last asked for, and there was an answer.
    identified: Option<Instant>,
    /// Bytes of each point are kept for people to see.
    watched: bool,
}

/// How the walk over the blocks ended.
struct Walk {
    answered: bool,
    outcome_if_silent: Outcome,
    trouble: Option<String>,
    rtt: Option<Duration>,
}

impl Unit {
    pub(super) fn new(device: Arc<DeviceConfig>, link: ModbusLink) -> Unit {
        Unit {
            plan: plan(&device),
            pause: limits_of(&device).1,
            state: DeviceState::new(device),
            link,
            learnt_at: None,
            identified: None,
            watched: false,
        }
    }

    pub(super) fn planned(&self) -> usize {
        self.plan.blocks().len()
    }

    pub(super) fn watch(&mut self) {
        self.watched = true;
    }

    pub(super) async fn poll(&mut self, line: &mut Line, budget: Duration) -> Polled {
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
        if !walk.answered {
            // When it is back it may be another one.
            self.identified = None;
        } else if self.identified.is_none_or(|at| at.elapsed() > IDENTIFY_EVERY) {
            Box::pin(self.identify(line, budget.saturating_sub(start.elapsed()))).await;
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
            let asked = Instant::now();
            let error = match line.read(self.asked(left), &block).await {
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
                ReadError::Length { .. } | ReadError::Mismatch(_) | ReadError::Garbled { .. } => {
                    walk.answered = true;
                    self.block_is_bad(&block, BadReason::Decode);
                    index += 1;
                    repeated = false;
                }
                ReadError::Connect(_) | ReadError::Port(_) | ReadError::Lost(_) => {
                    walk.outcome_if_silent = Outcome::Refused;
                    break;
                }
                ReadError::ConnectTimeout(_) | ReadError::Timeout(_) | ReadError::Behind => break,
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

    /// The unit's question, for which there is so much time left.
    fn asked(&self, left: Duration) -> Asked {
        let timeout = self.link.timeout.min(left.max(Duration::from_millis(1)));
        Asked { unit: self.link.unit, timeout, pause: self.pause }
    }

    /// Reads the firmware's name. Another firmware may have other holes.
    async fn identify(&mut self, line: &mut Line, left: Duration) {
        let Some(fingerprint) = &self.state.config.profile.fingerprint else { return };
        let Some(Address::Register { space, address, len }) = fingerprint.address.moved(self.link.shift) else {
            return;
        };
        let block = Block { space, address, count: len, items: 0..0 };
        match line.read(self.asked(left), &block).await {
            Ok(Data::Words(words)) => {
                let text = Decoder { kind: RegisterType::String, ..Decoder::default() };
                if let Ok(Value::Text(firmware)) = text.decode(Raw::Registers(&words)) {
                    if self.state.firmware.as_ref().is_some_and(|known| *known != firmware) {
                        self.learnt_at = None;
                        self.plan.forget();
                    }
                    self.state.set_firmware(firmware);
                }
            }
            Ok(Data::Bits(_)) | Err(ReadError::Exception { .. }) => {}
            // Asked again with the next poll.
            Err(_) => return,
        }
        self.identified = Some(Instant::now());
    }
}

fn hex(raw: Raw<'_>) -> String {
    match raw {
        Raw::Registers(words) => words.iter().map(|word| format!("{word:04x}")).collect::<Vec<_>>().join(" "),
        Raw::Bit(bit) => u8::from(bit).to_string(),
        Raw::Int(_) | Raw::Counter(_) | Raw::Float(_) | Raw::Bytes(_) => String::new(),
    }
}
