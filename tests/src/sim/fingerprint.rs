//! A running fingerprint of a history: same seed, same fingerprint, on every machine.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// XXH3 over everything fed so far, each piece seeded with what came before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Feeds bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// Feeds numbers.
    pub fn numbers<const N: usize>(&mut self, numbers: [u64; N]) {
        let bytes = numbers.map(u64::to_le_bytes);
        self.bytes(bytes.as_flattened());
    }

    /// The value so far.
    #[must_use]
    pub const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_count() {
        let of = |pieces: &[&[u8]]| {
            let mut fingerprint = Fingerprint::default();
            pieces.iter().for_each(|piece| fingerprint.bytes(piece));
            fingerprint.value()
        };
        assert_ne!(of(&[b"a", b"b"]), of(&[b"b", b"a"]));
        assert_ne!(of(&[b"a", b""]), of(&[b"a"]));
        assert_eq!(of(&[b"a", b"b"]), of(&[b"a", b"b"]));
    }
}
