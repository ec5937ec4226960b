//! What sources hand over: it gets a number, is stored, and queues for its turn.

use bcp_wire::{DeviceMeta, EventKind, Gap, WIRE_VERSION, envelope};

use super::run::Publisher;
use crate::clock::wall_ms;
use crate::outbound::Outbound;
use crate::spool::{KeyRange, Record};

/// Devices described by one agent; more is a fault of the configuration.
const METAS_MAX: usize = 8_192;
/// Writing gaps can itself drop a segment, and so make new gaps: so often, and no more.
const GAP_ROUNDS_MAX: usize = 8;

impl Publisher {
    pub(super) fn take(&mut self, message: Outbound) {
        match message {
            Outbound::Batch { device, t_ms, points } => {
                for record in self.composer.batch(&device, t_ms, &points) {
                    self.store(&record);
                }
            }
            Outbound::Event { device, t_ms, kind } => {
                let record = self.composer.event(&device, t_ms, kind);
                self.store(&record);
            }
            Outbound::Forget(device) => {
                self.metas.remove(&device);
                self.dirty_metas.insert(device);
            }
            Outbound::Meta(meta) => {
                let device = meta.device.clone();
                if self.metas.len() >= METAS_MAX && !self.metas.contains_key(&device) {
                    tracing::error!(%device, limit = METAS_MAX, "device is not described: too many devices");
                    return;
                }
                let meta = DeviceMeta { v: WIRE_VERSION, i: self.figures.incarnation, ..*meta };
                let json: Box<[u8]> = meta.to_json().into();
                if self.metas.get(&device) != Some(&json) {
                    self.metas.insert(device.clone(), json);
                    self.dirty_metas.insert(device);
                }
            }
        }
    }

    pub(super) fn store(&mut self, record: &Record) {
        let gaps = self.append(record);
        self.record_gaps(gaps);
    }

    pub(super) fn append(&mut self, record: &Record) -> Vec<Gap> {
        let now_ms = self.now_ms();
        let gaps = self.spool.append(record, now_ms, wall_ms());
        self.outbox.accept(record.key, record.class, now_ms);
        for gap in &gaps {
            // It covers nothing that is still owed.
            self.outbox.forget(&KeyRange { incarnation: gap.incarnation, from: gap.from, through: gap.through });
        }
        gaps
    }

    pub(super) fn record_gaps(&mut self, gaps: Vec<Gap>) {
        let mut todo = gaps;
        for _ in 0..GAP_ROUNDS_MAX {
            let mut more = Vec::new();
            for gap in todo {
                tracing::warn!(incarnation = gap.incarnation, from = gap.from, through = gap.through, reason = %gap.reason, "payloads are lost");
                let device = envelope::self_device(&self.setup.agent);
                let record = self.composer.event(&device, wall_ms(), EventKind::Gap(gap));
                more.extend(self.append(&record));
            }
            if more.is_empty() {
                return;
            }
            todo = more;
        }
        tracing::error!(left = todo.len(), "gaps are not recorded: the spool holds nothing any more");
    }

    /// What the spool could not read when it was opened is looked for now and then.
    pub(super) fn look_for_late(&mut self, now_ms: u64) {
        let Some(found) = self.spool.read_late(now_ms) else { return };
        for (range, class) in found.owed {
            self.outbox.restore(range, class);
        }
        for note in found.notes {
            tracing::warn!(%note, "of the spool");
            self.notice(note);
        }
        self.record_gaps(found.gaps);
    }

    pub(super) fn notice(&mut self, text: String) {
        let device = envelope::self_device(&self.setup.agent);
        let record = self.composer.event(&device, wall_ms(), EventKind::Notice { text });
        self.store(&record);
    }
}
