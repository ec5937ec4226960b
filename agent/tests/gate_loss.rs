//! Loss policies and built-in actuators of gates and wardens as real processes.
#![allow(clippy::unwrap_used)]

mod support {
    pub mod gate_world;
}

use std::path::PathBuf;

use bcp_wire::Site;
use bcp_wire::control::{StepKind, StepOutcome};
use support::gate_world::*;

/// A unit is active while its file is there. As systemctl answers, so does this; no real systemd is asked.
const SYSTEMCTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
shift 2; verb=$1; shift
for unit; do :; done
case $verb in
  start) touch "$unit" ;;
  stop) rm -f "$unit" ;;
  show) if [ -e "$unit" ]; then echo ActiveState=active; echo MainPID=1; else echo ActiveState=inactive; echo MainPID=0; fi; echo ControlPID=0 ;;
esac
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_actuators_start_and_stop_also_where_the_configuration_is_gone() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new("built-in").await;
    let systemctl = world.dir.join("a/systemctl");
    std::fs::create_dir_all(world.dir.join("a")).unwrap();
    std::fs::write(&systemctl, SYSTEMCTL).unwrap();
    std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
    let unit =
        |name: &str| format!("{{ kind = \"systemd\", unit = \"{name}\", systemctl = \"{}\" }}", systemctl.display());
    let actuators = format!("actuators = [ {}, {} ]", unit("db.service"), unit("service.service"));
    let site = Host::with(&world, Site::A, free_port(), "", &actuators);
    let runs = |name: &str| site.dir.join(name).exists();
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    world.grant(1, Site::A);
    world.order("p1", StepKind::Promote, Site::A);
    within(LIMIT, "promotion", &site.dir, || world.outcome("p1") == Some(StepOutcome::Done)).await;
    assert!(runs("db.service") && runs("service.service"));
    world.order("s1", StepKind::Stop, Site::A);
    within(LIMIT, "an ordered stop", &site.dir, || world.outcome("s1") == Some(StepOutcome::Done)).await;
    assert!(!runs("db.service") && !runs("service.service"));
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "promotion", &site.dir, || world.outcome("p2") == Some(StepOutcome::Done)).await;
    // Somebody is in the middle of editing it, and the gate dies.
    std::fs::write(&site.config, "[gate").unwrap();
    drop(gate);
    within(TTL + LIMIT, "the warden stops it", &site.dir, || !runs("db.service") && !runs("service.service")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_demoted_is_verified_as_demoted() {
    let world = World::new("demote").await;
    let script = r#"loss = "demote"
        script = ["/bin/sh", "-c", """case $BCP_STEP in
            promote) echo writes > "$0" ;;
            demote) echo reads > "$0" ;;
            verify-demoted) [ "$(cat "$0")" = reads ] ;;
            *) exit 1 ;;
        esac""", "SERVICE"]"#;
    let service = world.dir.join("a/service");
    let site = Host::with(&world, Site::A, free_port(), "", &script.replace("SERVICE", &service.display().to_string()));
    let does = || std::fs::read_to_string(&site.service).unwrap_or_default().trim().to_owned();
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    world.order("s1", StepKind::Stop, Site::A);
    within(LIMIT, "an ordered stop", &site.dir, || world.outcome("s1") == Some(StepOutcome::Done)).await;
    assert_eq!(does(), "reads");
    world.grant(2, Site::A);
    world.order("p2", StepKind::Promote, Site::A);
    within(LIMIT, "promotion", &site.dir, || world.outcome("p2") == Some(StepOutcome::Done)).await;
    assert_eq!(does(), "writes");
    drop(gate);
    within(TTL + LIMIT, "the warden demotes it", &site.dir, || does() == "reads").await;
}

/// A gate whose watchdog is a file: every byte is a kick, a `V` its release.
fn fenced(world: &World) -> (Host, PathBuf) {
    let watchdog = world.dir.join("watchdog");
    let gate = format!("watchdog = {{ path = \"{}\", timeout = \"1s\", stand_in = true }}", watchdog.display());
    let (service, script) = (world.dir.join("a/service"), world.dir.join("service.sh"));
    let ticket =
        format!("loss = \"fence\"\nscript = [\"/bin/sh\", \"{}\", \"{}\"]", script.display(), service.display());
    (Host::with(world, Site::A, free_port(), &gate, &ticket), watchdog)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_service_runs_only_under_its_watchdog() {
    let world = World::new("fence").await;
    let (site, watchdog) = fenced(&world);
    let bytes = || std::fs::read(&watchdog).unwrap_or_default();
    let (_gate, warden) = (site.start("run"), site.start("warden"));
    world.grant(1, Site::A);
    world.order("p1", StepKind::Promote, Site::A);
    within(LIMIT, "the missing device is told", &site.dir, || world.says("watchdog")).await;
    throughout(TTL, "nothing runs without it", || !site.serves()).await;
    std::fs::write(&watchdog, "").unwrap();
    within(LIMIT, "promotion", &site.dir, || site.serves() && world.outcome("p1") == Some(StepOutcome::Done)).await;
    within(LIMIT, "the trouble is over", &site.dir, || world.agreed.lock().unwrap().trouble.is_none()).await;
    let before = bytes().len();
    within(LIMIT, "kicks", &site.dir, || bytes().len() > before + 4).await;
    assert!(!bytes().contains(&b'V'), "not released while it runs");
    // A warden that is restarted takes it over, and the one that ended released nothing.
    drop(warden);
    let _warden = site.start("warden");
    let before = bytes().len();
    within(LIMIT, "kicks of the next warden", &site.dir, || bytes().len() > before + 2).await;
    assert!(!bytes().contains(&b'V'), "not released by the end of a warden");
    world.silence(true);
    within(TTL + LIMIT, "the release", &site.dir, || bytes().ends_with(b"V")).await;
    assert!(!site.serves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_cannot_be_stopped_is_not_kicked_for() {
    let world = World::new("fence-hangs").await;
    let (site, watchdog) = fenced(&world);
    std::fs::write(&watchdog, "").unwrap();
    let bytes = || std::fs::read(&watchdog).unwrap();
    let (gate, _warden) = (site.start("run"), site.start("warden"));
    active_at_a(&world, &site).await;
    let script = std::fs::read_to_string(world.dir.join("service.sh")).unwrap();
    std::fs::write(world.dir.join("service.sh"), script.replace("rm -f \"$1\"", "exit 1")).unwrap();
    drop(gate);
    let warden = || std::fs::read_to_string(site.dir.join("warden.log")).unwrap_or_default();
    within(TTL + LIMIT, "the last kick", &site.dir, || warden().contains("not kicked any more")).await;
    let last = bytes().len();
    throughout(TTL, "no kick, and no release", || bytes().len() == last && !bytes().contains(&b'V')).await;
    assert!(site.serves());
    // Somebody stops it by hand, before the machine is reset: that is found out, and only then it is released.
    std::fs::remove_file(&site.service).unwrap();
    within(LIMIT, "the release", &site.dir, || bytes().ends_with(b"V")).await;
}
