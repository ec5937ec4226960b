//! Behaviour 25, as somebody meets it who knows nothing of the agent: it explains itself.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod support {
    pub mod agent_process;
    pub mod modbus_server;
    pub mod process;
}

use std::process::{Command, Output};

use support::agent_process::{Agent, free_tcp_port, meter};
use support::modbus_server::{Asked, Reply, server};
use support::process::wait_for;

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// 25: what is wrong, where, since when and why is in the output of `check`, `probe` and `status`.
#[tokio::test]
async fn behaviour_25_it_explains_itself() {
    let (well, _) = server(|asked| Reply::Words(vec![500; usize::from(asked.count)]));
    let (silent, _) = server(|_| Reply::Silence);
    let (refusing, _) = server(|_: Asked| Reply::Exception(2));
    let rest = format!(
        "[mqtt]\nbroker = \"127.0.0.1:{}\"\n{}{}{}",
        free_tcp_port(),
        meter("meter-well", well, "100ms"),
        meter("meter-dead", silent, "100ms"),
        meter("meter-odd", refusing, "100ms")
    );
    let agent = Agent::start("explains", &rest);
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_bcp-agent"))
            .args(args)
            .arg("--config")
            .arg(agent.dir.join("agent.toml"))
            .output()
            .unwrap()
    };

    // What would be asked of each device, before anything is asked.
    let check = run(&["check"]);
    assert!(check.status.success() && told(&check).contains("configuration is sound"), "{}", told(&check));
    assert!(["meter-well", "meter-dead", "meter-odd"].iter().all(|id| told(&check).contains(id)), "{}", told(&check));

    // Bytes beside what they mean, and where they are from.
    let probe = run(&["probe", "meter-well"]);
    for part in ["meter.frequency", "500", "01f4", "input:0", "answers"] {
        assert!(told(&probe).contains(part), "no `{part}` in\n{}", told(&probe));
    }
    let dead = run(&["probe", "meter-dead"]);
    assert!(!dead.status.success() && told(&dead).contains("timeout"), "{}", told(&dead));

    // Who answers, since when not, and why.
    wait_for("both failures", async || {
        let error = |id: &str| agent.device(id).map(|device| device["error"].clone());
        error("meter-dead") == Some("timeout".into()) && error("meter-odd") == Some("exception".into())
    })
    .await;
    let status = run(&["status"]);
    let text = told(&status);
    let line =
        |id: &str| text.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("no {id} in\n{text}"));
    assert!(line("meter-well").contains(" yes "), "{text}");
    assert!(line("meter-dead").contains("never") && line("meter-dead").contains("timeout"), "{text}");
    assert!(line("meter-odd").contains("exception"), "{text}");
    assert!(text.contains("not connected") && text.contains("spool"), "{text}");
    let json = run(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["devices"].as_array().unwrap().len(), 3);

    // Every fault of a configuration at once, each with its place.
    let faulty = std::fs::read_to_string(agent.dir.join("agent.toml")).unwrap();
    let faulty = faulty.replace("interval = \"100ms\"", "intervall = \"100ms\"").replace("test/meter", "test/metre");
    std::fs::write(agent.dir.join("agent.toml"), &faulty).unwrap();
    let refused = run(&["check"]);
    assert_eq!(refused.status.code(), Some(64));
    let text = told(&refused);
    for n in 0..3 {
        for key in ["intervall", "profile"] {
            assert!(text.contains(&format!("device[{n}].{key}")), "device[{n}].{key} is not named in\n{text}");
        }
    }
    assert!(text.contains("did you mean `interval`?") && text.contains("agent.toml:"), "{text}");
}
