//! Whose notification it is, whether it is to be believed, and what it means. No sockets, no waiting.
//!
//! Knows: addresses and credentials of devices, the profile's names of traps. Refuses to know: where events go.
//!
//! Invariants: nothing is believed without the community or a right signature of a known device; a notification that
//! could be of several devices is attributed to none; what a trap says is never a reading.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_wire::Id;
use bcp_wire::envelope::EventKind;
use snmp2::snmp;

use super::authority::{Authority, Heard};
use super::config::TrapsConfig;
use super::limit::Limit;
use super::notification::Notification;
use crate::config::{DeviceConfig, Link};
use crate::source::snmp::config::Access;
use crate::source::snmp::frame::{self, FLAG_AUTH, FLAG_PRIVACY, FLAG_REPORTABLE, Frame, Letter, Stamp};
use crate::source::snmp::message::{self, Body, field, integer};
use crate::source::snmp::usm::{Keys, User};

/// Engines whose newest message is remembered.
const MAX_ENGINES: usize = 4_096;
/// Informs that are remembered, and for how long: senders repeat after some seconds.
const MAX_INFORMS: usize = 256;
const REPEATS_WITHIN: Duration = Duration::from_secs(30);
/// Largest message that is understood.
const MAX_MESSAGE_SIZE: u32 = 16 * 1024;
/// Counters of usmStats (RFC 3414) in our reports.
const NOT_IN_TIME_WINDOW: u32 = 2;
const UNKNOWN_USER: u32 = 3;
const UNKNOWN_ENGINE: u32 = 4;
const WRONG_DIGEST: u32 = 5;
const DECRYPTION_ERROR: u32 = 6;
const USM_STATS: &[u32] = &[1, 3, 6, 1, 6, 3, 15, 1, 1];

/// What became of a datagram; the set is what `status` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Of a known device, with a name in its profile.
    Named,
    /// Of a known device; its profile has no name for it.
    Unnamed,
    /// No device has this address.
    UnknownSender,
    /// Several devices have this address and credentials.
    Ambiguous,
    /// Wrong community, unknown user, wrong key.
    Refused,
    /// An old message once more.
    Replayed,
    /// An inform once more, because its sender missed our answer.
    Repeated,
    /// Engines getting to know each other (version 3).
    Handshake,
    Malformed,
    /// More than a sender may send.
    TooMany,
}

/// What is to be done about a datagram.
#[derive(Debug)]
pub struct Handled {
    pub verdict: Verdict,
    pub oid: Option<String>,
    /// To be sent back, once the event is on its way.
    pub reply: Option<Vec<u8>>,
    pub event: Option<(Id, EventKind)>,
    /// To be polled now: a trap says that something changed, a reading says what.
    pub poll: Vec<Id>,
}

impl Handled {
    fn only(verdict: Verdict) -> Handled {
        Handled { verdict, oid: None, reply: None, event: None, poll: Vec::new() }
    }

    fn with_reply(verdict: Verdict, reply: Option<Vec<u8>>) -> Handled {
        Handled { reply, ..Handled::only(verdict) }
    }
}

/// A device that may send.
#[derive(Debug, Clone)]
struct Sender {
    config: Arc<DeviceConfig>,
    access: Access,
    addresses: Vec<IpAddr>,
}

/// Decides about every datagram.
#[derive(Debug)]
pub struct Desk {
    communities: Vec<String>,
    limit: Limit,
    senders: Vec<Sender>,
    authority: Authority,
    heard: HashMap<Vec<u8>, Heard>,
    /// Informs of the last seconds: sender and number.
    informs: VecDeque<(IpAddr, i64, Instant)>,
    salt: u64,
}

impl Desk {
    #[must_use]
    pub fn new(config: &TrapsConfig, devices: &[Arc<DeviceConfig>], authority: Authority) -> Desk {
        let mut desk = Desk {
            communities: config.communities.clone(),
            limit: Limit::new(config.per_second, Instant::now()),
            senders: Vec::new(),
            authority,
            heard: HashMap::new(),
            informs: VecDeque::new(),
            salt: rand::random(),
        };
        desk.set_devices(devices);
        desk
    }

