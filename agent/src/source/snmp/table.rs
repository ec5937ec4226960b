//! Tables: which rows a device has, and what their points are called.
//!
//! Knows: conditions, labels, indexes. Refuses to know: how a column is walked. A column is walked once however many
//! tables use it, and columns that the budget leaves over are walked in the next poll.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bcp_wire::PointName;
use bcp_wire::names::lookup;

use super::message::{Got, label};
use super::session::{ReadError, Session};
use crate::adjust::Adjust;
use crate::decode::Decoder;
use crate::oid::Oid;
use crate::profile::{Component, Condition, Sibling, Subject, Table, TablePoint, fill, row_id};

/// Most rows of a column that are looked at to find the ones wanted. Large controllers have some hundred variables.
const MAX_WALKED: usize = 4_096;
/// Most points that the tables of one device may give: as many as fit into one batch.
const MAX_ROW_POINTS: usize = bcp_wire::MAX_POINTS_PER_BATCH;

/// One point of one row of a table.
#[derive(Debug)]
pub(super) struct Row {
    pub name: PointName,
    pub pattern: String,
    pub unit: &'static str,
    pub oid: Oid,
    pub adjust: Adjust<Oid>,
    pub decoder: Arc<Decoder>,
    pub optional: bool,
    pub publish: bool,
}

/// Columns walked so far.
#[derive(Debug, Default)]
pub(super) struct Walks {
    columns: BTreeMap<Oid, BTreeMap<Vec<u32>, Got>>,
}

impl Walks {
    /// Columns seen, to tell progress from standstill.
    pub(super) fn seen(&self) -> usize {
        self.columns.len()
    }

    fn value(&self, column: &Oid, index: &[u32]) -> Option<&Got> {
        self.columns.get(column)?.get(index)
    }
}

/// Columns that have to be walked before rows can be told apart.
fn columns(table: &Table) -> impl Iterator<Item = &Oid> {
    let conditions = table.conditions.iter().chain(table.points.iter().flat_map(|point| &point.conditions));
    let subjects = conditions.filter_map(|condition| match &condition.subject {
        Some(Subject::Column(column)) => Some(column),
        Some(Subject::Index(_)) | None => None,
    });
    std::iter::once(&table.walk).chain(&table.label).chain(subjects)
}

impl Session<'_> {
    /// Walks what the tables need; no new column after `pause`. False where the time was not enough.
    pub(super) async fn walk_tables(
        &mut self,
        tables: &[Table],
        walks: &mut Walks,
        pause: Instant,
        deadline: Instant,
    ) -> Result<bool, ReadError> {
        for column in tables.iter().flat_map(columns) {
            if walks.columns.contains_key(column) {
                continue;
            }
            if Instant::now() >= pause {
                return Ok(false);
            }
            let found = self.walk(column, MAX_WALKED, deadline).await?;
            walks.columns.insert(column.clone(), found.into_iter().collect());
        }
        Ok(true)
    }
}

/// The points of all rows, from what was walked.
pub(super) fn rows(tables: &[Table], walks: &Walks) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut names = BTreeSet::new();
    for table in tables {
        let Some(walked) = walks.columns.get(&table.walk) else { continue };
        let mut taken = BTreeSet::new();
        let mut kept = 0;
        for (index, value) in walked {
            let parts = table.components(index);
            let text = match &table.label {
                Some(column) if *column != table.walk => walks.value(column, index).map(plain).unwrap_or_default(),
                _ => plain(value),
            };
            let holds = |condition: &Condition| holds(condition, walks, index, &parts, &text);
            if !table.conditions.iter().all(holds) || kept == table.max_rows {
                continue;
            }
            kept += 1;
            let id = if table.label.is_some() { row_id(&text, &mut taken) } else { String::new() };
            for point in table.points.iter().filter(|point| point.conditions.iter().all(holds)) {
                let Some(row) = row(point, &id, index, &parts) else {
                    tracing::debug!(pattern = %point.pattern, ?index, "this row has no name for the point");
                    continue;
                };
                if rows.len() < MAX_ROW_POINTS && names.insert(row.name.clone()) {
                    rows.push(row);
                } else {
                    tracing::debug!(name = %row.name, oid = %row.oid, "a row of this name is there already");
                }
            }
        }
    }
    rows
}

fn row(point: &TablePoint, id: &str, index: &[u32], parts: &[Component]) -> Option<Row> {
    let name: PointName = fill(&point.pattern, id, parts)?.parse().ok()?;
    let unit = if point.publish { lookup(&name)?.unit } else { "" };
    let adjust = point.adjust.map(|sibling| match sibling {
        Sibling::Column(column) => column.below(index),
        Sibling::Scalar(oid) => oid.clone(),
    });
    Some(Row {
        name,
        pattern: point.pattern.clone(),
        unit,
        oid: point.column.below(index),
        adjust,
        decoder: Arc::clone(&point.decoder),
        optional: point.optional,
        publish: point.publish,
    })
}

fn holds(condition: &Condition, walks: &Walks, index: &[u32], parts: &[Component], text: &str) -> bool {
    match &condition.subject {
        None => condition.test.holds(text),
        Some(Subject::Column(column)) => {
            condition.test.holds(&walks.value(column, index).map(plain).unwrap_or_default())
        }
        Some(Subject::Index(part)) => {
            let part = part.checked_sub(1).and_then(|part| parts.get(part));
            condition.test.holds(&part.map(Component::text).unwrap_or_default())
        }
    }
}

/// A value as labels and conditions compare it: some devices end texts with zero bytes.
fn plain(value: &Got) -> String {
    label(value).trim_matches(['\0', ' ']).to_owned()
}
