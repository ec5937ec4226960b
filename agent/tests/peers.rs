//! The agent against other people's programs: net-snmp's `snmpd` and `snmpget`, `pymodbus` and `mbpoll`,
//! `dnsmasq`.
//!
//! A program that is not installed skips its test with a line that says so; with `BCP_STRICT=1` it fails instead.
//! `BCP_PYTHON` names the interpreter that has pymodbus (default `python3`).

#![allow(clippy::unwrap_used, clippy::float_cmp, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_agent::config::{Access, DeviceConfig, Link, ModbusLink, SnmpLink};
use bcp_agent::profile::{self, Profile};
use bcp_agent::resolver::Resolver;
use bcp_agent::schedule::Outcome;
use bcp_agent::source::modbus::Bus;
use bcp_agent::source::snmp::SnmpDevice;
use bcp_wire::{BadReason, Value};

/// Longest start of a peer.
const START_LIMIT: Duration = Duration::from_secs(15);
const BUDGET: Duration = Duration::from_secs(5);

/// True where the test can go on. `arguments` must make the program end by itself.
fn installed(program: &str, arguments: &[&str], package: &str) -> bool {
    let found = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| program != python() || status.success());
    if !found {
        let line = format!("SKIPPED: `{program}` is not there (install {package})");
        assert!(std::env::var("BCP_STRICT").as_deref() != Ok("1"), "{line}");
        eprintln!("{line}");
    }
    found
}

