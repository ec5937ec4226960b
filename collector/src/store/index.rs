//! Which series and which text has which number. PURE.

use std::collections::HashMap;
use std::sync::Arc;

use super::head::SeriesId;
use super::journal::Frame;

/// Series of one store: three times the largest fleet the design speaks of.
pub const MAX_SERIES: usize = 1_000_000;
/// Different texts of one store. States are few; a device that makes up new ones loses its text history, not others'.
pub const MAX_TEXTS: usize = 200_000;

/// Points of a device: name, whether its values are texts, series.
type DevicePoints = Vec<(Arc<str>, bool, SeriesId)>;
type SeriesRow = (SeriesId, bool, String, String);

/// Points are few names over many devices, so names are shared and a device's points are a short list.
#[derive(Debug, Default)]
pub struct Index {
    devices: HashMap<Box<str>, DevicePoints>,
    names: HashMap<Arc<str>, ()>,
    next_series: u32,
    texts: HashMap<Arc<str>, u32>,
    text_of: Vec<Arc<str>>,
    /// Not yet in the journal.
    new_series: Vec<SeriesRow>,
    new_texts: Vec<(u32, String)>,
    /// In the journal, not yet in the database.
    unsealed_series: Vec<SeriesRow>,
    unsealed_texts: Vec<(u32, String)>,
}

impl Index {
    pub fn load(&mut self, series: &[SeriesRow], texts: &[(u32, String)]) {
        for (id, text, device, point) in series {
            self.enter(*id, *text, device, point);
        }
        for (id, text) in texts {
            self.enter_text(*id, text);
        }
    }

    fn enter(&mut self, id: SeriesId, text: bool, device: &str, point: &str) {
        let name = match self.names.get_key_value(point) {
            Some((name, ())) => Arc::clone(name),
            None => {
                let name: Arc<str> = point.into();
                self.names.insert(Arc::clone(&name), ());
                name
            }
        };
        self.next_series = self.next_series.max(id.0.saturating_add(1));
        match self.devices.get_mut(device) {
            Some(points) => points.push((name, text, id)),
            None => {
                self.devices.insert(device.into(), vec![(name, text, id)]);
            }
        }
    }

    fn enter_text(&mut self, id: u32, text: &str) {
        let text: Arc<str> = text.into();
        let slot = id as usize;
        // Ids are given in order; a larger one in a damaged file must not make a large table.
        if slot > MAX_TEXTS {
            return;
        }
        if slot >= self.text_of.len() {
            self.text_of.resize(slot + 1, Arc::from(""));
        }
        self.text_of[slot] = Arc::clone(&text);
        self.texts.insert(text, id);
    }

    /// Number of series.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.next_series as usize
    }

    fn lookup(&self, device: &str, point: &str, text: bool) -> Option<SeriesId> {
        let points = self.devices.get(device)?;
        points.iter().find(|(name, is_text, _)| *is_text == text && **name == *point).map(|(.., id)| *id)
    }

    /// The number of a series, given now if it has none.
    pub fn series(&mut self, device: &str, point: &str, text: bool) -> Option<SeriesId> {
        if let Some(id) = self.lookup(device, point, text) {
            return Some(id);
        }
        if self.len() >= MAX_SERIES {
            return None;
        }
        let id = SeriesId(self.next_series);
        self.enter(id, text, device, point);
        self.new_series.push((id, text, device.to_owned(), point.to_owned()));
        Some(id)
    }

    /// Series of a point's numbers and of its texts.
    #[must_use]
    pub fn find(&self, device: &str, point: &str) -> (Option<SeriesId>, Option<SeriesId>) {
        (self.lookup(device, point, false), self.lookup(device, point, true))
    }

    /// The number of a text, given now if it has none.
    pub fn text(&mut self, text: &str) -> Option<u32> {
        if let Some(id) = self.texts.get(text) {
            return Some(*id);
        }
        if self.text_of.len() >= MAX_TEXTS {
            return None;
        }
        let id = u32::try_from(self.text_of.len()).ok()?;
        self.enter_text(id, text);
        self.new_texts.push((id, text.to_owned()));
        Some(id)
    }

    /// The text that a stored number stands for.
    #[must_use]
    pub fn text_of(&self, v: f64) -> Option<String> {
        if !(v.is_finite() && v >= 0.0 && v < MAX_TEXTS as f64) {
            return None;
        }
        self.text_of.get(v as usize).map(|text| text.to_string())
    }

    /// Puts definitions that the journal does not have into a frame, and calls `after` after each; returns how many, for
    /// [`Index::wrote_new`].
    ///
    /// # Errors
    /// What `after` says.
    pub fn write_new<E>(
        &self,
        frame: &mut Frame,
        mut after: impl FnMut(&mut Frame) -> Result<(), E>,
    ) -> Result<(usize, usize), E> {
        for (id, text, device, point) in &self.new_series {
            frame.series(*id, *text, device, point);
            after(frame)?;
        }
        for (id, text) in &self.new_texts {
            frame.text_value(*id, text);
            after(frame)?;
        }
        Ok((self.new_series.len(), self.new_texts.len()))
    }

    /// The frame with the first so many definitions is durable.
    pub fn wrote_new(&mut self, (series, texts): (usize, usize)) {
        self.unsealed_series.extend(self.new_series.drain(..series.min(self.new_series.len())));
        self.unsealed_texts.extend(self.new_texts.drain(..texts.min(self.new_texts.len())));
    }

    pub fn take_unsealed(&mut self) -> (Vec<SeriesRow>, Vec<(u32, String)>) {
        (std::mem::take(&mut self.unsealed_series), std::mem::take(&mut self.unsealed_texts))
    }

    pub fn replay_series(&mut self, id: SeriesId, text: bool, device: &str, point: &str) {
        if self.lookup(device, point, text).is_none() && (id.0 as usize) < MAX_SERIES {
            self.enter(id, text, device, point);
            self.unsealed_series.push((id, text, device.to_owned(), point.to_owned()));
        }
    }

    pub fn replay_text(&mut self, id: u32, text: &str) {
        if !self.texts.contains_key(text) {
            self.enter_text(id, text);
            self.unsealed_texts.push((id, text.to_owned()));
        }
    }
}
