//! What can be written on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use bcp_wire::{Epoch, Site};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::layout::Timing;
use crate::ports::{BasePort, DEFAULT_BASE};
use crate::service::Service;

const EXAMPLES: &str = "\
Examples:
  fleet                                   start three sites and wait for Ctrl-C
  fleet ls                                what runs, links, last gap seen by a visitor
  fleet kill a                            lose datacenter a, as in a power cut
  fleet start a                           bring it back
  fleet cut a-b                           cut the link between the datacenters
  fleet cut a-w --one-way                 nothing gets from a to w; w to a is open
  fleet delay a-b 40 --jitter 10          a long way, 40 to 50 ms per direction
  fleet lose a-b 30                       30 % of the packets are lost, and sent again after a while
  fleet heal                              open all links
  fleet pause a/host                      freeze one process (SIGSTOP)
  fleet stop a/collector                  kill one process, until `start`
  fleet hang b/prescriptions              steps of its gate do not end, until `resume`
  fleet device ups-a1 event mains-fail    the UPS runs on its battery; `ups-a*`: all of the site, which dies when they are empty
  fleet device crac-a1 set supply.air.temperature 35
  fleet device crac-a1 fault late         its answers come too late; also short, reboot, exception-6 ...
  fleet device crac-a1 clear              let go of what was set, and of a fault
  fleet --base-port 19000                 a second fleet beside the first";

/// Three sites with collectors, agents, gates, simulated devices and two services, on this machine.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, after_help = EXAMPLES, propagate_version = true)]
pub(super) struct Cli {
    /// First port of the fleet; it takes the 1,000 from here on
    #[arg(long, global = true, value_name = "PORT", default_value_t = Base::default(), env = "BCP_FLEET_BASE_PORT")]
    pub base_port: Base,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub up: UpArgs,
}

/// [`BasePort`] with its default.
#[derive(Debug, Clone, Copy)]
pub(super) struct Base(pub BasePort);

impl Default for Base {
    fn default() -> Base {
        Base(DEFAULT_BASE.to_string().parse().expect("the default base port is in range"))
    }
}

impl FromStr for Base {
    type Err = crate::ports::BasePortError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Base)
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, Args)]
pub(super) struct UpArgs {
    /// Where files, logs and certificates are kept [default: a directory below /tmp, emptied at every start]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Use this mosquitto as the three brokers instead of the embedded ones
    #[arg(long, value_name = "PATH")]
    pub mosquitto: Option<PathBuf>,
    /// Also guard two PostgreSQL 15 servers, with HAProxy in front, BIND for their name, and a client that writes without end
    #[arg(long)]
    pub with_postgres: bool,
    /// Also run three servers and one that stands by at a and at b, of which `prescriptions` needs two
    #[arg(long)]
    pub with_servers: bool,
    /// How long a disturbance lasts before it moves anything: metro (15 s), wide (longer) or fast (5 s) [default: metro]
    #[arg(long, value_name = "PROFILE")]
    pub timing: Option<Timing>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start the fleet and keep it until Ctrl-C (this is also what `fleet` alone does)
    Up(UpArgs),
    /// Show processes, links, routes and what a visitor has seen
    Ls,
    /// Cut a link: bytes wait, nothing is reset
    Cut {
        /// Two sites, as a-b
        link: Pair,
        /// Only from the first site to the second
        #[arg(long)]
        one_way: bool,
    },
    /// Open a link again and take its delay and loss away; all links where none is named
    Heal {
        /// Two sites, as a-b
        link: Option<Pair>,
    },
    /// Make a link slow
    Delay {
        /// Two sites, as a-b
        link: Pair,
        /// Milliseconds per direction
        ms: u64,
        /// Up to this many milliseconds more, at random
        #[arg(long, value_name = "MS", default_value_t = 0)]
        jitter: u64,
        /// Only from the first site to the second
        #[arg(long)]
        one_way: bool,
    },
    /// Lose packets: what waits for one that was lost comes later, as over TCP
    Lose {
        /// Two sites, as a-b
        link: Pair,
        /// Of the packets, at most 90
        percent: u8,
        /// Only from the first site to the second
        #[arg(long)]
        one_way: bool,
    },
    /// Kill a site (it stays dark) or one process (it is restarted): a, a/decide, a/host ...
    Kill { target: String },
    /// Kill one process, and do not restart it
    Stop { target: String },
    /// Start a site that was killed, or a process that was stopped
    Start { target: String },
    /// Freeze a site or one process
    Pause { target: String },
    /// Let steps of a demo service hang: each runs into its limit
    Hang { target: String },
    /// Let it go on
    Resume { target: String },
    /// Give an order to a simulated device
    Device {
        /// As crac-a1, ups-b2, meter-a1, nas-w1
        name: String,
        #[command(subcommand)]
        order: DeviceCommand,
    },
    /// Run the agent: the same as bcp-agent
    #[command(disable_help_flag = true)]
    Agent(Passed),
    /// Run the collector: the same as bcp-collector
    #[command(disable_help_flag = true)]
    Collector(Passed),
    /// Talk to the collectors as an operator: the same as bcpctl
    #[command(disable_help_flag = true)]
    Ctl(Passed),
    /// Print completions for a shell
    Completions { shell: clap_complete::Shell },
    /// The simulated devices of a site
    #[command(hide = true)]
    Devices {
        #[arg(long)]
        site: Site,
    },
    /// One demo service of a site
    #[command(hide = true)]
    Service {
        #[arg(long)]
        service: Service,
        #[arg(long)]
        site: Site,
        #[arg(long = "as")]
        role: Role,
        #[arg(long)]
        epoch: Epoch,
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Ends what would outlive a fleet that was killed
    #[command(hide = true)]
    Mourn {
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// The actuator of a demo service, called by a gate
    #[command(hide = true)]
    ServiceStep {
        #[arg(long)]
        service: Service,
        #[arg(long)]
        site: Site,
        #[arg(long)]
        data_dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DeviceCommand {
    /// Pin a point to a value, by its name of the contract
    Set {
        point: String,
        #[arg(allow_hyphen_values = true)]
        value: String,
    },
    /// Let go of a point, or of all and of a fault
    Clear { point: Option<String> },
    /// UPS: mains-fail, mains-back, weak-battery; cooling unit: stop, start
    Event { event: String },
    /// late (or late-MS), short, long, half-open, reboot; Modbus: wrong-unit, wrong-function, exception-N, and crc on a
    /// serial line (meter-w1); SNMP: clock-step, engine-change. `clear` ends those that last
    Fault { fault: String },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Role {
    Standby,
    Active,
}

#[derive(Debug, Args)]
pub(super) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<OsString>,
}

/// A link, as `a-b`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair(pub Site, pub Site);

impl FromStr for Pair {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let pair = text.split_once('-').and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)));
        match pair {
            Some((one, other)) if one != other => Ok(Pair(one, other)),
            _ => Err("a link is two different sites: a-b, a-w or b-w".to_owned()),
        }
    }
}