    /// Replaces the devices. Their addresses are to be set again.
    pub fn set_devices(&mut self, devices: &[Arc<DeviceConfig>]) {
        let snmp = devices.iter().filter_map(|config| match &config.link {
            Link::Snmp(link) => {
                let literal =
                    link.address.rsplit_once(':').and_then(|(host, _)| host.trim_matches(['[', ']']).parse().ok());
                Some(Sender {
                    config: Arc::clone(config),
                    access: link.access.clone(),
                    addresses: literal.into_iter().collect(),
                })
            }
            Link::Modbus(_) => None,
        });
        self.senders = snmp.collect();
    }

    /// Devices whose address is a name, and that name.
    pub fn named_hosts(&self) -> Vec<(Id, String)> {
        let link = |sender: &Sender| match &sender.config.link {
            Link::Snmp(link) => link.address.clone(),
            Link::Modbus(link) => link.address.clone(),
        };
        let literal = |address: &str| address.parse::<SocketAddr>().is_ok();
        self.senders
            .iter()
            .map(|sender| (sender.config.id.clone(), link(sender)))
            .filter(|(_, address)| !literal(address))
            .collect()
    }

    pub fn set_addresses(&mut self, device: &Id, addresses: Vec<IpAddr>) {
        if let Some(sender) = self.senders.iter_mut().find(|sender| sender.config.id == *device) {
            sender.addresses = addresses;
        }
    }

    /// Decides about one datagram.
    pub fn receive(&mut self, bytes: &[u8], from: SocketAddr, now: Instant) -> Handled {
        let ip = from.ip().to_canonical();
        if !self.limit.allows(ip, now) {
            return Handled::only(Verdict::TooMany);
        }
        match message::version(bytes) {
            Ok(message::V1 | message::V2C) => self.community(bytes, ip, now),
            Ok(message::V3) => self.version_3(bytes, ip, now),
            Ok(_) | Err(_) => Handled::only(Verdict::Malformed),
        }
    }

    fn at(&self, ip: IpAddr) -> Vec<Sender> {
        self.senders.iter().filter(|sender| sender.addresses.contains(&ip)).cloned().collect()
    }

    fn community(&mut self, bytes: &[u8], ip: IpAddr, now: Instant) -> Handled {
        let Ok(message) = message::read_community(bytes) else { return Handled::only(Verdict::Malformed) };
        let (notification, inform, sender) = match &message.body {
            Body::TrapV1(trap) => (Notification::of_v1(trap), None, trap.agent.map(IpAddr::from)),
            Body::Pdu(pdu) if matches!(pdu.kind, snmp::MSG_TRAP | snmp::MSG_INFORM) => {
                (Notification::of_pdu(pdu), (pdu.kind == snmp::MSG_INFORM).then_some(pdu), None)
            }
            Body::Pdu(_) => return Handled::only(Verdict::Malformed),
        };
        let Some(notification) = notification else { return Handled::only(Verdict::Malformed) };
        let mut candidates = self.at(ip);
        if candidates.is_empty() {
            // A trap of version 1 that somebody passed on still names its sender.
            candidates = sender.map(|ip| self.at(ip)).unwrap_or_default();
        }
        if candidates.is_empty() {
            return Handled { oid: Some(notification.oid.to_string()), ..Handled::only(Verdict::UnknownSender) };
        }
        let shared = self.communities.iter().any(|known| known.as_bytes() == message.community);
        let own = |sender: &Sender| match &sender.access {
            Access::V1 { community } | Access::V2c { community } => community.as_bytes() == message.community,
            Access::V3(_) => false,
        };
        if candidates.iter().any(own) {
            candidates.retain(own);
        } else if !shared {
            return Handled::only(Verdict::Refused);
        }
        let Some(pdu) = inform else { return accept(candidates, &notification) };
        let reply = {
            let version = integer(u32::try_from(message.version).unwrap_or(1));
            let answer = message::response(pdu.id, &pdu.varbinds.to_bytes());
            field(0x30, &[&version, &field(4, &[message.community]), &answer])
        };
        self.informed(ip, pdu.id, Some(reply), now, || accept(candidates, &notification))
    }

