//! The agent's own drivers read every simulated device through its configuration: every point is good.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use bcp_agent::source::Group;
use bcp_fleet::devices;
use bcp_fleet::layout::{Layout, Timing};
use bcp_fleet::ports::BasePort;
use bcp_wire::{BadReason, Site, Value};

const BUDGET: Duration = Duration::from_secs(5);

/// Readings by device and point.
type Read = BTreeMap<(String, String), Result<Value, BadReason>>;

async fn read_all(layout: &Layout, site: Site) -> Read {
    let config = bcp_agent::config::load(&layout.config(site, "gateway")).unwrap();
    let mut read = Read::new();
    for group in bcp_agent::source::device_groups(config.devices.iter().cloned().map(std::sync::Arc::new)) {
        let (id, polled) = match group {
            Group::Bus(mut bus) => {
                let id = bus.devices().next().unwrap().config.id.to_string();
                (id, bus.poll(0, BUDGET).await)
            }
            Group::Snmp(mut device) => {
                let id = device.state.config.id.to_string();
                (id, device.poll(BUDGET).await)
            }
            Group::Check(_) | Group::Host(_) => continue,
        };
        assert_eq!(polled.trouble, None, "{id}");
        for (point, _, reading) in polled.samples {
            read.insert((id.clone(), point.to_string()), reading);
        }
    }
    read
}

#[tokio::test]
async fn the_agent_reads_every_point_of_every_device() {
    bcp_fleet::install_crypto();
    let base: BasePort = "27000".parse().unwrap();
    let data_dir = std::env::temp_dir().join(format!("bcp-fleet-devices-{}", std::process::id()));
    let layout = Layout {
        data_dir: data_dir.clone(),
        base,
        executable: "/usr/bin/true".into(),
        mosquitto: None,
        timing: Timing::Metro,
        reference: None,
        with_servers: false,
    };
    layout.prepare().unwrap();
    for site in Site::ALL {
        tokio::spawn(async move { devices::run(site, base).await.unwrap() });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    for site in Site::ALL {
        let read = read_all(&layout, site).await;
        let bad: Vec<_> = read.iter().filter(|(_, reading)| reading.is_err()).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        let get = |device: &str, point: &str| -> Value {
            let key = (format!("{device}-{site}1"), point.to_owned());
            read.get(&key).and_then(|reading| reading.clone().ok()).unwrap_or_else(|| panic!("no {key:?}"))
        };
        let num = |device: &str, point: &str| get(device, point).as_num().unwrap();
        assert!((17.0..19.5).contains(&num("crac", "supply.air.temperature")));
        assert_eq!(get("crac", "unit.state"), Value::Text("on".to_owned()));
        assert_eq!(get("crac", "unit.alarm"), Value::Text("none".to_owned()));
        assert_eq!(get("ups", "ups.status"), Value::Text("OL".to_owned()));
        assert!((500.0..1_500.0).contains(&num("ups", "battery.runtime")), "{}", num("ups", "battery.runtime"));
        assert!((55.0..65.0).contains(&num("ups", "ups.load")));
        assert!(num("meter", "meter.realpower") > 3_000.0);
        assert!(num("meter", "meter.energy.import") > 1_000_000.0);
        assert!((5.0..20.0).contains(&num("nas", "host.cpu.used")));
        assert!(num("nas", "host.fs.root.used") > 1e9);
        assert!(num("nas", "host.nic.eth0.rx") > 1e9);
        println!("{site}: {} points", read.len());
    }
    std::fs::remove_dir_all(&data_dir).unwrap();
}
