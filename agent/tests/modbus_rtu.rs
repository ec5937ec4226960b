//! Modbus RTU: on a serial port (a pair of pseudo-terminals), through a converter, and against pymodbus.
//!
//! Behaviour 1 is here for every transport: `BCP_LATE_READS` sets how many reads each of them makes (600 otherwise).

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test that cannot go on says so by panicking")]

mod support {
    pub mod process;
}

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bcp_agent::config::{self, DeviceConfig, Link, ModbusLink};
use bcp_agent::profile;
use bcp_agent::schedule::Outcome;
use bcp_agent::source::Polled;
use bcp_agent::source::modbus::Bus;
use bcp_agent::source::modbus::config::{Framing, Parity, SerialLine};
use bcp_agent::source::modbus::frame::sealed;
use bcp_wire::{BadReason, Value};
use rustix::fs::{Mode, OFlags, fcntl_setfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::process::{Peer, command, scratch, skipped, wait_for};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::unix::pipe::{Receiver, Sender};

const BUDGET: Duration = Duration::from_secs(20);
/// Of an answer that is expected: as long as a busy machine may take.
const PATIENT: Duration = Duration::from_secs(5);
const LINE: SerialLine =
    SerialLine { baud: 115_200, parity: Parity::None, stop_bits: 1, turnaround: Duration::from_millis(1) };

/// A pseudo-terminal: the device's end, and the path of ours.
struct Pair {
    device: File,
    port: PathBuf,
    /// Keeps the line up while the agent has its port closed.
    _held: File,
}

fn pair() -> Pair {
    let device = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&device).unwrap();
    unlockpt(&device).unwrap();
    fcntl_setfl(&device, OFlags::NONBLOCK | OFlags::RDWR).unwrap();
    let port = PathBuf::from(ptsname(&device, Vec::new()).unwrap().into_string().unwrap());
    let held = open(&port, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    Pair { device: device.into(), port, _held: held.into() }
}

fn stream(file: &File) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
    let (reading, writing) = (file.try_clone().unwrap(), file.try_clone().unwrap());
    tokio::io::join(Receiver::from_file_unchecked(reading).unwrap(), Sender::from_file_unchecked(writing).unwrap())
}

/// What a device does with its n-th request.
enum Act {
    Now(Vec<u8>),
    /// Later, and nothing else meanwhile: a slow device answers one question after the other.
    After(Duration, Vec<u8>),
    Silence,
}