    fn version_3(&mut self, bytes: &[u8], ip: IpAddr, now: Instant) -> Handled {
        let Ok(frame) = frame::open(bytes) else { return Handled::only(Verdict::Malformed) };
        let candidates = self.at(ip);
        if candidates.is_empty() {
            return Handled::only(Verdict::UnknownSender);
        }
        let ours = frame.engine == self.authority.id;
        if !ours && frame.flags & FLAG_REPORTABLE != 0 {
            // Somebody wants to send us an inform and asks who we are.
            return Handled::with_reply(Verdict::Handshake, self.report(&frame, UNKNOWN_ENGINE, None));
        }
        let named = |sender: &Sender| match &sender.access {
            Access::V3(user) if user.name.as_bytes() == frame.user => Some((sender.clone(), Arc::clone(user))),
            _ => None,
        };
        let users: Vec<(Sender, Arc<User>)> = candidates.iter().filter_map(named).collect();
        let Some((_, first)) = users.first() else {
            let reply = if ours { self.report(&frame, UNKNOWN_USER, None) } else { None };
            return Handled::with_reply(Verdict::Refused, reply);
        };
        let signer = first.clone();
        let safe = |user: &User| {
            (frame.flags & FLAG_AUTH != 0) == user.auth.is_some()
                && (frame.flags & FLAG_PRIVACY != 0) == user.privacy.is_some()
        };
        let mut believed: Vec<(Sender, Keys)> = Vec::new();
        for (sender, user) in users {
            let keys = user.keys(frame.engine);
            if safe(&user) && (!keys.signs() || frame.is_signed_with(&keys)) {
                believed.push((sender, keys));
            }
        }
        let Some((_, keys)) = believed.first() else {
            let reply = if ours { self.report(&frame, WRONG_DIGEST, None) } else { None };
            return Handled::with_reply(Verdict::Refused, reply);
        };
        let keys = keys.clone();
        if keys.signs() && ours && !self.authority.is_timely(frame.boots, frame.time) {
            let reply = self.report(&frame, NOT_IN_TIME_WINDOW, Some(&signer));
            return Handled::with_reply(Verdict::Handshake, reply);
        }
        if keys.signs() && !ours && !self.is_new(&frame) {
            return Handled::only(Verdict::Replayed);
        }
        let Ok(plain) = frame.plain(&keys) else {
            let reply = if ours { self.report(&frame, DECRYPTION_ERROR, None) } else { None };
            return Handled::with_reply(Verdict::Refused, reply);
        };
        let Ok(scoped) = frame::read_scoped(&plain) else { return Handled::only(Verdict::Malformed) };
        let Body::Pdu(pdu) = &scoped.body else { return Handled::only(Verdict::Malformed) };
        let wanted = if ours { snmp::MSG_INFORM } else { snmp::MSG_TRAP };
        let Some(notification) = Notification::of_pdu(pdu).filter(|_| pdu.kind == wanted) else {
            return Handled::only(Verdict::Malformed);
        };
        let senders: Vec<Sender> = believed.into_iter().map(|(sender, _)| sender).collect();
        if !ours {
            return accept(senders, &notification);
        }
        let response = message::response(pdu.id, &pdu.varbinds.to_bytes());
        let context = (scoped.context_engine, scoped.context);
        let reply = self.seal(&frame, frame.user, context, &response, &keys);
        self.informed(ip, pdu.id, reply, now, || accept(senders, &notification))
    }

    /// Remembers the newest message of an engine.
    fn is_new(&mut self, frame: &Frame<'_>) -> bool {
        if let Some(heard) = self.heard.get_mut(frame.engine) {
            return heard.accepts(frame.boots, frame.time);
        }
        if self.heard.len() >= MAX_ENGINES {
            // Only engines with right signatures get here: this is a site with thousands of them.
            self.heard.clear();
        }
        self.heard.insert(frame.engine.to_vec(), Heard::new(frame.boots, frame.time));
        true
    }

