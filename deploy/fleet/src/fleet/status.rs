//! What a running fleet says of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bcp_wire::Site;

use super::{COLLECTOR_PARTS, Fleet};
use crate::api::{LinkState, Status};
use crate::ports::Port;
use crate::reference;
use crate::service::Service;
use crate::units::{self, Health, Process};

/// A console that is slower than this is asked another time.
const CONSOLE_TIMEOUT: Duration = Duration::from_millis(400);

impl Fleet {
    pub(super) fn collector_parts(&self, site: Site) -> Vec<(String, u32)> {
        let root = self.units.get(&(site, "collector")).and_then(|unit| unit.pid());
        let below = root.map(|root| units::descendants(&[root])).unwrap_or_default();
        below
            .into_iter()
            .filter_map(|pid| {
                let arguments = units::arguments(pid);
                let part = COLLECTOR_PARTS.iter().find(|part| arguments.iter().any(|argument| argument == *part))?;
                Some(((*part).to_owned(), pid))
            })
            .collect()
    }

    /// Tickets as the first console says that answers, the witness first: it is the last to go.
    async fn tickets(&self) -> Vec<serde_json::Value> {
        for site in [Site::W, Site::A, Site::B] {
            let url = format!("http://127.0.0.1:{}/api/v1/tickets", self.layout.base.site(site, Port::Console));
            let Ok(answer) = self.http.get(url).timeout(CONSOLE_TIMEOUT).send().await else { continue };
            let Ok(mut body) = answer.json::<serde_json::Value>().await else { continue };
            if let Some(serde_json::Value::Array(tickets)) = body.get_mut("tickets").map(serde_json::Value::take) {
                return tickets;
            }
        }
        Vec::new()
    }

    pub async fn status(&self) -> Status {
        let base = self.layout.base;
        let mut processes = Vec::new();
        for site in Site::ALL {
            for (_, unit) in self.site_units(site) {
                processes.push(unit.process());
            }
            for (part, pid) in self.collector_parts(site) {
                let is_paused = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
                    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
                });
                let state = if is_paused { Health::Paused } else { Health::Running };
                processes.push(Process { name: format!("{site}/{part}"), site, state, pid: Some(pid), restarts: 0 });
            }
        }
        let links = self
            .links
            .state()
            .into_iter()
            .map(|(direction, way)| LinkState {
                from: direction.from,
                to: direction.to,
                cut: way.cut,
                delay_ms: way.delay_ms,
                jitter_ms: way.jitter_ms,
                loss_percent: way.loss_percent,
            })
            .collect();
        let mut urls = BTreeMap::new();
        for site in Site::ALL {
            urls.insert(format!("{site} public page"), format!("http://127.0.0.1:{}/", base.site(site, Port::Public)));
            urls.insert(format!("{site} console"), format!("http://127.0.0.1:{}/", base.site(site, Port::Console)));
        }
        for service in Service::ALL {
            urls.insert(service.to_string(), format!("http://127.0.0.1:{}/", base.front(service)));
        }
        if self.layout.reference.is_some() {
            let door = base.reference_door();
            urls.insert(reference::NAME.to_owned(), format!("postgresql://app@127.0.0.1:{door}/postgres"));
            let (server, name) = (base.reference_name(), reference::SERVICE_NAME);
            urls.insert(format!("{} name", reference::NAME), format!("dns://127.0.0.1:{server}/{name}"));
        }
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Status {
            base_port: base.number(),
            data_dir: self.layout.data_dir.display().to_string(),
            up_ms: ms(self.begun.elapsed()),
            ready_after_ms: self.ready_after.lock().ok().and_then(|ready| *ready).map(ms),
            processes,
            beside: self.reference.units().map(|unit| unit.process()).collect(),
            links,
            front: self.doors.routes(),
            visitor: self.visitor.seen(),
            writer: self.reference.writer.as_ref().map(|writer| writer.seen()),
            tickets: self.tickets().await,
            urls,
        }
    }
}
