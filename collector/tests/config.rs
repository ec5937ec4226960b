//! A configuration is read whole, and every fault in it is found at once.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bcp_collector::config::{Config, ConfigError};

const OWN: &str = include_str!("site/collector-a.toml");

const POLICY: &str = r#"timing = "metro"
[ticket.prescriptions]
service = "recip-e"
mode = "auto"
accept_unfenced = true
sites = ["a", "b"]
preferred = "a"
rpo = "zero"
move_when = ["site_lost(holder)", "service_down(holder) for 30s"]
loss = "stop"
gates = { a = ["host-a"], b = ["host-b"] }
[service.recip-e]
title = { en = "Prescriptions" }
order = 1
ticket = "prescriptions"
checks = ["rx-a-from-a"]
effect = { doctors = { en = "Prescribe on paper." } }
[rule.supply-air-hot]
for_each = 'kind == "crac"'
when = 'p("supply.air.temperature") > 27.0'
title = { en = "Supply air too warm" }
[asset.chiller-a]
kind = "chiller"
location = "a"
"#;

struct Dir(PathBuf);

impl Dir {
    fn with(name: &str, own: &str, policy: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("bcp-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("collector.toml"), own).unwrap();
        std::fs::write(path.join("policy.toml"), policy).unwrap();
        Dir(path)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.0.join("collector.toml"))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_whole_configuration_is_read() {
    let dir = Dir::with("whole", OWN, POLICY);
    let config = dir.load().unwrap();
    assert_eq!(
        config.control.peers.values().collect::<Vec<_>>(),
        ["https://127.0.0.1:18530", "https://127.0.0.1:18560"]
    );
    assert_eq!(config.data_dir, dir.0.join("data"));
    assert_eq!(config.policy.tickets.len(), 1);
    let rule = &config.rules[0];
    assert_eq!(rule.table["title"]["en"], "Supply air too warm");
    assert_eq!((rule.places["when"].line, rule.places["title.en"].line), (20, 21));
}

#[test]
fn every_fault_is_named_with_its_place() {
    let own = OWN.replace("\"a\"\ndata", "\"x\"\ndata").replace("embedded = \"127.0.0.1", "embedded = \"0.0.0.0");
    let policy = POLICY
        .replace("mode = \"auto\"", "mode = \"always\"")
        .replace("preferred", "prefered")
        .replace("ticket = \"prescriptions\"", "ticket = \"nothing\"")
        .replace("timing = \"metro\"", "timing = { tick_ms = 250, election_min_ms = 750, election_max_ms = 1500, renew_ms = 1000, ttl_holder_ms = 10000, ttl_ms = 10000, acquire_after_ms = 4000, stop_max_ms = 4000 }");
    let dir = Dir::with("faults", &own, &policy);
    let Err(ConfigError::Faults(faults)) = dir.load() else { panic!("must be refused") };
    let keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    for key in [
        "site",
        "mqtt.embedded",
        "timing",
        "ticket.prescriptions.mode",
        "ticket.prescriptions.prefered",
        "service.recip-e.ticket",
    ] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert_eq!(faults.len(), 6, "{faults:#?}");
    let mode = faults.iter().find(|fault| fault.key.ends_with("mode")).unwrap();
    assert_eq!((mode.at.line, mode.at.column), (4, 8));
    assert_eq!(mode.problem, "`always` is none of off, observe, confirm, auto");
}

#[test]
fn a_long_term_database_is_off_unless_configured_and_its_faults_are_named() {
    let with = |name: &str, text: &str| Dir::with(name, &format!("{OWN}\n[influx]\n{text}"), POLICY).load();
    assert_eq!(Dir::with("influx-off", OWN, POLICY).load().unwrap().influx, None);
    let config =
        with("influx", "url = \"http://127.0.0.1:8428/\"\nbucket = \"bcp\"\ntoken_file = \"token\"\n").unwrap();
    let influx = config.influx.unwrap();
    assert_eq!(influx.url, "http://127.0.0.1:8428");
    assert!(influx.token_file.unwrap().ends_with("token"));
    let faults = |name: &str, text: &str| -> Vec<String> {
        let Err(ConfigError::Faults(faults)) = with(name, text) else { panic!("{text} must be refused") };
        faults.into_iter().map(|fault| fault.key).collect()
    };
    let keys = faults("influx-clear", "url = \"http://10.0.0.1:8086\"\nbucket = \"b\"\ntoken_file = \"token\"\n");
    assert_eq!(keys, ["influx.url"], "a token does not travel in clear");
    let keys = faults("influx-ca", "url = \"https://db:8086\"\nbucket = \"b\"\n");
    assert_eq!(keys, ["influx.ca"]);
    let keys =
        faults("influx-all", "url = \"db:8086\"\ntimeout = \"0s\"\nqueue_mib = 1\nrequest_kib = 0\nbuckt = \"b\"\n");
    for key in
        ["influx.url", "influx.bucket", "influx.buckt", "influx.timeout", "influx.queue_mib", "influx.request_kib"]
    {
        assert!(keys.iter().any(|found| found == key), "{key} in {keys:?}");
    }
}
