//! A shelf: the samples of a page of series that are too few for chunks of their own, in one row. PURE.
//!
//! A chunk costs a row, an index entry and rollups; a series with a few hundred samples does not carry that. Its samples
//! lie packed on their own on the shelf of its page, so that one series is read without unpacking its neighbours, until
//! there are enough.

use super::codec::{CodecError, PAGE_SERIES, Sample, pack_chunk, put_varint, take, take_varint, unpack_chunk};

const fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)).cast_unsigned()
}

const fn unzigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -((n & 1).cast_signed())
}

/// Packs what lies on a shelf; `series[slot]` holds the ordered samples of one series, or none.
///
/// # Errors
/// Nothing at all, more than a page, or a series with more than a chunk holds.
pub fn pack(series: &[Vec<Sample>]) -> Result<Vec<u8>, CodecError> {
    let base = series.iter().find_map(|samples| samples.first()).ok_or(CodecError::TooMany)?.t;
    if series.len() > PAGE_SERIES {
        return Err(CodecError::TooMany);
    }
    let mut out = Vec::new();
    put_varint(&mut out, series.len() as u64);
    out.extend_from_slice(&base.to_le_bytes());
    let mut packed = Vec::new();
    for samples in series {
        let Some(first) = samples.first() else {
            put_varint(&mut out, 0);
            continue;
        };
        let mut one = Vec::new();
        put_varint(&mut one, zigzag(first.t.wrapping_sub(base)));
        one.extend_from_slice(&pack_chunk(samples)?);
        put_varint(&mut out, one.len() as u64);
        packed.extend_from_slice(&one);
    }
    out.extend_from_slice(&packed);
    Ok(out)
}

/// What lies where: the base time and, per slot, the bytes of one series.
fn contents(bytes: &[u8]) -> Result<(i64, Vec<&[u8]>), CodecError> {
    let mut bytes = bytes;
    let slots = usize::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::TooMany)?;
    if slots > PAGE_SERIES {
        return Err(CodecError::TooMany);
    }
    let base: [u8; 8] = take(&mut bytes, 8)?.try_into().map_err(|_| CodecError::Short)?;
    let mut lengths = Vec::with_capacity(slots);
    for _ in 0..slots {
        lengths.push(usize::try_from(take_varint(&mut bytes)?).map_err(|_| CodecError::Short)?);
    }
    let parts = lengths.into_iter().map(|length| take(&mut bytes, length)).collect::<Result<_, _>>()?;
    Ok((i64::from_le_bytes(base), parts))
}

fn unpack_one(base: i64, part: &[u8], out: &mut Vec<Sample>) -> Result<(), CodecError> {
    if part.is_empty() {
        return Ok(());
    }
    let mut part = part;
    let first = base.wrapping_add(unzigzag(take_varint(&mut part)?));
    unpack_chunk(first, part, out)
}

/// Appends the samples of one slot.
///
/// # Errors
/// Damaged bytes; `out` is then unchanged.
pub fn unpack_slot(bytes: &[u8], slot: usize, out: &mut Vec<Sample>) -> Result<(), CodecError> {
    let (base, parts) = contents(bytes)?;
    unpack_one(base, parts.get(slot).copied().unwrap_or_default(), out)
}

/// The samples of every slot; returns how many slots were damaged and left out.
///
/// # Errors
/// Damaged as a whole.
pub fn unpack(bytes: &[u8], out: &mut [Vec<Sample>]) -> Result<u64, CodecError> {
    let (base, parts) = contents(bytes)?;
    Ok(parts.into_iter().zip(out).map(|(part, out)| u64::from(unpack_one(base, part, out).is_err())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_series_comes_back_alone_and_together(
            counts in prop::collection::vec(0usize..40, 1..PAGE_SERIES), start in any::<i32>(),
        ) {
            let sample = |slot: usize, k: usize| Sample { t: i64::from(start) - slot as i64 * 7 + k as i64 * 1_000, v: (slot * k) as f64 / 10.0 };
            let series: Vec<Vec<Sample>> = counts.iter().enumerate().map(|(slot, n)| (0..*n).map(|k| sample(slot, k)).collect()).collect();
            prop_assume!(counts.iter().any(|n| *n > 0));
            let bytes = pack(&series).unwrap();
            let mut all = vec![Vec::new(); PAGE_SERIES];
            prop_assert_eq!(unpack(&bytes, &mut all).unwrap(), 0);
            for (slot, wanted) in series.iter().enumerate() {
                let mut one = Vec::new();
                unpack_slot(&bytes, slot, &mut one).unwrap();
                prop_assert_eq!(&one, wanted);
                prop_assert_eq!(&all[slot], wanted);
            }
        }

        #[test]
        fn damaged_shelves_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), flip in any::<(usize, u8)>()) {
            let mut all = vec![Vec::new(); PAGE_SERIES];
            let _ = unpack(&bytes, &mut all);
            let series: Vec<Vec<Sample>> = (0..9).map(|slot| (0..50).map(|k| Sample { t: k * 997, v: (slot * k) as f64 }).collect()).collect();
            let mut packed = pack(&series).unwrap();
            let at = flip.0 % packed.len();
            packed[at] ^= flip.1;
            let _ = unpack(&packed, &mut all);
        }
    }

    #[test]
    fn signs_survive() {
        for n in [0, 1, -1, i64::MAX, i64::MIN, 1_790_000_000_123] {
            assert_eq!(unzigzag(zigzag(n)), n);
        }
    }
}
