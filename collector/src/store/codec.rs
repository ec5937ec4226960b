//! Samples to bytes and back. PURE.
//!
//! Knows: how a run of samples of one series, or of a page of series, is packed (pco for times and for values). Refuses
//! to know: where the bytes live. Every bit of a value comes back; bytes from a broken disk give an error, never a panic
//! and never more memory than the caller's bound.

use bcp_wire::{BadReason, Quality};
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec};

/// Most samples of one chunk; decoding allocates at most this many.
pub const MAX_CHUNK_SAMPLES: usize = 16_384;
/// Series of one page of a run.
pub const PAGE_SERIES: usize = 128;
/// Most samples of one page.
pub const MAX_PAGE_SAMPLES: usize = PAGE_SERIES * MAX_CHUNK_SAMPLES;

/// One sample as stored. A bad reading has no number: its quality is packed into the payload of a NaN, because the
/// contract has no other NaN.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Milliseconds since 1970 UTC.
    pub t: i64,
    pub v: f64,
}

impl PartialEq for Sample {
    fn eq(&self, other: &Sample) -> bool {
        self.t == other.t && self.v.to_bits() == other.v.to_bits()
    }
}

/// Why stored bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("stored samples are cut short")]
    Short,
    #[error("stored samples have an unknown form")]
    Form,
    #[error("stored samples are more than their bound")]
    TooMany,
    #[error("stored samples do not decompress")]
    Pco,
}

const NAN_BASE: u64 = 0x7FF8_0000_0000_0100;
const STALE_CODE: u64 = 0xF;

/// The number that stands for a quality other than good.
#[must_use]
pub fn quality_as_number(quality: Quality) -> f64 {
    let code = match quality {
        Quality::Good | Quality::Stale => STALE_CODE,
        Quality::Bad(reason) => BadReason::ALL.iter().position(|r| *r == reason).map_or(STALE_CODE, |at| at as u64 + 1),
    };
    f64::from_bits(NAN_BASE | code)
}

/// The number or the quality that a stored number stands for.
///
/// # Errors
/// The quality, where it is no number.
pub fn number_or_quality(v: f64) -> Result<f64, Quality> {
    if !v.is_nan() {
        return Ok(v);
    }
    let code = (v.to_bits() & 0xFF) as usize;
    Err(code.checked_sub(1).and_then(|at| BadReason::ALL.get(at)).map_or(Quality::Stale, |r| Quality::Bad(*r)))
}

const TIMES_REGULAR: u8 = 0;
/// Form 1 of times and values, with pco's own file header, is no longer written.
const TIMES_PCO: u8 = 1;
const TIMES_BARE: u8 = 2;
const VALUES_CONSTANT: u8 = 0;
const VALUES_PCO: u8 = 1;
const VALUES_BARE: u8 = 2;

pub(super) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

pub(super) fn take_varint(bytes: &mut &[u8]) -> Result<u64, CodecError> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(CodecError::Short)?;
        *bytes = rest;
        n |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err(CodecError::Form)
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8], CodecError> {
    let (head, rest) = bytes.split_at_checked(n).ok_or(CodecError::Short)?;
    *bytes = rest;
    Ok(head)
}

fn take_byte(bytes: &mut &[u8]) -> Result<u8, CodecError> {
    take(bytes, 1).map(|head| head[0])
}

fn unpco<T: pco::data_types::Number + Default + Clone>(bytes: &[u8], n: usize) -> Result<Vec<T>, CodecError> {
    let mut out = vec![T::default(); n];
    let progress = pco::standalone::simple_decompress_into(bytes, &mut out).map_err(|_| CodecError::Pco)?;
    if progress.n_processed == n { Ok(out) } else { Err(CodecError::Short) }
}

/// Packs without the header of a file of its own: what it says is known here.
fn put_bare<T: pco::data_types::Number>(
    out: &mut Vec<u8>,
    numbers: &[T],
    config: &ChunkConfig,
) -> Result<(), CodecError> {
    let file = FileCompressor::default();
    let mut put = || {
        file.write_header(&mut *out)?;
        let mut chunk = file.chunk_compressor(numbers, config)?;
        chunk.write_meta(&mut *out)?;
        chunk.write_page(0, &mut *out)?;
        Ok::<(), pco::errors::PcoError>(())
    };
    put().map_err(|_| CodecError::Pco)
}

fn take_bare<T: pco::data_types::Number + Default + Clone>(bytes: &[u8], n: usize) -> Result<Vec<T>, CodecError> {
    let mut out = vec![T::default(); n];
    let mut take = || {
        let (file, rest) = FileDecompressor::new(bytes)?;
        let (mut chunk, rest) = file.chunk_decompressor::<T, _>(rest)?;
        chunk.page_decompressor(rest, n)?.read(&mut out)
    };
    let progress = take().map_err(|_| CodecError::Pco)?;
    if progress.n_processed == n { Ok(out) } else { Err(CodecError::Short) }
}