/// A device: requests of eight bytes, answered in their order.
async fn serve(mut line: impl AsyncRead + AsyncWrite + Unpin, behave: impl Fn(usize, &[u8; 8]) -> Act) {
    let (mut request, mut number) = ([0; 8], 0);
    while line.read_exact(&mut request).await.is_ok() {
        let answer = match behave(number, &request) {
            Act::Now(bytes) => bytes,
            Act::After(delay, bytes) => {
                tokio::time::sleep(delay).await;
                bytes
            }
            Act::Silence => Vec::new(),
        };
        number += 1;
        if line.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// The right answer: every register holds its own address. Diagnostics are echoed.
fn right(request: &[u8; 8]) -> Vec<u8> {
    let [unit, function, a1, a0, _, count, ..] = *request;
    if function == 8 {
        return request.to_vec();
    }
    let first = u16::from_be_bytes([a1, a0]);
    let words = (first..first + u16::from(count)).flat_map(u16::to_be_bytes);
    sealed(unit, &[function, 2 * count].into_iter().chain(words).collect::<Vec<_>>())
}

fn device(link: ModbusLink, addresses: &[u16]) -> (Arc<DeviceConfig>, ModbusLink) {
    let mut text = String::from(
        "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"this test\"]\n[modbus]\nmax_gap = 4\nmax_registers = 100\n",
    );
    for (i, register) in addresses.iter().enumerate() {
        text += &format!("[[point]]\nname = \"outlet.{}.current\"\nread = \"holding:{register}\"\n", i + 1);
    }
    let profile = profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let config = DeviceConfig {
        id: format!("pdu-{}", link.unit).parse().unwrap(),
        kind: "pdu".to_owned(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link: Link::Modbus(link.clone()),
    };
    (Arc::new(config), link)
}

fn serial(pair: &Pair, unit: u8, timeout: Duration) -> ModbusLink {
    ModbusLink { address: pair.port.display().to_string(), framing: Framing::Serial(LINE), unit, timeout, shift: 0 }
}

fn bus(devices: Vec<(Arc<DeviceConfig>, ModbusLink)>) -> Bus {
    Bus::new(devices[0].1.address.clone(), devices)
}

/// Values by point, each of which must be its register's address; gives how many are good, and why the others are bad.
fn judged(polled: &Polled, addresses: &[u16]) -> (usize, Vec<BadReason>) {
    let values: BTreeMap<String, Result<Value, BadReason>> =
        polled.samples.iter().map(|(name, _, value)| (name.to_string(), value.clone())).collect();
    let (mut good, mut bad) = (0, Vec::new());
    for (i, register) in addresses.iter().enumerate() {
        match &values[&format!("outlet.{}.current", i + 1)] {
            Ok(value) => {
                assert_eq!(value, &Value::Num(f64::from(*register)), "a value of another request");
                good += 1;
            }
            Err(reason) => bad.push(*reason),
        }
    }
    (good, bad)
}

#[tokio::test]
async fn devices_on_a_serial_port_take_turns() {
    let pair = pair();
    tokio::spawn(serve(
        stream(&pair.device),
        |_, request| {
            if request[0] == 9 { Act::Silence } else { Act::Now(right(request)) }
        },
    ));
    let (one, two) = ([10, 11, 500], [7]);
    let short = Duration::from_millis(100);
    let units = vec![
        device(serial(&pair, 1, PATIENT), &one),
        device(serial(&pair, 2, PATIENT), &two),
        device(serial(&pair, 9, short), &two),
    ];
    let mut bus = bus(units);
    for _ in 0..3 {
        let polled = bus.poll(0, BUDGET).await;
        assert_eq!((polled.outcome, judged(&polled, &one)), (Outcome::Answered, (3, vec![])), "{:?}", polled.trouble);
        assert_eq!(judged(&bus.poll(1, BUDGET).await, &two), (1, vec![]));
        let dead = bus.poll(2, BUDGET).await;
        assert_eq!((dead.outcome, judged(&dead, &two)), (Outcome::Silent, (0, vec![BadReason::Timeout])));
    }
}

/// 6: a port has one owner.
#[tokio::test]
async fn a_serial_port_that_another_program_uses_is_left_alone() {
    let pair = pair();
    tokio::spawn(serve(stream(&pair.device), |_, request| Act::Now(right(request))));
    let mut first = bus(vec![device(serial(&pair, 1, PATIENT), &[10])]);
    assert_eq!(first.poll(0, BUDGET).await.outcome, Outcome::Answered);
    let mut second = bus(vec![device(serial(&pair, 1, PATIENT), &[10])]);
    let refused = second.poll(0, BUDGET).await;
    assert_eq!(refused.outcome, Outcome::Refused);
    assert!(refused.trouble.unwrap().contains("another program uses"));
    drop(first);
    assert_eq!(second.poll(0, BUDGET).await.outcome, Outcome::Answered);
    let mut nowhere = bus(vec![device(
        ModbusLink { address: "/dev/bcp-no-such-port".to_owned(), ..serial(&pair, 1, PATIENT) },
        &[10],
    )]);
    assert!(nowhere.poll(0, BUDGET).await.trouble.unwrap().contains("cannot open /dev/bcp-no-such-port"));
}

/// 2: short, long, foreign and garbled answers are bad, and the next poll is well.
#[tokio::test]
async fn broken_answers_on_a_serial_port_are_bad_and_the_bus_is_well_at_once() {
    let pair = pair();
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let faults: [(&str, Spoil); 7] = [
        ("checksum", |mut answer| {
            answer[4] ^= 0x10;
            answer
        }),
        ("short", |answer| answer[..5].to_vec()),
        ("shorter than it says, well sealed", |_| sealed(1, &[3, 2, 0, 10])),
        ("long", |_| sealed(1, &[3, 6, 0, 10, 0, 11, 0, 12])),
        ("wrong unit", |_| sealed(5, &[3, 4, 0, 1, 0, 2])),
        ("wrong function", |_| sealed(1, &[4, 4, 0, 1, 0, 2])),
        ("noise", |_| vec![0xFF; 40]),
    ];
    let turn = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&turn);
    tokio::spawn(serve(stream(&pair.device), move |_, request| {
        let answer = right(request);
        if request[1] == 8 {
            return Act::Now(answer);
        }
        // Every second read is answered wrongly.
        let number = asked.fetch_add(1, Ordering::SeqCst);
        Act::Now(if number % 2 == 1 { faults[number / 2 % faults.len()].1(answer) } else { answer })
    }));
    let addresses = [10, 11];
    let mut bus = bus(vec![device(serial(&pair, 1, Duration::from_millis(300)), &addresses)]);
    for (what, _) in faults {
        let good = bus.poll(0, BUDGET).await;
        assert_eq!(judged(&good, &addresses), (2, vec![]), "before {what}: {:?}", good.trouble);
        let broken = bus.poll(0, BUDGET).await;
        assert_eq!(judged(&broken, &addresses), (0, vec![BadReason::Decode; 2]), "{what}: {:?}", broken.trouble);
    }
    assert_eq!(judged(&bus.poll(0, BUDGET).await, &addresses), (2, vec![]));
}

fn reads() -> usize {
    std::env::var("BCP_LATE_READS").ok().and_then(|text| text.parse().ok()).unwrap_or(600)
}

/// Lines at one time: each waits nearly all of its time.
const LINES: usize = 60;
const LIMIT: Duration = Duration::from_millis(60);
const FAR_APART: [u16; 3] = [10, 500, 900];

/// Every third answer comes after 1.5 times the limit, one in eleven after four times.
fn late(number: usize, answer: Vec<u8>) -> Act {
    match number {
        n if n % 11 == 3 => Act::After(LIMIT * 4, answer),
        n if n % 3 == 1 => Act::After(LIMIT * 3 / 2, answer),
        _ => Act::Now(answer),
    }
}

/// Polls lines until their devices were asked for all reads together; none may give a value of another request.
async fn nothing_is_misattributed(buses: Vec<Bus>, asked: Arc<AtomicUsize>) {
    let lines: Vec<_> = buses
        .into_iter()
        .map(|mut bus| {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move {
                let (mut good, mut late) = (0, 0);
                // As the schedule does: a unit that is behind is not asked at once again.
                let mut every = tokio::time::interval(LIMIT / 2);
                every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                while asked.load(Ordering::SeqCst) < reads() {
                    every.tick().await;
                    let polled = bus.poll(0, BUDGET).await;
                    let (right, bad) = judged(&polled, &FAR_APART);
                    assert!(bad.iter().all(|reason| *reason == BadReason::Timeout), "{bad:?} {:?}", polled.trouble);
                    good += right;
                    // A poll ends with its first read that is not answered in time.
                    late += usize::from(polled.trouble.is_some_and(|trouble| trouble.contains("no answer within")));
                }
                (good, late)
            })
        })
        .collect();
    let (mut good, mut late) = (0, 0);
    for line in lines {
        let (right, missed) = line.await.unwrap();
        good += right;
        late += missed;
    }
    let asked = asked.load(Ordering::SeqCst);
    eprintln!("{asked} reads: {good} answered in time and right, {late} questions not answered in time, 0 wrong");
    assert!(good * 10 > asked && late * 20 > asked, "both kinds were seen");
}

/// 1, on a serial port.
#[tokio::test]
async fn a_late_answer_on_a_serial_port_is_never_used() {
    let asked = Arc::new(AtomicUsize::new(0));
    let pairs: Vec<Pair> = (0..LINES).map(|_| pair()).collect();
    let buses = pairs.iter().enumerate().map(|(i, pair)| {
        let asked = Arc::clone(&asked);
        tokio::spawn(serve(stream(&pair.device), move |number, request| {
            asked.fetch_add(usize::from(request[1] == 3), Ordering::SeqCst);
            let refuses = i % 2 == 0 && request[1] == 8;
            late(number + i, if refuses { sealed(request[0], &[0x88, 1]) } else { right(request) })
        }));
        bus(vec![device(serial(pair, 1, LIMIT), &FAR_APART)])
    });
    let buses = buses.collect();
    nothing_is_misattributed(buses, asked).await;
}

/// 1, through a converter that hands a late answer to whoever is connected.
#[tokio::test]
async fn a_late_answer_through_a_converter_is_never_used() {
    let all = Arc::new(AtomicUsize::new(0));
    let mut buses = Vec::new();
    for i in 0..LINES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::clone(&all);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, |number, request| {
                    asked.fetch_add(usize::from(request[1] == 3), Ordering::SeqCst);
                    late(number + i, right(request))
                })
                .await;
            }
        });
        let link = ModbusLink { address, framing: Framing::RtuOverTcp(None), unit: 1, timeout: LIMIT, shift: 0 };
        buses.push(bus(vec![device(link, &FAR_APART)]));
    }
    nothing_is_misattributed(buses, all).await;
}

