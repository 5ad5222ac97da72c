//! The bytes of a file in blocks that copies share, so that to fork a disk costs little.

use std::{ops::Range, rc::Rc};

use super::{super::fingerprint::Fingerprint, BLOCK_BYTES};

const BLOCK: usize = BLOCK_BYTES as usize;

/// A file's bytes; a block of zeros takes no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    length: usize,
    blocks: Vec<Option<Rc<[u8; BLOCK]>>>,
}

impl Pages {
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Grows by zeros to a length.
    pub(super) fn grow(&mut self, length: usize) {
        self.length = self.length.max(length);
        self.blocks.resize(self.length.div_ceil(BLOCK), None);
    }

    /// Writes, growing by zeros as needed.
    pub(super) fn write_at(&mut self, position: usize, bytes: &[u8]) {
        self.grow(position + bytes.len());
        for (index, within, part) in parts(position, bytes.len()) {
            let bytes = &bytes[part];
            if bytes.len() == BLOCK && is_zero(bytes) {
                self.blocks[index] = None;
            } else {
                self.block(index)[within].copy_from_slice(bytes);
            }
        }
    }

    fn block(&mut self, index: usize) -> &mut [u8; BLOCK] {
        Rc::make_mut(self.blocks[index].get_or_insert_with(|| Rc::new([0; BLOCK])))
    }

    /// The bytes of a range, which must not lie beyond the end.
    pub(super) fn read(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        for (index, within, part) in parts(range.start, range.len()) {
            if let Some(block) = &self.blocks[index] {
                bytes[part].copy_from_slice(&block[within]);
            }
        }
        bytes
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.read(0..self.length)
    }

    /// Whether a range lies before the end and holds these bytes.
    pub(super) fn holds(&self, position: usize, bytes: &[u8]) -> bool {
        let there = |(index, within, part): (usize, Range<usize>, Range<usize>)| match &self.blocks
            [index]
        {
            Some(block) => block[within] == bytes[part],
            None => is_zero(&bytes[part]),
        };
        position + bytes.len() <= self.length && parts(position, bytes.len()).all(there)
    }

    pub(super) fn flip(&mut self, at: usize, bit: u8) {
        self.block(at / BLOCK)[at % BLOCK] ^= 1 << bit;
    }

    /// Feeds length and bytes.
    pub(super) fn hash(&self, hash: &mut Fingerprint) {
        hash.numbers([self.length as u64]);
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(block) = block.as_ref().filter(|block| !is_zero(&block[..])) {
                hash.numbers([index as u64]);
                hash.bytes(&block[..]);
            }
        }
    }
}

/// Cuts a range of a file at the blocks: which block, where in it, and where in the range.
fn parts(
    position: usize,
    length: usize,
) -> impl Iterator<Item = (usize, Range<usize>, Range<usize>)> {
    let blocks = position / BLOCK..(position + length).div_ceil(BLOCK);
    blocks.filter(move |_| length > 0).map(move |index| {
        let start = position.max(index * BLOCK);
        let end = (position + length).min((index + 1) * BLOCK);
        let within = start - index * BLOCK..end - index * BLOCK;
        (index, within, start - position..end - position)
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    bytes == &ZEROS[..bytes.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_copy_keeps_what_it_had() {
        let mut pages = Pages::default();
        pages.write_at(BLOCK - 2, &[7; 5]);
        let copy = pages.clone();
        pages.write_at(BLOCK, &[9; 1]);
        pages.grow(3 * BLOCK);
        assert_eq!(copy.read(BLOCK - 3..BLOCK + 3), [0, 7, 7, 7, 7, 7]);
        assert_eq!(pages.read(BLOCK - 3..BLOCK + 3), [0, 7, 7, 9, 7, 7]);
        assert_eq!((copy.len(), pages.len()), (BLOCK + 3, 3 * BLOCK));
        assert!(pages.holds(BLOCK - 1, &[7, 9]) && !pages.holds(3 * BLOCK - 1, &[0, 0]));
    }

    #[test]
    fn zeros_are_zeros_however_they_came() {
        let hash = |pages: &Pages| {
            let mut hash = Fingerprint::default();
            pages.hash(&mut hash);
            hash.value()
        };
        let (mut grown, mut written) = (Pages::default(), Pages::default());
        grown.grow(2 * BLOCK);
        written.write_at(10, &[1; BLOCK]);
        assert_ne!(hash(&grown), hash(&written));
        written.write_at(0, &[0; 100]);
        written.write_at(100, &vec![0; 2 * BLOCK - 100]);
        assert_eq!(hash(&grown), hash(&written));
    }
}
