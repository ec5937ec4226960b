//! The reference application beside its gates: the door, and a client that writes.

use std::sync::Arc;
use std::time::Duration;

use bcp_wire::Site;

use super::UpError;
use crate::layout::{Layout, LayoutError};
use crate::reference::{self, writer, writer::Writer};
use crate::units::{Start, Unit};

/// Five rows a second: a gap is seen, and the disk is not filled.
const WRITER_PAUSE: Duration = Duration::from_millis(200);

/// What the reference application has beside its gates.
#[derive(Debug, Default)]
pub(super) struct Reference {
    /// HAProxy, which belongs to no site.
    pub(super) door: Option<Arc<Unit>>,
    pub(super) writer: Option<Arc<Writer>>,
}

impl Reference {
    pub(super) fn start(layout: &Layout) -> Result<Reference, UpError> {
        let Some(programs) = &layout.reference else { return Ok(Reference::default()) };
        let fault = |source| UpError::Layout { data_dir: layout.data_dir.display().to_string(), source };
        let secret = layout.reference_secret();
        let password =
            std::fs::read_to_string(&secret).map_err(|source| fault(LayoutError::Io { path: secret, source }))?;
        let door = Unit::new(format!("{}/door", reference::NAME), Site::W, layout.log("registry-door"));
        door.up(Start {
            program: programs.haproxy.clone(),
            args: vec!["-db".into(), "-f".into(), layout.data_dir.join("haproxy.cfg").into()],
            env: Vec::new(),
        });
        let writer = Writer::start(writer::Options {
            port: layout.base.reference_door(),
            password: password.trim().to_owned(),
            pause: WRITER_PAUSE,
            connections: 1,
            first_key: first_key(),
        });
        Ok(Reference { door: Some(door), writer: Some(writer) })
    }
}

/// Keys of a fleet that is started again in the same directory are above those of the last time.
fn first_key() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(1, |since| u64::try_from(since.as_millis()).unwrap_or(1))
}
