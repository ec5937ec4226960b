//! Order, shared time and outcomes, with a stand-in for systemctl: a script that keeps each unit's state in a file, takes
//! what systemctl takes and says what it says.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use super::step::tests::step;
use super::systemd::Systemd;
use super::{Actuator, Outcome, StepName, carry_out};
use crate::gate::record::BootMs;

/// A unit is active while its file holds a number. `NAME.stubborn` ends by SIGKILL only, `NAME.hangs` not at all,
/// `NAME.broken` does not start.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
shift 2; verb=$1; shift
for unit; do :; done
echo "$verb $unit" >> calls
case $verb in
  start) [ -e "$unit.broken" ] && { echo "Job for $unit failed." >&2; exit 1; }; echo 412 > "$unit" ;;
  stop) [ -e "$unit.stubborn" ] || [ -e "$unit.hangs" ] || rm -f "$unit" ;;
  kill) [ -e "$unit.hangs" ] || rm -f "$unit" ;;
  show) if [ -e "$unit" ]; then echo ActiveState=active; echo "MainPID=$(cat "$unit")"; else echo ActiveState=inactive; echo MainPID=0; fi
        echo ControlPID=0 ;;
esac
"#;

struct Host {
    dir: PathBuf,
    actuators: Vec<Actuator>,
}

impl Host {
    fn new(name: &str, units: &[&str]) -> Host {
        let dir = std::env::temp_dir().join(format!("bcp-act-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let systemctl = dir.join("systemctl");
        std::fs::write(&systemctl, SYSTEMCTL).unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let unit = |unit: &&str| Actuator::Systemd(Systemd { unit: (*unit).to_owned(), systemctl: systemctl.clone() });
        Host { actuators: units.iter().map(unit).collect(), dir }
    }

    fn mark(&self, name: &str) {
        std::fs::write(self.dir.join(name), "").unwrap();
    }

    async fn does(&self, name: StepName) -> (Outcome, String) {
        carry_out(&self.actuators, &step(name, 4)).await
    }

    /// What was asked of systemctl, but for looking.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.dir.join("calls")).unwrap_or_default();
        let _ = std::fs::remove_file(self.dir.join("calls"));
        calls.lines().filter(|call| !call.starts_with("show")).map(str::to_owned).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn up_in_order_and_down_in_reverse() {
    let host = Host::new("order", &["db.service", "app.service"]);
    assert_eq!(host.does(StepName::VerifyStopped).await.0, Outcome::Done);
    assert_eq!(
        host.does(StepName::Promote).await,
        (Outcome::Done, "db.service: started; app.service: started".to_owned())
    );
    assert_eq!(host.calls(), ["start db.service", "start app.service"]);
    assert_eq!(host.does(StepName::Promote).await.0, Outcome::Already);
    assert_eq!(host.does(StepName::Publish).await.0, Outcome::Already);
    let (outcome, line) = host.does(StepName::VerifyStopped).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(line.contains("app.service: it is active with main process 412"), "{line}");
    assert_eq!(host.does(StepName::Stop).await.0, Outcome::Done);
    assert_eq!(host.calls(), ["stop app.service", "stop db.service"]);
    assert_eq!(host.does(StepName::Stop).await.0, Outcome::Already);
    assert_eq!(host.does(StepName::VerifyStopped).await.0, Outcome::Done);
}

#[tokio::test]
async fn what_fails_to_start_ends_the_step_and_what_fails_to_stop_does_not() {
    let host = Host::new("failure", &["db.service", "app.service"]);
    host.mark("db.service.broken");
    let (outcome, line) = host.does(StepName::Promote).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(line.starts_with("db.service: systemctl start failed") && line.contains("Job for db.service"), "{line}");
    assert_eq!(host.calls(), ["start db.service"], "the next one is not begun");
    std::fs::remove_file(host.dir.join("db.service.broken")).unwrap();
    host.does(StepName::Promote).await;
    host.mark("app.service.hangs");
    host.calls();
    let mut stop = step(StepName::Stop, 4);
    stop.limit = Duration::from_secs(2);
    let (outcome, line) = carry_out(&host.actuators, &stop).await;
    assert_eq!((outcome, line.starts_with("app.service: not done within")), (Outcome::Failed, true), "{line}");
    assert!(host.calls().contains(&"stop db.service".to_owned()), "one that hangs keeps no other from stopping");
    assert!(!host.dir.join("db.service").exists());
}

#[tokio::test]
async fn a_unit_that_does_not_stop_in_time_is_killed() {
    let host = Host::new("stubborn", &["app.service"]);
    host.does(StepName::Promote).await;
    host.mark("app.service.stubborn");
    let mut stop = step(StepName::Stop, 4);
    stop.limit = Duration::from_secs(1);
    assert_eq!(carry_out(&host.actuators, &stop).await, (Outcome::Done, "app.service: killed".to_owned()));
}

#[tokio::test]
async fn nothing_is_started_once_the_lease_has_run_out() {
    let host = Host::new("late", &["app.service"]);
    let mut late = step(StepName::Promote, 4);
    late.deadline = Some(BootMs(1));
    let (outcome, line) = carry_out(&host.actuators, &late).await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(line.contains("the lease ran out at 0.001s"), "{line}");
    assert!(host.calls().is_empty());
}

#[test]
fn who_has_nothing_to_do_in_a_step_takes_no_share_of_its_time() {
    let read = |text: &str| serde_json::from_str::<Actuator>(text).unwrap();
    let dns = read(
        r#"{"kind":"dns","server":"127.0.0.1:53","zone":"example.org","name":"rx.example.org","addresses":["10.1.0.10"],
            "key":"gate","key_file":"/etc/bcp/tsig"}"#,
    );
    let haproxy = read(r#"{"kind":"haproxy","socket":"/run/haproxy.sock","servers":{"a":["rx/a1"]}}"#);
    for name in StepName::ALL {
        assert_eq!(dns.is_concerned(name), name == StepName::Publish, "{name:?}");
        assert_eq!(haproxy.is_concerned(name), name != StepName::Promote, "{name:?}");
    }
}

#[tokio::test]
async fn an_actuator_that_has_a_step_for_itself_has_all_of_its_time() {
    let host = Host::new("share", &["app.service"]);
    host.does(StepName::Promote).await;
    host.mark("app.service.hangs");
    let dns = r#"{"kind":"dns","server":"127.0.0.1:1","zone":"example.org","name":"rx.example.org","addresses":["10.1.0.10"],
        "key":"gate","key_file":"/etc/bcp/tsig"}"#;
    let actuators = [host.actuators.clone(), vec![serde_json::from_str(dns).unwrap(); 3]].concat();
    let mut stop = step(StepName::Stop, 4);
    stop.limit = Duration::from_secs(2);
    let (outcome, line) = carry_out(&actuators, &stop).await;
    let ms = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).next();
    assert!(outcome == Outcome::Failed && ms.is_some_and(|ms| ms > 1_500), "a quarter would be 500 ms: {line}");
}
