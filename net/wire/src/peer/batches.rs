//! Batches back to back in a payload, which may be cut into slices anywhere.

use catena_format::{
    BATCH_HEADER_BYTES, batch::BATCH_PREFIX_BYTES, checksum::Crc32, limits::BATCH_BYTES_MAX,
};

use super::{BatchStamp, PeerError};

/// A batch's length field does not count these bytes.
const BEFORE_LENGTH: usize = 12;

/// How long each of the batches in `payload` is, by their own words: for their stamps.
///
/// # Errors
/// [`PeerError::Batch`] when one is cut off, or says what no batch can.
pub fn batch_lengths<S: AsRef<[u8]>>(payload: &[S]) -> Result<Vec<u32>, PeerError> {
    let (mut walk, mut lengths) = (Walk { slices: payload, at: 0 }, Vec::new());
    while !walk.is_at_end() {
        let wrong = PeerError::Batch { number: lengths.len() };
        let length = length_of(&walk.prefix().ok_or(wrong)?).ok_or(wrong)?;
        walk.skip(length as usize).ok_or(wrong)?;
        lengths.push(length);
    }
    Ok(lengths)
}

/// Goes on with the CRC over the first bytes of each batch, which is as long as its stamp says.
pub(super) fn update_crc<S: AsRef<[u8]>>(
    crc: &mut Crc32,
    stamps: &[BatchStamp],
    payload: &[S],
) -> Result<(), PeerError> {
    let stamped = stamps.iter().map(|stamp| u64::from(stamp.length)).sum();
    let payload_bytes = bytes_of(payload);
    if stamped != payload_bytes {
        return Err(PeerError::Stamps { stamped, payload: payload_bytes });
    }
    let mut walk = Walk { slices: payload, at: 0 };
    for (number, stamp) in stamps.iter().enumerate() {
        let wrong = PeerError::Batch { number };
        let prefix = walk.prefix().ok_or(wrong)?;
        if length_of(&prefix) != Some(stamp.length) {
            return Err(wrong);
        }
        crc.update(&prefix);
        walk.skip(stamp.length as usize).ok_or(wrong)?;
    }
    Ok(())
}

/// Bytes of all slices together.
pub(super) fn bytes_of<S: AsRef<[u8]>>(slices: &[S]) -> u64 {
    slices.iter().map(|slice| slice.as_ref().len() as u64).sum()
}

/// The length of a whole batch by its own word, if it is one that a batch can have.
fn length_of(prefix: &[u8; BATCH_PREFIX_BYTES]) -> Option<u32> {
    let field = i32::from_be_bytes(*prefix[8..].first_chunk().expect("four bytes"));
    let length = usize::try_from(field).ok()? + BEFORE_LENGTH;
    let possible = (BATCH_HEADER_BYTES..=BATCH_BYTES_MAX).contains(&length);
    possible.then(|| u32::try_from(length).expect("a batch is not that long"))
}

/// A place in bytes that stand in slices.
struct Walk<'p, S> {
    slices: &'p [S],
    /// Within the first of them.
    at: usize,
}

impl<S: AsRef<[u8]>> Walk<'_, S> {
    fn is_at_end(&self) -> bool {
        self.rest().next().is_none()
    }

    /// What is left, without empty slices.
    fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let slices = self.slices.iter().map(AsRef::as_ref).enumerate();
        let rest =
            slices.map(|(number, slice)| if number == 0 { &slice[self.at..] } else { slice });
        rest.filter(|slice| !slice.is_empty())
    }

    /// The bytes here, if there are as many.
    fn prefix(&self) -> Option<[u8; BATCH_PREFIX_BYTES]> {
        let (mut prefix, mut filled) = ([0; BATCH_PREFIX_BYTES], 0);
        for slice in self.rest() {
            let taken = slice.len().min(BATCH_PREFIX_BYTES - filled);
            prefix[filled..filled + taken].copy_from_slice(&slice[..taken]);
            filled += taken;
            if filled == BATCH_PREFIX_BYTES {
                return Some(prefix);
            }
        }
        None
    }

    /// Goes on behind `bytes`, if there are as many.
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.at += bytes;
        while let Some((first, rest)) = self.slices.split_first()
            && self.at >= first.as_ref().len()
        {
            self.at -= first.as_ref().len();
            self.slices = rest;
        }
        (self.at == 0 || !self.slices.is_empty()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(length: usize) -> Vec<u8> {
        let mut batch = vec![7; length];
        let field = i32::try_from(length - BEFORE_LENGTH).unwrap();
        batch[8..12].copy_from_slice(&field.to_be_bytes());
        batch
    }

    #[test]
    fn batches_are_found_wherever_they_are_cut_into_slices() {
        let bytes = [batch(61), batch(75), batch(100)].concat();
        for slice_bytes in 1..=bytes.len() {
            let mut slices: Vec<&[u8]> = bytes.chunks(slice_bytes).collect();
            slices.insert(slices.len() / 2, &[]);
            slices.push(&[]);
            assert_eq!(batch_lengths(&slices), Ok(vec![61, 75, 100]));
        }
        assert_eq!(batch_lengths::<&[u8]>(&[]), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_batch_is_named() {
        let bytes = [batch(61), batch(75)].concat();
        for end in 62..bytes.len() {
            assert_eq!(batch_lengths(&[&bytes[..end]]), Err(PeerError::Batch { number: 1 }));
        }
        for field in [-1i32, 0, 48, i32::MAX] {
            let mut bytes = bytes.clone();
            bytes[8..12].copy_from_slice(&field.to_be_bytes());
            assert_eq!(batch_lengths(&[bytes]), Err(PeerError::Batch { number: 0 }));
        }
    }
}
