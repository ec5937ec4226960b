//! The reference application beside its gates: the door, the name, a client that writes, and who cleans up after a fleet that was
//! killed.

use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bcp_wire::Site;

use super::UpError;
use crate::api::{Action, Refusal};
use crate::layout::{Layout, LayoutError};
use crate::reference::{self, User, writer, writer::Writer};
use crate::units::{Start, Unit};

/// Five rows a second: a gap is seen, and the disk is not filled.
const WRITER_PAUSE: Duration = Duration::from_millis(200);

/// What the reference application has beside its gates.
#[derive(Debug, Default)]
pub(super) struct Reference {
    /// HAProxy and BIND, which belong to no site.
    units: Vec<(Arc<Unit>, Start)>,
    pub(super) writer: Option<Arc<Writer>>,
    /// Its end of the pipe closes with this process, however that ends; see [`mourn`].
    mourner: Option<std::process::Child>,
}

impl Reference {
    pub(super) fn start(layout: &Layout) -> Result<Reference, UpError> {
        let Some(programs) = &layout.reference else { return Ok(Reference::default()) };
        let at = |source| UpError::Layout { data_dir: layout.data_dir.display().to_string(), source };
        let fault = |path, source| at(LayoutError::Io { path, source });
        let secret = layout.reference_secret();
        let password = std::fs::read_to_string(&secret).map_err(|source| fault(secret, source))?;
        let mourner = mourner(layout).map_err(|source| fault(layout.executable.clone(), source))?;
        let user = reference::user().map_err(|source| at(LayoutError::Reference(source)))?;
        let door = Start {
            program: programs.haproxy.clone(),
            args: vec!["-db".into(), "-f".into(), layout.haproxy_config().into()],
            env: Vec::new(),
            user: None,
        };
        let name = Start {
            program: programs.named.clone(),
            args: vec!["-g".into(), "-n".into(), "1".into(), "-c".into(), layout.named_config().into()],
            env: Vec::new(),
            user: rustix::process::getuid().is_root().then_some(user).map(|User { uid, gid }| (uid, gid)),
        };
        let units = [("door", door), ("name", name)].map(|(part, start)| {
            let unit =
                Unit::new(format!("{}/{part}", reference::NAME), Site::W, layout.log(&format!("registry-{part}")));
            unit.up(start.clone());
            (unit, start)
        });
        let writer = Writer::start(writer::Options {
            port: layout.base.reference_door(),
            password: password.trim().to_owned(),
            pause: WRITER_PAUSE,
            connections: 1,
            first_key: first_key(),
        });
        Ok(Reference { units: units.into(), writer: Some(writer), mourner: Some(mourner) })
    }

    pub(super) fn units(&self) -> impl Iterator<Item = &Arc<Unit>> {
        self.units.iter().map(|(unit, _)| unit)
    }

    /// Carries out an order on one of its processes; none where the target is another one.
    pub(super) fn order(&self, target: &str, action: Action) -> Option<Result<String, Refusal>> {
        let (unit, start) = self.units.iter().find(|(unit, _)| unit.name == target)?;
        let done = match action {
            Action::Kill => {
                unit.pid().into_iter().for_each(|pid| crate::units::signal(pid, rustix::process::Signal::KILL));
                format!("{target} was killed and will be restarted")
            }
            Action::Stop => {
                unit.kill_and_stay_down();
                format!("{target} is down; `fleet start {target}` brings it back")
            }
            Action::Start => {
                unit.up(start.clone());
                format!("{target} is starting")
            }
            Action::Pause | Action::Resume => {
                let is_pause = action == Action::Pause;
                let count = super::orders::freeze(unit, is_pause);
                format!("{target}: {count} processes {}", if is_pause { "stand still" } else { "go on" })
            }
            Action::Hang => {
                let help = format!("`fleet pause {target}` lets it stand still");
                return Some(Err(Refusal::new(format!("{target} has no steps"), help)));
            }
        };
        Some(Ok(done))
    }

    /// After the servers were ended: nothing is left for it to do.
    pub(super) fn let_go(&self) {
        if let Some(mourner) = &self.mourner {
            crate::units::signal(mourner.id(), rustix::process::Signal::KILL);
        }
    }
}

/// PostgreSQL, HAProxy and BIND do not die with their parent, as everything else of a fleet does: a process that waits for the
/// end of this one ends them.
fn mourner(layout: &Layout) -> std::io::Result<std::process::Child> {
    std::process::Command::new(&layout.executable)
        .args(["mourn", "--base-port", &layout.base.to_string(), "--data-dir"])
        .arg(&layout.data_dir)
        // Of its own: Ctrl-C is not for it.
        .env_remove(crate::signals::DIE_WITH_PARENT)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// `fleet mourn`: waits for the end of the fleet that started it, then for the programs that would outlive it.
pub fn mourn(layout: &Layout) {
    // Nobody ever writes: this returns when the last other end is closed.
    let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    reference::kill_all(layout);
}

/// Keys of a fleet that is started again in the same directory are above those of the last time.
fn first_key() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| u64::try_from(since.as_millis()).unwrap_or(1))
}