    /// An inform is told once, however often its sender repeats it for want of our answer.
    fn informed(
        &mut self,
        ip: IpAddr,
        id: i64,
        reply: Option<Vec<u8>>,
        now: Instant,
        accept: impl FnOnce() -> Handled,
    ) -> Handled {
        self.informs.retain(|(_, _, at)| now.saturating_duration_since(*at) < REPEATS_WITHIN);
        if self.informs.iter().any(|(from, known, _)| (*from, *known) == (ip, id)) {
            return Handled::with_reply(Verdict::Repeated, reply);
        }
        if self.informs.len() == MAX_INFORMS {
            self.informs.pop_front();
        }
        self.informs.push_back((ip, id, now));
        Handled { reply, ..accept() }
    }

    /// A report of one of our counters, signed where a user is given.
    fn report(&mut self, frame: &Frame<'_>, counter: u32, user: Option<&User>) -> Option<Vec<u8>> {
        let oid = crate::oid::Oid::from_arcs(USM_STATS)?.below(&[counter, 0]);
        let value = field(snmp::TYPE_COUNTER32, &[&[1]]);
        let varbind = field(0x30, &[&field(6, &[&oid.to_ber()]), &value]);
        let number = field(2, &[&i32::try_from(frame.message_id).ok()?.to_be_bytes()]);
        let list = field(0x30, &[&varbind]);
        let report = field(snmp::MSG_REPORT, &[&number, &integer(0), &integer(0), &list]);
        // RFC 3414, 3.2: a report about time is signed, but never encrypted.
        let keys = user.map(|user| User::new(user.name.clone(), String::new(), user.auth.clone(), None));
        let keys = keys.map_or_else(Keys::default, |user| user.keys(&self.authority.id));
        let engine = self.authority.id.clone();
        self.seal(frame, frame.user, (engine.as_slice(), &[]), &report, &keys)
    }

    /// `context`: engine and name, which in an answer are those of the inform.
    fn seal(
        &mut self,
        frame: &Frame<'_>,
        user: &[u8],
        context: (&[u8], &[u8]),
        pdu: &[u8],
        keys: &Keys,
    ) -> Option<Vec<u8>> {
        self.salt = self.salt.wrapping_add(1);
        let letter = Letter {
            message_id: u32::try_from(frame.message_id).ok()?,
            stamp: Stamp { engine: &self.authority.id, boots: self.authority.boots, time: self.authority.time() },
            user,
            context_engine: context.0,
            context: context.1,
            pdu,
            reportable: false,
            max_size: MAX_MESSAGE_SIZE,
        };
        frame::seal(&letter, keys, self.salt)
    }
}

/// A believed notification: of which device, and what its profile calls it.
fn accept(mut candidates: Vec<Sender>, notification: &Notification) -> Handled {
    let oid = notification.oid.to_string();
    let name_of =
        |sender: &Sender| sender.config.profile.traps.iter().find(|trap| trap.fits(&notification.oid)).cloned();
    if candidates.len() > 1 && candidates.iter().any(|sender| name_of(sender).is_some()) {
        candidates.retain(|sender| name_of(sender).is_some());
    }
    let poll = candidates.iter().map(|sender| sender.config.id.clone()).collect();
    let [sender] = candidates.as_slice() else {
        return Handled { oid: Some(oid), poll, ..Handled::only(Verdict::Ambiguous) };
    };
    let named = name_of(sender);
    let mut values = BTreeMap::new();
    for (at, value) in &notification.values {
        let name = named.as_ref().and_then(|trap| trap.value_name(at)).map_or_else(|| at.to_string(), str::to_owned);
        values.insert(name, value.clone());
    }
    let verdict = if named.is_some() { Verdict::Named } else { Verdict::Unnamed };
    let (name, severity) =
        named.map_or((None, None), |trap| (Some(trap.name), Some(trap.severity.as_str().to_owned())));
    let event = EventKind::Trap { oid: oid.clone(), values, name, severity };
    Handled { verdict, oid: Some(oid), reply: None, event: Some((sender.config.id.clone(), event)), poll }
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
