//! Modbus profiles and decoding against register images with known values, served by pymodbus.
//!
//! `BCP_RECORDINGS` names the folder of the images, which is not part of this project: unset, the tests say that they
//! skip. `BCP_PYTHON` names an interpreter that has pymodbus (default `python3`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bcp_agent::config::{DeviceConfig, Link, ModbusLink};
use bcp_agent::profile::{self, Profile};
use bcp_agent::source::modbus::Bus;
use bcp_wire::Value;
use serde_json::Value as Json;

const START_LIMIT: Duration = Duration::from_secs(20);
/// Polls in which holes of an image must have been learnt.
const MOST_POLLS: usize = 12;

/// Registers from standard input (`{address: word}`), as holding and input registers. Argument: port.
const SERVER: &str = r"
import asyncio, json, sys
from pymodbus.server import StartAsyncTcpServer
from pymodbus.datastore import ModbusSparseDataBlock, ModbusDeviceContext, ModbusServerContext

registers = {int(address): word for address, word in json.load(sys.stdin).items()}
block = lambda: ModbusSparseDataBlock(dict(registers))
context = ModbusServerContext(devices=ModbusDeviceContext(hr=block(), ir=block()), single=True)
asyncio.run(StartAsyncTcpServer(context, address=('127.0.0.1', int(sys.argv[1]))))
";

struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> String {
    std::env::var("BCP_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// The folder of the images, where it and pymodbus are there.
fn images() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("BCP_RECORDINGS") else {
        eprintln!("SKIPPED: BCP_RECORDINGS is not set: no register images are here");
        return None;
    };
    let present = Command::new(python()).args(["-c", "import pymodbus.server"]).stderr(Stdio::null()).status();
    if !present.is_ok_and(|status| status.success()) {
        let line = "SKIPPED: pymodbus is not there (install pymodbus 3.16 from PyPI)";
        assert!(std::env::var("BCP_STRICT").as_deref() != Ok("1"), "{line}");
        eprintln!("{line}");
        return None;
    }
    Some(PathBuf::from(folder).join("modbus/truth"))
}

fn json(folder: &std::path::Path, name: &str) -> Json {
    serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
}

fn serve(registers: &BTreeMap<u16, u16>) -> Server {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = Command::new(python())
        .args(["-c", SERVER])
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(registers).unwrap().as_bytes()).unwrap();
    let server = Server { child, address: format!("127.0.0.1:{port}") };
    let began = Instant::now();
    while std::net::TcpStream::connect(&server.address).is_err() {
        assert!(began.elapsed() < START_LIMIT, "pymodbus does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    server
}

/// Good readings by name, after holes of the image were learnt.
async fn read(profile: Profile, server: &Server) -> BTreeMap<String, (String, Value)> {
    let link = ModbusLink::tcp(server.address.clone(), 1, Duration::from_secs(2));
    let config = DeviceConfig {
        id: "image".parse().unwrap(),
        kind: profile.kind.clone(),
        profile: Arc::new(profile),
        location: None,
        parent: None,
        interval: Duration::from_secs(60),
        link: Link::Modbus(link.clone()),
    };
    let mut bus = Bus::new(server.address.clone(), vec![(Arc::new(config), link)]);
    let mut before = None;
    for _ in 0..MOST_POLLS {
        bus.poll(0, Duration::from_secs(10)).await;
        let requests = bus.planned().next();
        if before == Some(requests) {
            break;
        }
        before = Some(requests);
    }
    let state = bus.devices().next().unwrap();
    let good = state.rows().filter_map(|(described, reading)| {
        let value = reading.as_ref()?.as_ref().ok()?;
        Some((described.name.to_string(), (described.source.clone(), value.clone())))
    });
    good.collect()
}

fn same(ours: f64, truth: f64) -> bool {
    (ours - truth).abs() <= (1e-4 * truth.abs()).max(0.005)
}

fn built_in(id: &str) -> Profile {
    (*profile::load(id, None).unwrap_or_else(|error| panic!("{id}: {error:?}"))).clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconstructed_devices_read_as_they_were_read() {
    let Some(folder) = images() else { return };
    // Name of the truth, point of ours, factor to our unit. Texts, dates and delays are no measurements.
    let ups = [
        "battery.runtime",
        "battery.charge",
        "battery.voltage",
        "battery.temperature",
        "ups.load",
        "output.current",
        "output.voltage",
        "output.frequency",
        "input.voltage",
        "ups.power.nominal",
        "ups.realpower.nominal",
    ];
    let meter = [
        ("voltage", "meter.l1.voltage"),
        ("current", "meter.l1.current"),
        ("power_active", "meter.realpower"),
        ("power_apparent", "meter.power"),
        ("power_reactive", "meter.reactivepower"),
        ("power_factor", "meter.powerfactor"),
        ("frequency", "meter.frequency"),
    ];
    let ups: Vec<(&str, &str)> =
        ups.into_iter().map(|name| (name, name)).chain([("experimental.output.energy", "output.energy")]).collect();
    for (image, id, names) in [
        ("apc_smt750i_reconstructed.json", "apc/smart-ups-modbus", ups),
        ("sdm120_reconstructed.json", "eastron/sdm120", meter.to_vec()),
    ] {
        let image_json = json(&folder, image);
        let registers: BTreeMap<u16, u16> = image_json["registers"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(address, word)| (address.parse().unwrap(), u16::try_from(word.as_u64().unwrap()).unwrap()))
            .collect();
        let server = serve(&registers);
        let ours = read(built_in(id), &server).await;
        let mut equal = 0;
        for truth in image_json["truth"].as_array().unwrap() {
            let name = truth["nut_name"].as_str().or(truth["name"].as_str()).unwrap();
            let Some((_, point)) = names.iter().find(|(known, _)| *known == name) else { continue };
            let value = truth["value"].as_f64().or_else(|| truth["value"].as_str()?.parse().ok()).unwrap();
            let (source, got) = ours.get(*point).unwrap_or_else(|| panic!("{id} lacks {point}: {ours:?}"));
            let got = got.as_num().unwrap();
            // The truth of the UPS is rounded to its second digit.
            assert!(same(got, value) || (got - value).abs() <= 0.006, "{id} {point} {source}: {got}, truth {value}");
            equal += 1;
        }
        println!("{image:<34}{id:<24}{:>4} values, {equal:>4} equal", names.len());
        assert_eq!(equal, names.len(), "{id}");
    }
}

/// Name, address, value.
type Truth = (String, u16, f64);

/// Registers and truths of a scenario.
fn scenario(scenario: &Json) -> (BTreeMap<u16, u16>, Vec<Truth>) {
    let low_first = scenario["word_order"].as_str() == Some("<");
    let mut registers = BTreeMap::new();
    let mut truths = Vec::new();
    for block in scenario["blocks"].as_array().unwrap() {
        let mut address = u16::try_from(block["address"].as_u64().unwrap()).unwrap();
        for cell in block["cells"].as_array().unwrap() {
            let (name, value) = (cell["name"].as_str().unwrap(), cell["value"].as_str().unwrap());
            let number: f64 = value.parse().unwrap();
            #[allow(clippy::cast_possible_truncation)]
            let bytes: Vec<u8> = match cell["type"].as_str().unwrap() {
                "32bit_int" => (number as i32).to_be_bytes().to_vec(),
                "32bit_float" => (number as f32).to_be_bytes().to_vec(),
                _ => (number as i16).to_be_bytes().to_vec(),
            };
            let mut words: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            if low_first {
                words.reverse();
            }
            let expected = scenario["expect"][name].as_f64().unwrap_or(number);
            if name != "empty" && !name.starts_with("padding") {
                truths.push((name.to_owned(), address, expected));
            }
            for word in words {
                registers.insert(address, word);
                address += 1;
            }
        }
    }
    (registers, truths)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn simulated_meters_read_as_they_are_set() {
    let Some(folder) = images() else { return };
    for (which, id) in [("garo.feature", "garo/gnm3d"), ("sdm.feature", "eastron/sdm120")] {
        let all = json(&folder, "sdm_modbus_features.json");
        let found = all.as_array().unwrap().iter().find(|one| one["file"].as_str() == Some(which)).unwrap();
        let (registers, truths) = scenario(found);
        let server = serve(&registers);
        let ours = read(built_in(id), &server).await;
        let by_address: BTreeMap<u16, (&String, f64)> = ours
            .iter()
            .filter_map(|(name, (source, value))| {
                Some((source.split_once(':')?.1.parse().ok()?, (name, value.as_num()?)))
            })
            .collect();
        let (mut equal, mut unread) = (0, Vec::new());
        for (name, address, value) in &truths {
            // The scenario counts energy in kWh.
            let energy =
                name.contains("_energy") || name.starts_with("import_energy") || name.starts_with("export_energy");
            let Some((point, got)) = by_address.get(address) else {
                unread.push(name.as_str());
                continue;
            };
            // The registers at 24 and 30 of this meter are powers that the scenario names energies.
            let truth = if energy && point.contains("energy") { value * 1_000.0 } else { *value };
            assert!(same(*got, truth), "{id} {point} at {address}: {got}, truth {name} = {truth}");
            equal += 1;
        }
        println!("{which:<34}{id:<24}{:>4} values, {equal:>4} equal, not read: {}", truths.len(), unread.join(" "));
        assert!(equal >= 10 && unread.iter().all(|name| !ours.contains_key(*name)));
    }
}

/// `int16(-5)` to -5.
fn expected(text: &str) -> Option<f64> {
    text.split_once('(')?.1.strip_suffix(')')?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_order_decode_as_another_tool_decodes_them() {
    let Some(folder) = images() else { return };
    let vectors = json(&folder, "telegraf_decode_vectors.json");
    let mut registers = BTreeMap::new();
    let mut text =
        String::from("format = 1\ntitle = \"t\"\nkind = \"meter\"\nsources = [\"t\"]\n[modbus]\nmax_gap = 0\n");
    let mut wanted: BTreeMap<String, (String, f64)> = BTreeMap::new();
    let (mut address, mut without) = (0_u16, BTreeMap::<String, usize>::new());
    for (i, vector) in vectors.as_array().unwrap().iter().enumerate() {
        let kind = vector["dataTypeIn"].as_str().or(vector["dataType"].as_str()).unwrap_or("");
        let bytes: Vec<u8> =
            vector["bytes"].as_array().unwrap().iter().map(|b| u8::try_from(b.as_u64().unwrap()).unwrap()).collect();
        let bit: Option<u8> = vector["bit"].as_str().and_then(|bit| bit.parse().ok());
        let kind_of_ours = match kind {
            "INT16" => "i16",
            "UINT16" | "BIT" => "u16",
            "INT32" => "i32",
            "UINT32" => "u32",
            "INT64" => "i64",
            "UINT64" => "u64",
            "FLOAT32" | "FLOAT32-IEEE" => "f32",
            "FLOAT64" | "FLOAT64-IEEE" => "f64",
            _ => "",
        };
        let order = match vector["byteOrder"].as_str().unwrap_or("AB") {
            "AB" | "ABCD" | "ABCDEFGH" => "abcd",
            "BA" | "BADC" | "BADCFEHG" => "badc",
            "CDAB" | "GHEFCDAB" => "cdab",
            "DCBA" | "HGFEDCBA" => "dcba",
            _ => "",
        };
        // An output that is narrower than the value wraps; ours are doubles.
        let out = vector["expected"].as_str().unwrap();
        let whole = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
            .iter()
            .any(|t| out.starts_with(t));
        let scale: f64 = vector["scale"].as_str().and_then(|scale| scale.parse().ok()).unwrap_or(1.0);
        let (true, Some(value)) =
            (!kind_of_ours.is_empty() && !order.is_empty() && bytes.len().is_multiple_of(2), expected(out))
        else {
            *without.entry(kind.to_owned()).or_default() += 1;
            continue;
        };
        let name = format!("vector.{}", i + 1);
        let _ = writeln!(
            text,
            "[[point]]\nname = \"{name}\"\nread = \"holding:{address}\"\ntype = \"{kind_of_ours}\"\norder = \"{order}\"\npublish = false"
        );
        if let Some(bit) = bit {
            let _ = writeln!(text, "bit = {bit}");
        } else if (scale - 1.0).abs() > f64::EPSILON && scale != 0.0 {
            let _ = writeln!(text, "scale = {scale}");
        }
        wanted.insert(name, (out.to_owned() + if whole { " whole" } else { "" }, value));
        for pair in bytes.chunks(2) {
            registers.insert(address, u16::from_be_bytes([pair[0], pair[1]]));
            address += 1;
        }
    }
    let profile = profile::parse("t/t", "t", &text).unwrap_or_else(|faults| panic!("{faults:?}"));
    let server = serve(&registers);
    let ours = read(profile, &server).await;
    let mut differing = Vec::new();
    for (name, (out, value)) in &wanted {
        let got = ours.get(name).and_then(|(_, value)| value.as_num());
        // Where the other tool gives whole numbers it drops what is behind the point.
        let equal = got.is_some_and(|got| {
            // A negative number that it puts into an unsigned one wraps.
            let wrapped = if got < 0.0 { got + 18_446_744_073_709_551_616.0 } else { got };
            let whole = out.ends_with(" whole");
            same(got, *value)
                || whole && same(got.trunc(), *value)
                || out.starts_with("uint64") && same(wrapped, *value)
        });
        if !equal {
            differing.push(format!("{name} {out}: {got:?}"));
        }
    }
    println!(
        "{} vectors: {} read, {} equal; types we do not have: {without:?}",
        vectors.as_array().unwrap().len(),
        wanted.len(),
        wanted.len() - differing.len()
    );
    assert!(differing.is_empty(), "{differing:#?}");
    assert!(wanted.len() >= 120);
}
