//! The two checksums: CRC-32 (IEEE, `crc32fast`) for what is ours, CRC-32C for Kafka's batches.

/// CRC-32 of `bytes`.
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of several slices as if they stood back to back.
#[must_use]
pub fn crc32_of(parts: &[&[u8]]) -> u32 {
    let mut crc = Crc32::default();
    parts.iter().for_each(|part| crc.update(part));
    crc.finish()
}

/// A CRC-32 that is taken piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Crc32(crc32fast::Hasher);

impl Crc32 {
    /// Goes on with `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that it was given.
    #[must_use]
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

/// CRC-32C (Castagnoli) of `bytes`, as in a record batch.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes))
        .expect("a CRC of 32 bits fits 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_catalogue() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32_of(&[b"1234", b"", b"56789"]), 0xCBF4_3926);
    }
}
