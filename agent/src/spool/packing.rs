//! Full segments are packed while nobody takes their payloads: a file a fraction as large takes the place of each.
//!
//! The work is done by [`PackJob::run`] on a thread that may wait; the spool only hands it out and takes the result in. The
//! new file is whole and synced before one rename puts it in the place of the old one, so at every moment a crash leaves
//! either of them; what lies beside them is removed at opening.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flate2::Decompress;

use super::block::{self, Block, Packer};
use super::ranges::Ranges;
use super::segment::{self, HEADER_BYTES, Key, PART};
use super::{Durability, Spool};

/// Segments of one job; a job holds one thread for some 100 ms at most.
const SEGMENTS_AT_ONCE: usize = 4;
/// Below this a file takes its room on the disk anyhow.
const SEGMENT_MIN_BYTES: u64 = 4 << 10;
/// A disk that refuses a packed segment is left alone for this long; the wait doubles up to 2^6 times this.
const PACK_RETRY_MS: u64 = 10_000;
const MAX_DOUBLINGS: u8 = 6;

/// A segment to be packed.
#[derive(Debug)]
pub struct PackJob {
    class: usize,
    segment: u32,
    path: PathBuf,
    bytes: u64,
    first: Key,
    blocks: Vec<Block>,
    #[cfg(test)]
    refuse: bool,
}

/// A file that is removed unless it gets its place.
#[derive(Debug)]
struct Part(Option<PathBuf>);

impl Part {
    fn put(mut self, place: &Path) -> io::Result<()> {
        if let Some(part) = &self.0 {
            fs::rename(part, place)?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(part) = &self.0
            && let Err(error) = fs::remove_file(part)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, part = %part.display(), "what was not packed stays until the next start");
        }
    }
}

/// Why a segment stays as it is.
#[derive(Debug, thiserror::Error)]
enum PackError {
    #[error("the disk refused it")]
    Refused(#[from] io::Error),
    /// It would be the same the next time.
    #[error("{0}")]
    NotWorth(&'static str),
}

/// What became of it.
#[derive(Debug)]
pub struct PackDone {
    class: usize,
    segment: u32,
    part: Part,
    result: Result<Written, PackError>,
}

#[derive(Debug)]
struct Written {
    blocks: Vec<Block>,
    present: Ranges,
    bytes: u64,
}

impl PackJob {
    #[must_use]
    pub fn run(self) -> PackDone {
        let path = self.path.with_extension(PART);
        let result = self.write(&path);
        PackDone { class: self.class, segment: self.segment, part: Part(Some(path)), result }
    }

    fn write(&self, part: &Path) -> Result<Written, PackError> {
        #[cfg(test)]
        if self.refuse {
            fs::write(part, b"half").map_err(PackError::Refused)?;
            return Err(io::Error::from(io::ErrorKind::StorageFull).into());
        }
        let plain = File::open(&self.path)?;
        let file = segment::create(part)?;
        let mut written = Written { blocks: Vec::new(), present: Ranges::default(), bytes: HEADER_BYTES };
        let (mut packer, mut inflate) = (Packer::new(), Decompress::new(false));
        let mut out = Vec::new();
        for block in &self.blocks {
            let raw = match segment::read_at(&plain, u64::from(block.offset), block.bytes) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(PackError::NotWorth("it is cut off"));
                }
                read => read?,
            };
            let offset = u32::try_from(written.bytes).map_err(io::Error::other)?;
            out.clear();
            let Ok((packed, header)) = packer.pack(&raw, offset, &mut out) else {
                return Err(PackError::NotWorth("its records cannot be packed"));
            };
            // The plain one goes when this one is in its place: it has to say the same.
            if !block::unpack(&mut inflate, &out).is_some_and(|unpacked| raw.starts_with(&unpacked)) {
                return Err(PackError::NotWorth("a packed block does not say what the plain one does"));
            }
            segment::write_at(&file, &out, written.bytes)?;
            written.bytes += u64::from(packed.bytes);
            written.blocks.push(packed);
            header.ranges.iter().for_each(|range| written.present.insert(*range));
            if written.bytes >= self.bytes {
                return Err(PackError::NotWorth("packing saves nothing"));
            }
        }
        let Some(last) = written.present.last() else { return Err(PackError::NotWorth("it has no records")) };
        segment::seal(&file, self.first, last)?;
        file.sync_all()?;
        Ok(written)
    }
}

impl Spool {
    /// Segments that are worth packing: full ones, but for the newest, which is mostly delivered before the next is full.
    pub fn take_packing(&mut self, now_ms: u64) -> Vec<PackJob> {
        let mut jobs = Vec::new();
        if self.durability != Durability::Disk || now_ms < self.pack_again_at_ms {
            return jobs;
        }
        // What was refused is tried with the least that there is.
        let most = if self.packs_refused > 0 { 1 } else { SEGMENTS_AT_ONCE };
        for (class, stream) in self.streams.iter_mut().enumerate() {
            let left_alone = 1 + usize::from(stream.active.is_some());
            let full = stream.segments.len().saturating_sub(left_alone);
            for segment in stream.segments.iter_mut().take(full) {
                if segment.packable && segment.bytes >= SEGMENT_MIN_BYTES && jobs.len() < most {
                    segment.packable = false;
                    jobs.push(PackJob {
                        class,
                        segment: segment.id,
                        path: segment.path.clone(),
                        bytes: segment.bytes,
                        first: segment.name,
                        blocks: segment.blocks.clone(),
                        #[cfg(test)]
                        refuse: self.refuse_writes,
                    });
                }
            }
        }
        jobs
    }

    /// Puts packed segments in the place of the plain ones. Where anything is wrong with one, the plain one stays; where the
    /// disk refused, it is tried again later.
    pub fn packed(&mut self, done: Vec<PackDone>, now_ms: u64) {
        let mut refused = None;
        for PackDone { class, segment: id, part, result } in done {
            match result.and_then(|written| self.replace(class, id, part, written)) {
                Ok(()) => self.packs_refused = 0,
                Err(PackError::NotWorth(reason)) => tracing::debug!(reason, "a segment stays as it is"),
                Err(PackError::Refused(error)) => {
                    if let Some(segment) = self.streams[class].segments.iter_mut().find(|segment| segment.id == id) {
                        segment.packable = true;
                    }
                    refused = Some(error);
                }
            }
        }
        if let Some(error) = refused {
            let wait_ms = PACK_RETRY_MS << self.packs_refused;
            tracing::warn!(%error, again_in_ms = wait_ms, "segments could not be packed");
            self.packs_refused = (self.packs_refused + 1).min(MAX_DOUBLINGS);
            self.pack_again_at_ms = now_ms.saturating_add(wait_ms);
        }
    }

    fn replace(&mut self, class: usize, id: u32, part: Part, written: Written) -> Result<(), PackError> {
        let new_id = self.take_segment_id();
        let owed = &self.owed[class];
        let Some(segment) = self.streams[class].segments.iter_mut().find(|segment| segment.id == id) else {
            return Err(PackError::NotWorth("delivered meanwhile"));
        };
        // A record that became unreadable is told as lost when it is read, or at the next start; not hidden here.
        if !owed.within(segment.first, segment.last).all(|range| written.present.covers(&range)) {
            return Err(PackError::NotWorth("not everything could be read"));
        }
        part.put(&segment.path)?;
        segment.id = new_id;
        segment.bytes = written.bytes;
        segment.blocks = written.blocks;
        self.reader.forget(id);
        Ok(())
    }
}