/// Settings for the lasting form: the best ratio.
fn lasting_values() -> ChunkConfig {
    ChunkConfig::default()
}

fn times_config() -> ChunkConfig {
    ChunkConfig::default().with_mode_spec(ModeSpec::Classic).with_delta_spec(DeltaSpec::TryConsecutive(1))
}

/// Settings for runs, which live for minutes: cheap to write.
fn passing_values() -> ChunkConfig {
    ChunkConfig::default()
        .with_compression_level(4)
        .with_mode_spec(ModeSpec::Classic)
        .with_delta_spec(DeltaSpec::TryConsecutive(1))
}

fn put_times(out: &mut Vec<u8>, samples: &[Sample]) -> Result<(), CodecError> {
    let step = match samples {
        [first, second, ..] => second.t.wrapping_sub(first.t),
        _ => 0,
    };
    if step >= 0 && samples.windows(2).all(|pair| pair[1].t.wrapping_sub(pair[0].t) == step) {
        out.push(TIMES_REGULAR);
        put_varint(out, step.cast_unsigned());
        return Ok(());
    }
    out.push(TIMES_BARE);
    let first = samples[0].t;
    let offsets: Vec<i64> = samples.iter().map(|sample| sample.t.wrapping_sub(first)).collect();
    let mut packed = Vec::with_capacity(samples.len());
    put_bare(&mut packed, &offsets, &times_config())?;
    put_varint(out, packed.len() as u64);
    out.extend_from_slice(&packed);
    Ok(())
}

/// Packs samples of one series, ascending in time. The first time is kept outside.
///
/// # Errors
/// Empty, or more than [`MAX_CHUNK_SAMPLES`].
pub fn pack_chunk(samples: &[Sample]) -> Result<Vec<u8>, CodecError> {
    if samples.is_empty() || samples.len() > MAX_CHUNK_SAMPLES {
        return Err(CodecError::TooMany);
    }
    let mut out = Vec::with_capacity(samples.len() + 32);
    put_varint(&mut out, samples.len() as u64);
    put_times(&mut out, samples)?;
    let bits = samples[0].v.to_bits();
    if samples.iter().all(|sample| sample.v.to_bits() == bits) {
        out.push(VALUES_CONSTANT);
        out.extend_from_slice(&bits.to_le_bytes());
    } else {
        out.push(VALUES_BARE);
        let values: Vec<f64> = samples.iter().map(|sample| sample.v).collect();
        put_bare(&mut out, &values, &lasting_values())?;
    }
    Ok(out)
}

/// Appends the samples of a chunk that began at `first` to `out`.
///
/// # Errors
/// Damaged bytes; `out` is then unchanged.
pub fn unpack_chunk(first: i64, bytes: &[u8], out: &mut Vec<Sample>) -> Result<(), CodecError> {
    let mut bytes = bytes;
    let n = usize::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::TooMany)?;
    if n == 0 || n > MAX_CHUNK_SAMPLES {
        return Err(CodecError::TooMany);
    }
    let times: Vec<i64> = match take_byte(&mut bytes)? {
        TIMES_REGULAR => {
            let step = take_varint(&mut bytes)?.cast_signed();
            (0..n as i64).map(|k| step.wrapping_mul(k)).collect()
        }
        form @ (TIMES_PCO | TIMES_BARE) => {
            let len = usize::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::Short)?;
            let packed = take(&mut bytes, len)?;
            if form == TIMES_BARE { take_bare(packed, n)? } else { unpco(packed, n)? }
        }
        _ => return Err(CodecError::Form),
    };
    let sample = |(offset, v): (i64, f64)| Sample { t: first.wrapping_add(offset), v };
    match take_byte(&mut bytes)? {
        VALUES_CONSTANT => {
            let raw: [u8; 8] = take(&mut bytes, 8)?.try_into().map_err(|_| CodecError::Short)?;
            let v = f64::from_bits(u64::from_le_bytes(raw));
            out.extend(times.into_iter().map(|offset| sample((offset, v))));
        }
        form @ (VALUES_PCO | VALUES_BARE) => {
            let values: Vec<f64> = if form == VALUES_BARE { take_bare(bytes, n)? } else { unpco(bytes, n)? };
            out.extend(times.into_iter().zip(values).map(sample));
        }
        _ => return Err(CodecError::Form),
    }
    Ok(())
}