/// 1, over Modbus TCP.
#[tokio::test]
async fn a_late_answer_over_tcp_is_never_used() {
    let all = Arc::new(AtomicUsize::new(0));
    let mut buses = Vec::new();
    for i in 0..LINES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let all = Arc::clone(&all);
        tokio::spawn(async move {
            let asked = Arc::new(AtomicUsize::new(i));
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, all) = (Arc::clone(&asked), Arc::clone(&all));
                tokio::spawn(async move {
                    let mut request = [0; 12];
                    while stream.read_exact(&mut request).await.is_ok() {
                        all.fetch_add(1, Ordering::SeqCst);
                        let rtu: [u8; 8] = [&request[6..], &[0, 0]].concat().try_into().unwrap();
                        let answer = right(&rtu);
                        let length = u16::try_from(answer.len() - 2).unwrap().to_be_bytes();
                        let bytes = [&request[..4], &length, &answer[..answer.len() - 2]].concat();
                        let bytes = match late(asked.fetch_add(1, Ordering::SeqCst), bytes) {
                            Act::Now(bytes) => bytes,
                            Act::After(delay, bytes) => {
                                tokio::time::sleep(delay).await;
                                bytes
                            }
                            Act::Silence => continue,
                        };
                        if stream.write_all(&bytes).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        buses.push(bus(vec![device(ModbusLink::tcp(address, 1, LIMIT), &FAR_APART)]));
    }
    nothing_is_misattributed(buses, all).await;
}

const CONFIG: &str = "site = \"a\"\nagent = \"gw-a\"\nstate_dir = \"/tmp/x\"\n[mqtt]\nbroker = \"127.0.0.1:1\"\n";

fn on_line(id: &str, unit: u8, interval: &str, rest: &str) -> String {
    format!(
        "[[device]]\nid = \"{id}\"\nprofile = \"eastron/sdm630\"\ninterval = \"{interval}\"\n\
         modbus = {{ serial = \"/dev/ttyUSB0\", baud = 9600, unit = {unit}{rest} }}\n"
    )
}

#[test]
fn a_schedule_that_no_serial_line_can_keep_is_refused() {
    let parse = |text: String| config::parse("agent.toml", &(CONFIG.to_owned() + &text));
    let sound = parse(on_line("meter-1", 1, "5s", "") + &on_line("meter-2", 2, "5s", "")).unwrap();
    let plans = bcp_agent::reading_table::plans(&sound);
    assert!(plans.contains("RTU, 9600 baud 8E1") && plans.contains("the line is busy"), "{plans}");
    let many: String = (1..=20).map(|unit| on_line(&format!("meter-{unit}"), unit, "1s", "")).collect();
    let faults = parse(many).unwrap_err().to_string();
    assert!(faults.contains("would have to be busy") && faults.contains("device[19].modbus"), "{faults}");
    let mixed = on_line("meter-1", 1, "5s", "") + &on_line("meter-2", 2, "5s", ", parity = \"none\"");
    let faults = parse(mixed).unwrap_err().to_string();
    assert!(faults.contains("9600 baud 8N1 here and RTU, 9600 baud 8E1 above"), "{faults}");
}

/// A serial device by other people: pymodbus behind a second pseudo-terminal, bytes copied between the two.
const PYMODBUS: &str = "
import asyncio, os, struct, sys, threading, tty
from pymodbus import FramerType
from pymodbus.datastore import ModbusDeviceContext, ModbusServerContext, ModbusSparseDataBlock
from pymodbus.server import StartAsyncSerialServer

(ours, agent), (theirs, device) = os.openpty(), os.openpty()
for end in (agent, device):
    tty.setraw(end)

def copy(source, target):
    while True:
        os.write(target, os.read(source, 256))

for ends in ((ours, theirs), (theirs, ours)):
    threading.Thread(target=copy, args=ends, daemon=True).start()

registers = {}
def put(address, words):
    for shift, word in enumerate(words):
        registers[address + shift] = word
for line in range(3):
    put(2 * line, struct.unpack('>HH', struct.pack('>f', 230.1 + line)))
    put(6 + 2 * line, struct.unpack('>HH', struct.pack('>f', 1.5 + line)))
put(70, struct.unpack('>HH', struct.pack('>f', 49.98)))
for address in range(0, 1000):
    registers.setdefault(address, 0)

block = ModbusSparseDataBlock(registers)
context = ModbusServerContext(devices={7: ModbusDeviceContext(ir=block)}, single=False)

async def main():
    server = asyncio.ensure_future(StartAsyncSerialServer(
        context, framer=FramerType.RTU, port=os.ttyname(device), baudrate=9600, parity='N'))
    with open(sys.argv[1] + '.new', 'w') as told:
        told.write(os.ttyname(agent))
    os.rename(sys.argv[1] + '.new', sys.argv[1])
    await server

asyncio.run(main())
";

#[tokio::test]
async fn a_meter_served_by_pymodbus_on_a_serial_port_is_read() {
    let python = std::env::var("BCP_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = command(&python)
        .args(["-c", "import pymodbus.server, serial"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        skipped("pymodbus 3.16 and pyserial from PyPI are not there");
        return;
    }
    let dir = scratch("pymodbus-rtu");
    let (script, told) = (dir.join("meter.py"), dir.join("port"));
    std::fs::write(&script, PYMODBUS).unwrap();
    let log = File::create(dir.join("log")).unwrap();
    let child = command(&python).arg(&script).arg(&told).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let peer = Peer { child, dir };
    wait_for("the port of pymodbus", async || told.is_file()).await;
    let port = std::fs::read_to_string(&told).unwrap();
    let text = format!(
        "{CONFIG}[[device]]\nid = \"meter-1\"\nprofile = \"eastron/sdm630\"\ninterval = \"5s\"\n\
         modbus = {{ serial = \"{port}\", baud = 9600, parity = \"none\", unit = 7, timeout = \"5s\" }}\n"
    );
    let config = config::parse("agent.toml", &text).unwrap_or_else(|faults| panic!("{faults}"));
    let device = Arc::new(config.devices[0].clone());
    let Link::Modbus(link) = device.link.clone() else { panic!("{:?}", device.link) };
    let mut bus = bus(vec![(device, link)]);
    let mut polled = bus.poll(0, BUDGET).await;
    for _ in 0..5 {
        // It may have been asked before it listened.
        if polled.outcome == Outcome::Answered {
            break;
        }
        polled = bus.poll(0, BUDGET).await;
    }
    let log = std::fs::read_to_string(peer.dir.join("log")).unwrap();
    assert_eq!((polled.outcome, polled.trouble), (Outcome::Answered, None), "{log}");
    let value = |name: &str| {
        let found = polled.samples.iter().find(|sample| sample.0.as_str() == name).unwrap();
        found.2.as_ref().unwrap().as_num().unwrap()
    };
    assert_eq!((value("meter.l1.voltage"), value("meter.l3.voltage")), (230.1, 232.1));
    assert_eq!((value("meter.l2.current"), value("meter.frequency")), (2.5, 49.98));
}