fn python() -> String {
    std::env::var("BCP_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// A process that ends with the test, and a directory of its own.
struct Peer {
    child: Child,
    dir: PathBuf,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("bcp-peers-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn free_udp_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn free_tcp_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < START_LIMIT, "waited {START_LIMIT:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn device(profile: Profile, link: Link) -> Arc<DeviceConfig> {
    Arc::new(DeviceConfig {
        id: "peer".parse().unwrap(),
        kind: profile.kind.clone(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(1),
        link,
    })
}

fn snmpd() -> (Peer, u16) {
    // Tests beside this one start their own.
    let port = free_udp_port();
    let dir = scratch(&format!("snmpd-{port}"));
    let conf = dir.join("snmpd.conf");
    std::fs::write(&conf, format!("rocommunity public 127.0.0.1\nagentAddress udp:127.0.0.1:{port}\n")).unwrap();
    let child = Command::new("/usr/sbin/snmpd")
        .args(["-f", "-Lf", "/dev/null", "-C", "-c"])
        .arg(&conf)
        .arg("-p")
        .arg(dir.join("pid"))
        .env("SNMP_PERSISTENT_DIR", &dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let peer = Peer { child, dir };
    let target = format!("127.0.0.1:{port}");
    wait_for("snmpd", || {
        output("snmpget", &["-v2c", "-c", "public", "-t", "0.2", "-r", "0", "-Oqvn", &target, "1.3.6.1.2.1.1.3.0"])
            .contains(':')
    });
    (peer, port)
}

fn have_net_snmp() -> bool {
    installed("/usr/sbin/snmpd", &["-v"], "snmpd") && installed("snmpget", &["-V"], "snmp")
}

/// Numbers as net-snmp prints them with `-Onet`: `.OID = TYPE: value`, TimeTicks bare.
fn number(text: &str) -> Option<f64> {
    text.rsplit(": ").next()?.trim().parse().ok()
}

#[tokio::test]
async fn fifty_points_of_snmpd_are_what_snmpget_reads() {
    if !have_net_snmp() {
        return;
    }
    let (_peer, port) = snmpd();
    let target = format!("127.0.0.1:{port}");
    let get = |oids: &[String]| -> BTreeMap<String, f64> {
        let mut arguments = vec!["-v2c", "-c", "public", "-Onet", &target];
        arguments.extend(oids.iter().map(String::as_str));
        output("snmpget", &arguments)
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .filter_map(|(oid, value)| Some((oid.trim_start_matches('.').to_owned(), number(value)?)))
            .collect()
    };
    // Whatever numbers this snmpd has: interfaces, storage, devices, load.
    let mut oids: Vec<String> = Vec::new();
    for (tree, most) in [("1.3.6.1.2.1.2.2", 30), ("1.3.6.1.2.1.25.2.3", 30), ("1.3.6.1.4.1.2021.4", 12)] {
        let walked = output("snmpwalk", &["-v2c", "-c", "public", "-Onet", &target, tree]);
        let numeric = walked.lines().filter_map(|line| line.split_once(" = ")).filter(|(_, value)| {
            ["INTEGER: ", "Gauge32: ", "Counter32: ", "Counter64: "].iter().any(|kind| value.starts_with(kind))
                && number(value).is_some()
        });
        oids.extend(numeric.map(|(oid, _)| oid.trim_start_matches('.').to_owned()).take(most));
    }
    assert!(oids.len() >= 50, "snmpd has only {} numbers", oids.len());
    let mut text =
        String::from("format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"this test\"]\n[snmp]\nmax_oids = 20\n");
    for (i, oid) in oids.iter().enumerate() {
        let _ = writeln!(text, "[[point]]\nname = \"outlet.{}.current\"\nread = \"{oid}\"", i + 1);
    }
    let profile = profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let link = SnmpLink {
        address: target.clone(),
        access: Access::community("public"),
        timeout: Duration::from_secs(1),
        retries: 1,
    };
    let mut device = SnmpDevice::new(device(profile, Link::Snmp(link.clone())), link);

    let before = get(&oids);
    let polled = device.poll(BUDGET).await;
    let after = get(&oids);
    assert_eq!(polled.outcome, Outcome::Answered);
    assert_eq!(polled.samples.len(), oids.len());
    let mut equal = 0;
    for (oid, (name, _, value)) in oids.iter().zip(&polled.samples) {
        let value = value.as_ref().unwrap_or_else(|reason| panic!("{name} {oid}: {reason:?}")).as_num().unwrap();
        let (low, high) = (before[oid].min(after[oid]), before[oid].max(after[oid]));
        assert!((low..=high).contains(&value), "{oid}: {value}, snmpget reads {low} to {high}");
        equal += 1;
    }
    println!("{equal} points equal to what snmpget reads");
}

#[tokio::test]
async fn the_host_profile_reads_snmpd_with_its_tables() {
    if !have_net_snmp() {
        return;
    }
    let (_peer, port) = snmpd();
    let profile = profile::load("net-snmp/host", None).unwrap();
    let link = SnmpLink {
        address: format!("127.0.0.1:{port}"),
        access: Access::community("public"),
        timeout: Duration::from_secs(1),
        retries: 1,
    };
    let mut device = SnmpDevice::new(device((*profile).clone(), Link::Snmp(link.clone())), link);
    let polled = device.poll(BUDGET).await;
    let good: BTreeMap<String, Value> =
        polled.samples.iter().filter_map(|(name, _, v)| Some((name.to_string(), v.clone().ok()?))).collect();
    for want in ["host.load.1m", "host.memory.total", "host.uptime", "host.processes", "host.nic.lo.rx"] {
        assert!(good.contains_key(want), "{want} of {good:?}");
    }
    assert!(good.keys().any(|name| name.starts_with("host.fs.") && name.ends_with(".size")), "{good:?}");
    let meta = polled.meta.expect("the tables' rows change the description");
    assert!(meta.firmware.is_some_and(|firmware| firmware.starts_with("Linux")));

    // An object the device lacks costs that point only.
    let text = "format = 1\ntitle = \"t\"\nkind = \"pdu\"\nsources = [\"t\"]\n[snmp]\n\
        [[point]]\nname = \"outlet.1.current\"\nread = \"1.3.6.1.2.1.25.1.6.0\"\n\
        [[point]]\nname = \"outlet.2.current\"\nread = \"1.3.6.1.4.1.99999.1.0\"\n\
        [[point]]\nname = \"outlet.3.current\"\nread = \"1.3.6.1.4.1.99999.2.0\"\noptional = true\n";
    let profile = profile::parse("t/t", "t", text).unwrap();
    let Link::Snmp(link) = &device.state.config.link else { unreachable!() };
    let link = link.clone();
    let mut device = SnmpDevice::new(self::device(profile, Link::Snmp(link.clone())), link.clone());
    let samples = device.poll(BUDGET).await.samples;
    assert_eq!(samples.len(), 2, "an optional point that never was is not told: {samples:?}");
    assert!(samples[0].2.is_ok());
    assert_eq!(samples[1].2, Err(BadReason::Exception));

    // A wrong community is silence: v2c gives no other sign.
    let link = SnmpLink { access: Access::community("wrong"), timeout: Duration::from_millis(100), retries: 1, ..link };
    let profile = profile::parse("t/t", "t", text).unwrap();
    let mut device = SnmpDevice::new(self::device(profile, Link::Snmp(link.clone())), link);
    let start = Instant::now();
    let polled = device.poll(BUDGET).await;
    assert_eq!(polled.outcome, Outcome::Silent);
    assert!(start.elapsed() < Duration::from_millis(600), "two tries of 100 ms: {:?}", start.elapsed());
}

/// Serves the registers of an iEM3000 meter. Arguments: port.
const PYMODBUS_SERVER: &str = r"
import asyncio, struct, sys
from pymodbus.server import StartAsyncTcpServer
from pymodbus.datastore import ModbusSparseDataBlock, ModbusDeviceContext, ModbusServerContext

def words(raw):
    return list(struct.unpack('>%dH' % (len(raw) // 2), raw))

registers = {}
def put(address, raw):
    for i, word in enumerate(words(raw)):
        registers[address + i] = word

for base, values in ((2999, (11.25, 12.5, 13.75)), (3027, (230.1, 231.2, 229.9)), (3053, (2.5, 2.75, 3.0))):
    for i, value in enumerate(values):
        put(base + 2 * i, struct.pack('>f', value))
for address, value in ((3059, 8.25), (3067, 1.5), (3075, 8.4), (3109, 49.98)):
    put(address, struct.pack('>f', value))
put(3203, struct.pack('>q', 123456789012))
put(3207, struct.pack('>q', 42))
for address in range(2990, 3220):
    registers.setdefault(address, 0)

block = ModbusSparseDataBlock(registers)
context = ModbusServerContext(devices=ModbusDeviceContext(hr=block), single=True)
asyncio.run(StartAsyncTcpServer(context, address=('127.0.0.1', int(sys.argv[1]))))
";

#[tokio::test]
async fn a_meter_served_by_pymodbus_reads_as_mbpoll_reads_it() {
    let python = python();
    if !installed(&python, &["-c", "import pymodbus.server"], "pymodbus 3.16 from PyPI")
        || !installed("mbpoll", &["-V"], "mbpoll")
    {
        return;
    }
    let (dir, port) = (scratch("pymodbus"), free_tcp_port());
    let script = dir.join("meter.py");
    std::fs::write(&script, PYMODBUS_SERVER).unwrap();
    let child = Command::new(&python)
        .arg(&script)
        .arg(port.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _peer = Peer { child, dir };
    wait_for("pymodbus", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());

    let profile = profile::load("schneider/iem3000", None).unwrap();
    let link = ModbusLink::tcp(format!("127.0.0.1:{port}"), 1, Duration::from_secs(1));
    let address = link.address.clone();
    let mut bus = Bus::new(address, vec![(device((*profile).clone(), Link::Modbus(link.clone())), link)]);
    let polled = bus.poll(0, BUDGET).await;
    assert_eq!((polled.outcome, polled.trouble), (Outcome::Answered, None));
    let read: BTreeMap<String, f64> = polled
        .samples
        .iter()
        .map(|(name, _, value)| (name.to_string(), value.as_ref().unwrap().as_num().unwrap()))
        .collect();
    assert_eq!(read["meter.energy.import"], 123_456_789_012.0);
    assert_eq!(read["meter.l1.voltage"], 230.1, "the shortest number of the float");

    // mbpoll reads each float by itself.
    let mbpoll = |register: u16| -> f64 {
        let (port, register) = (port.to_string(), register.to_string());
        let text = output(
            "mbpoll",
            &[
                "-m",
                "tcp",
                "-p",
                &port,
                "-a",
                "1",
                "-0",
                "-1",
                "-B",
                "-t",
                "4:float",
                "-r",
                &register,
                "-c",
                "1",
                "127.0.0.1",
            ],
        );
        let line = text.lines().find(|line| line.starts_with('[')).unwrap_or_else(|| panic!("mbpoll said {text}"));
        line.rsplit(':').next().unwrap().trim().parse().unwrap()
    };
    for (point, register, factor) in [
        ("meter.l1.current", 2999, 1.0),
        ("meter.l3.current", 3003, 1.0),
        ("meter.l2.voltage", 3029, 1.0),
        ("meter.l3.realpower", 3057, 1_000.0),
        ("meter.realpower", 3059, 1_000.0),
        ("meter.reactivepower", 3067, 1_000.0),
        ("meter.power", 3075, 1_000.0),
        ("meter.frequency", 3109, 1.0),
    ] {
        let want = mbpoll(register) * factor;
        assert!((read[point] - want).abs() <= 1e-4 * want.abs(), "{point}: {} and {want}", read[point]);
    }
}

/// dnsmasq with a few names of its own, asking nobody else.
fn dnsmasq() -> (Peer, std::net::SocketAddr) {
    let (dir, port) = (scratch("dnsmasq"), free_tcp_port());
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv", "--no-hosts"])
        .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local=/example/"])
        .arg(format!("--port={port}"))
        .args(["--host-record=ups-a1.example,127.0.0.1,300", "--cname=power.example,ups-a1.example,300"]);
    if rustix::process::geteuid().is_root() {
        command.arg("--user=root");
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("dnsmasq", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    (Peer { child, dir }, std::net::SocketAddr::from(([127, 0, 0, 1], port)))
}

#[tokio::test]
async fn a_device_is_found_by_its_name_and_an_answer_outlives_the_name_server() {
    if !have_net_snmp() || !installed("dnsmasq", &["--version"], "dnsmasq-base") {
        return;
    }
    let (name_server, at) = dnsmasq();
    let (_snmpd, port) = snmpd();
    let profile = profile::parse(
        "test/uptime",
        "uptime",
        "format = 1\ntitle = \"t\"\nkind = \"host\"\nsources = [\"snmpd\"]\n[snmp]\n\
         [[point]]\nname = \"host.uptime\"\nread = \"1.3.6.1.2.1.1.3.0\"\nscale = 0.01\n",
    )
    .unwrap();
    let resolver = Resolver::below(std::path::Path::new("/nonexistent"), vec![at]);
    let poll = async |address: String| {
        let access = Access::community("public");
        let link = SnmpLink { address, access, timeout: Duration::from_secs(1), retries: 1 };
        let mut device = SnmpDevice::new(device(profile.clone(), Link::Snmp(link.clone())), link);
        device.find_with(&resolver);
        let polled = device.poll(BUDGET).await;
        (polled.outcome, polled.trouble)
    };
    for name in ["ups-a1.example", "power.example"] {
        assert_eq!(poll(format!("{name}:{port}")).await, (Outcome::Answered, None), "{name}");
    }
    let (outcome, trouble) = poll(format!("gone.example:{port}")).await;
    let told = format!("cannot reach gone.example:{port}: there is no `gone.example`, says name server {at}");
    assert_eq!((outcome, trouble), (Outcome::Refused, Some(told)));
    drop(name_server);
    for name in ["ups-a1.example", "power.example"] {
        assert_eq!(poll(format!("{name}:{port}")).await, (Outcome::Answered, None), "{name} holds for 300 s");
    }
}