/// Packs the samples of up to [`PAGE_SERIES`] neighbouring series: `counts[k]` of them belong to the k-th.
///
/// # Errors
/// Counts that do not add up, or a page over its bound.
pub fn pack_page(counts: &[u32], samples: &[Sample]) -> Result<Vec<u8>, CodecError> {
    let total: usize = counts.iter().map(|n| *n as usize).sum();
    if counts.len() > PAGE_SERIES || total != samples.len() || total > MAX_PAGE_SAMPLES || total == 0 {
        return Err(CodecError::TooMany);
    }
    let mut out = Vec::with_capacity(samples.len() * 3 + 256);
    put_varint(&mut out, counts.len() as u64);
    for count in counts {
        put_varint(&mut out, u64::from(*count));
    }
    let base = samples[0].t;
    out.extend_from_slice(&base.to_le_bytes());
    let offsets: Vec<i64> = samples.iter().map(|sample| sample.t.wrapping_sub(base)).collect();
    let times = pco::standalone::simple_compress(&offsets, &times_config().with_compression_level(4))
        .map_err(|_| CodecError::Pco)?;
    put_varint(&mut out, times.len() as u64);
    out.extend_from_slice(&times);
    let values: Vec<f64> = samples.iter().map(|sample| sample.v).collect();
    let values = pco::standalone::simple_compress(&values, &passing_values()).map_err(|_| CodecError::Pco)?;
    out.extend_from_slice(&values);
    Ok(out)
}

/// Unpacks a page: per series, its samples.
///
/// # Errors
/// Damaged bytes.
pub fn unpack_page(bytes: &[u8]) -> Result<(Vec<u32>, Vec<Sample>), CodecError> {
    let mut bytes = bytes;
    let series = usize::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::TooMany)?;
    if series > PAGE_SERIES {
        return Err(CodecError::TooMany);
    }
    let mut counts = Vec::with_capacity(series);
    let mut total = 0usize;
    for _ in 0..series {
        let n = u32::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::TooMany)?;
        total = total.saturating_add(n as usize);
        counts.push(n);
    }
    if total > MAX_PAGE_SAMPLES {
        return Err(CodecError::TooMany);
    }
    let base: [u8; 8] = take(&mut bytes, 8)?.try_into().map_err(|_| CodecError::Short)?;
    let base = i64::from_le_bytes(base);
    let len = usize::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::Short)?;
    let times: Vec<i64> = unpco(take(&mut bytes, len)?, total)?;
    let values: Vec<f64> = unpco(bytes, total)?;
    let samples = times.into_iter().zip(values).map(|(offset, v)| Sample { t: base.wrapping_add(offset), v }).collect();
    Ok((counts, samples))
}

/// Sorts by time and keeps the last-written of equal times. Order of arrival breaks ties.
pub fn order(samples: &mut Vec<Sample>) {
    if !samples.is_sorted_by_key(|sample| sample.t) {
        samples.sort_by_key(|sample| sample.t);
    }
    if samples.windows(2).any(|pair| pair[0].t == pair[1].t) {
        samples.reverse();
        samples.dedup_by_key(|sample| sample.t);
        samples.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_value() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            (-1000i32..1000).prop_map(|n| f64::from(n) / 10.0),
            Just(21.5),
            Just(quality_as_number(Quality::Bad(BadReason::Timeout))),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_bit_of_a_chunk_comes_back(values in prop::collection::vec((any::<i64>(), any_value()), 1..600)) {
            let samples: Vec<Sample> = values.into_iter().map(|(t, v)| Sample { t, v }).collect();
            let packed = pack_chunk(&samples).unwrap();
            let mut out = Vec::new();
            unpack_chunk(samples[0].t, &packed, &mut out).unwrap();
            prop_assert_eq!(&out, &samples);
            let counts = [samples.len() as u32, 0];
            let (back_counts, back) = unpack_page(&pack_page(&counts, &samples).unwrap()).unwrap();
            prop_assert_eq!(back_counts, counts);
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn damaged_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>()) {
            let _ = unpack_chunk(0, &bytes, &mut Vec::new());
            let _ = unpack_page(&bytes);
            let samples: Vec<Sample> = (0..300).map(|k| Sample { t: k * 997 + (k % 3), v: (k as f64).sin() }).collect();
            let mut packed = pack_chunk(&samples).unwrap();
            let at = flip.0 % packed.len();
            packed[at] ^= flip.1;
            let _ = unpack_chunk(0, &packed, &mut Vec::new());
        }
    }

    #[test]
    fn qualities_survive_as_numbers() {
        for reason in BadReason::ALL {
            assert_eq!(number_or_quality(quality_as_number(Quality::Bad(reason))), Err(Quality::Bad(reason)));
        }
        assert_eq!(number_or_quality(quality_as_number(Quality::Stale)), Err(Quality::Stale));
        assert_eq!(number_or_quality(-0.0).map(f64::to_bits), Ok((-0.0f64).to_bits()));
    }

    #[test]
    fn the_last_written_of_equal_times_wins() {
        let mut samples = vec![Sample { t: 2, v: 1.0 }, Sample { t: 1, v: 2.0 }, Sample { t: 2, v: 3.0 }];
        order(&mut samples);
        assert_eq!(samples, [Sample { t: 1, v: 2.0 }, Sample { t: 2, v: 3.0 }]);
    }

    #[test]
    fn regular_times_and_constant_values_cost_almost_nothing() {
        let samples: Vec<Sample> = (0..1_000).map(|k| Sample { t: k * 1_000, v: 50.0 }).collect();
        assert!(pack_chunk(&samples).unwrap().len() < 20);
    }
}
