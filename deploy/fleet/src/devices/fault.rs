//! Faults that a simulated device can be given, and how its server knows of them.
//!
//! Knows: which faults there are, and which a server of a kind can have. Refuses to know: bytes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Later than any time limit of the fleet's own configuration.
const LATE: Duration = Duration::from_millis(1_500);
const MAX_LATE: Duration = Duration::from_secs(60);
/// How long a device that restarts is away.
pub const AWAY: Duration = Duration::from_secs(3);
/// How far a stepped clock goes forward: beyond the window of version 3, which is 150 s.
const CLOCK_STEP_S: u64 = 3_600;

/// What a device does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every answer comes so much later.
    Late(Duration),
    /// One register, or half a datagram, is missing.
    Short,
    /// There is one register too many, or bytes behind the datagram.
    Long,
    WrongUnit,
    WrongFunction,
    /// A checksum that does not fit.
    Crc,
    Exception(u8),
    /// Takes requests and never answers.
    HalfOpen,
    /// Drops everything, is away for [`AWAY`], and begins anew.
    Reboot,
    /// Its clock goes forward by an hour.
    ClockStep,
    /// Says it is another engine from now on.
    EngineChange,
}

/// What serves a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    ModbusTcp,
    ModbusRtu,
    Snmp,
}

/// All faults for people, and the servers that can have them.
const KNOWN: &[(&str, &[Server])] = &[
    ("late", &[Server::ModbusTcp, Server::ModbusRtu, Server::Snmp]),
    ("short", &[Server::ModbusTcp, Server::ModbusRtu, Server::Snmp]),
    ("long", &[Server::ModbusTcp, Server::ModbusRtu, Server::Snmp]),
    ("wrong-unit", &[Server::ModbusTcp, Server::ModbusRtu]),
    ("wrong-function", &[Server::ModbusTcp, Server::ModbusRtu]),
    ("crc", &[Server::ModbusRtu]),
    ("exception-N", &[Server::ModbusTcp, Server::ModbusRtu]),
    ("half-open", &[Server::ModbusTcp, Server::ModbusRtu, Server::Snmp]),
    ("reboot", &[Server::ModbusTcp, Server::ModbusRtu, Server::Snmp]),
    ("clock-step", &[Server::Snmp]),
    ("engine-change", &[Server::Snmp]),
];

/// The faults that a server can have, for people.
#[must_use]
pub fn known(server: Server) -> String {
    let of = KNOWN.iter().filter(|(_, servers)| servers.contains(&server)).map(|(name, _)| *name);
    of.collect::<Vec<_>>().join(" ")
}

impl Fault {
    /// The fault of this name, where a server can have it.
    #[must_use]
    pub fn of(text: &str, server: Server) -> Option<Fault> {
        let fault: Fault = text.parse().ok()?;
        let name = fault.name();
        KNOWN.iter().any(|(known, servers)| *known == name && servers.contains(&server)).then_some(fault)
    }

    const fn name(self) -> &'static str {
        match self {
            Fault::Late(_) => "late",
            Fault::Short => "short",
            Fault::Long => "long",
            Fault::WrongUnit => "wrong-unit",
            Fault::WrongFunction => "wrong-function",
            Fault::Crc => "crc",
            Fault::Exception(_) => "exception-N",
            Fault::HalfOpen => "half-open",
            Fault::Reboot => "reboot",
            Fault::ClockStep => "clock-step",
            Fault::EngineChange => "engine-change",
        }
    }
}

/// No such fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such fault")]
pub struct NoFault;

