//! Tables: which rows a device has, and what their points are called.
//!
//! Knows: labels, filters, indexes. Refuses to know: how a column is walked.

use std::collections::BTreeSet;
use std::time::Instant;

use bcp_wire::PointName;
use bcp_wire::names::lookup;

use super::message::{Got, label};
use super::session::{ReadError, Session};
use super::walk::WALK_STEP;
use crate::decode::Decoder;
use crate::oid::Oid;
use crate::profile::{Table, row_id};

/// One point of one row of a table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: PointName,
    pub(super) unit: &'static str,
    pub(super) oid: Oid,
    pub(super) times: Option<Oid>,
    pub(super) decoder: Decoder,
    pub(super) optional: bool,
}

impl Session<'_> {
    /// The points of a table's rows.
    pub(super) async fn rows(&mut self, table: &Table, deadline: Instant) -> Result<Vec<Row>, ReadError> {
        let mut indexes = self.walk(&table.walk, table.max_rows, deadline).await?;
        if let Some((column, wanted)) = &table.filter {
            let mut kept = Vec::new();
            for part in indexes.chunks(WALK_STEP as usize) {
                let oids: Vec<Oid> = part.iter().map(|(index, _)| column.below(index)).collect();
                let values = self.get_few(&oids, deadline).await?;
                let fits = |value: Option<Got>| value.is_some_and(|value| label(&value) == *wanted);
                kept.extend(
                    part.iter().cloned().zip(values).filter(|(_, value)| fits(value.clone())).map(|(row, _)| row),
                );
            }
            indexes = kept;
        }
        let mut taken = BTreeSet::new();
        let mut rows = Vec::new();
        for (index, value) in indexes {
            let (mark, id) = if table.labelled {
                ("{id}", row_id(&label(&value), &mut taken))
            } else {
                ("{n}", index.last().map(ToString::to_string).unwrap_or_default())
            };
            for point in &table.points {
                let Ok(name) = point.pattern.replace(mark, &id).parse::<PointName>() else { continue };
                let Some(definition) = lookup(&name) else { continue };
                rows.push(Row {
                    name,
                    unit: definition.unit,
                    oid: point.column.below(&index),
                    times: point.times.as_ref().map(|times| times.below(&index)),
                    decoder: point.decoder.clone(),
                    optional: point.optional,
                });
            }
        }
        Ok(rows)
    }
}
