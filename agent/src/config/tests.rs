use super::*;

const GOOD: &str = r#"
site = "a"
agent = "gw-a"
state_dir = "/tmp/x"
status_listen = "127.0.0.1:18014"
[host]
id = "srv-a1"
[mqtt]
broker = "127.0.0.1:18003"
[[device]]
id = "crac-a1"
kind = "crac"
profile = "airedale/pco-cooler"
interval = "1s"
modbus = { address = "127.0.0.1:18020", unit = 1, timeout = "500ms" }
[[device]]
id = "ups-a1"
profile = "ietf/ups-mib"
snmp = { address = "127.0.0.1:18030", version = "2c", community = "public", timeout = "1s", retries = 1 }
[[check]]
id = "rx-a-from-a"
service = "prescriptions"
target_site = "a"
http = { url = "http://127.0.0.1:18011/health", expect_status = 200, expect_body = "active", timeout = "1s" }
"#;

#[test]
fn a_good_configuration_is_read() {
    let config = parse("agent.toml", GOOD).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((config.devices.len(), config.checks.len()), (2, 1));
    assert_eq!(config.devices[1].kind, "ups");
    assert_eq!(config.hash.len(), 16);
    assert_eq!(config.host.unwrap().interval, Duration::from_secs(5));
    assert!(!format!("{:?}", config.devices[1].link).contains("public"), "a community is never printed");
}

#[test]
fn every_fault_is_told_at_once_with_its_place() {
    let text = r#"
site = "c"
agent = "GW"
[mqtt]
broker = "nowhere"
[[device]]
id = "ups-1"
profile = "ietf/ups-mip"
intervall = "1s"
snmp = { address = "127.0.0.1", community = "public" }
[[device]]
id = "ups-1"
profile = "airedale/pco-cooler"
kind = "ups"
interval = "1"
snmp = { address = "127.0.0.1:161", version = "4", community = "x" }
[[check]]
id = "c"
service = "s"
http = { url = "htp://x" }
"#;
    let faults = parse("agent.toml", text).unwrap_err();
    let seen: Vec<(usize, &str)> = faults.0.iter().map(|f| (f.line, f.key.as_str())).collect();
    for want in [
        (2, "site"),
        (3, "agent"),
        (1, "state_dir"),
        (5, "mqtt.broker"),
        (8, "device[0].profile"),
        (9, "device[0].intervall"),
        (10, "device[0].snmp.address"),
        (12, "device[1].id"),
        (14, "device[1].kind"),
        (15, "device[1].interval"),
        (16, "device[1].snmp.version"),
        (16, "device[1].snmp"),
        (20, "check[0].http.url"),
    ] {
        assert!(seen.contains(&want), "{want:?}\n{faults}");
    }
    let text = faults.to_string();
    assert!(text.contains("  at agent.toml:9:1 device[0].intervall\n  help: did you mean `interval`?"), "{text}");
    assert!(text.contains("did you mean `ietf/ups-mib`?") && text.contains("did you mean `127.0.0.1:161`?"), "{text}");
}