impl FromStr for Fault {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Fault, NoFault> {
        Ok(match text {
            "late" => Fault::Late(LATE),
            "short" => Fault::Short,
            "long" => Fault::Long,
            "wrong-unit" => Fault::WrongUnit,
            "wrong-function" => Fault::WrongFunction,
            "crc" => Fault::Crc,
            "half-open" => Fault::HalfOpen,
            "reboot" => Fault::Reboot,
            "clock-step" => Fault::ClockStep,
            "engine-change" => Fault::EngineChange,
            _ => {
                let number = |stem: &str| text.strip_prefix(stem)?.parse::<u64>().ok().filter(|number| *number > 0);
                match (number("exception-"), number("late-")) {
                    (Some(code), _) => Fault::Exception(u8::try_from(code).map_err(|_| NoFault)?),
                    (_, Some(ms)) => Fault::Late(Duration::from_millis(ms).min(MAX_LATE)),
                    (None, None) => return Err(NoFault),
                }
            }
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Late(delay) => write!(f, "late-{}", delay.as_millis()),
            Fault::Exception(code) => write!(f, "exception-{code}"),
            other => f.write_str(other.name()),
        }
    }
}

/// How a device is, as its server has to know it.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// Until it is cleared.
    pub fault: Option<Fault>,
    /// How often it has started.
    pub boots: u32,
    /// When it started, or is going to: before that it is away.
    pub started: Instant,
    /// Seconds that its clock is ahead.
    pub ahead_s: u64,
    /// Which engine it says it is.
    pub engine: u8,
}

impl Condition {
    #[must_use]
    pub fn is_away(&self) -> bool {
        Instant::now() < self.started
    }

    /// Seconds since it started, by its own clock.
    #[must_use]
    pub fn uptime_s(&self) -> u64 {
        Instant::now().saturating_duration_since(self.started).as_secs().saturating_add(self.ahead_s)
    }
}

/// The hand on a device's faults.
#[derive(Debug)]
pub struct Switch(watch::Sender<Condition>);

impl Default for Switch {
    fn default() -> Switch {
        let well = Condition { fault: None, boots: 1, started: Instant::now(), ahead_s: 0, engine: 0 };
        Switch(watch::Sender::new(well))
    }
}

impl Switch {
    /// What a server watches.
    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.0.subscribe()
    }

    /// Gives it a fault. Those that are events happen at once, and leave it well.
    pub fn set(&self, fault: Fault) {
        self.0.send_modify(|condition| match fault {
            Fault::Reboot => {
                condition.boots = condition.boots.saturating_add(1);
                condition.started = Instant::now() + AWAY;
                condition.ahead_s = 0;
            }
            Fault::ClockStep => condition.ahead_s = condition.ahead_s.saturating_add(CLOCK_STEP_S),
            Fault::EngineChange => {
                condition.engine = condition.engine.wrapping_add(1);
                condition.boots = 1;
            }
            lasting => condition.fault = Some(lasting),
        });
    }

    /// Takes a lasting fault away; tells which it was.
    pub fn clear(&self) -> Option<Fault> {
        let mut was = None;
        self.0.send_modify(|condition| was = condition.fault.take());
        was
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_names_and_servers() {
        for (name, servers) in KNOWN {
            let text = name.replace('N', "4");
            for server in *servers {
                let fault = Fault::of(&text, *server).unwrap_or_else(|| panic!("{text}"));
                assert_eq!(fault.to_string().parse(), Ok(fault), "{text}");
            }
        }
        assert_eq!("late-200".parse(), Ok(Fault::Late(Duration::from_millis(200))));
        for (text, server) in [
            ("crc", Server::ModbusTcp),
            ("engine-change", Server::ModbusRtu),
            ("wrong-unit", Server::Snmp),
            ("exception-0", Server::ModbusTcp),
            ("exception-256", Server::ModbusTcp),
            ("late-", Server::Snmp),
            ("laet", Server::Snmp),
        ] {
            assert_eq!(Fault::of(text, server), None, "{text}");
        }
        assert_eq!(known(Server::Snmp), "late short long half-open reboot clock-step engine-change");
    }

    #[test]
    fn events_happen_and_lasting_faults_last() {
        let switch = Switch::default();
        let condition = switch.condition();
        switch.set(Fault::Crc);
        switch.set(Fault::Reboot);
        let now = *condition.borrow();
        assert_eq!((now.fault, now.boots, now.is_away(), now.uptime_s()), (Some(Fault::Crc), 2, true, 0));
        switch.set(Fault::ClockStep);
        switch.set(Fault::EngineChange);
        let now = *condition.borrow();
        assert_eq!((now.boots, now.engine, now.ahead_s), (1, 1, CLOCK_STEP_S));
        assert_eq!((switch.clear(), switch.clear()), (Some(Fault::Crc), None));
    }
}
