//! Compressing and decompressing the records of a batch, in the framings of Kafka's clients.
//!
//! ```text
//! gzip    RFC 1952          lz4   LZ4 frame, independent blocks of 64 KiB
//! zstd    Zstandard frame   snappy  xerial's: "\x82SNAPPY\0", versions 1 and 1 as i32, then
//!                                   blocks: length i32, raw snappy of at most 32 KiB
//! ```
//!
//! Numbers are big-endian. Snappy without a framing is read too: librdkafka writes it. The server
//! never decompresses. Whoever reads states how much may come out, so that a small batch cannot
//! take all memory.

use std::{
    fmt,
    io::{self, Read, Write},
    str::FromStr,
};

use catena_format::Codec;

/// What records are decompressed to at most by default, in bytes: sixteen times the largest batch
/// that a topic takes by default, four times the largest batch at all.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_BLOCK_BYTES: usize = 32 << 10;

/// Why records cannot be compressed or decompressed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionError {
    /// The bytes are not what the codec writes.
    #[error("the records are no {codec}: {why}")]
    Malformed {
        /// The codec of the batch.
        codec: Compression,
        /// The codec's words.
        why: String,
    },
    /// More would come out than the reader allows.
    #[error("the records are larger than {limit} bytes when decompressed")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// This build leaves the codec out: it has not the cargo feature of that name.
    #[error("this build has no {0}")]
    NotBuilt(Compression),
}

/// No codec is called so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no compression: none, gzip, snappy, lz4 or zstd")]
pub struct CompressionUnknown(
    /// What was given.
    pub String,
);

/// How the records of a batch are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip at its default level.
    Gzip,
    /// Snappy in xerial's framing.
    Snappy,
    /// The LZ4 frame format: quick.
    Lz4,
    /// Zstandard at its default level: small. Needs the cargo feature `zstd`.
    Zstd,
}

impl Compression {
    /// Every way, by Kafka's number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// As a batch's header says it.
    #[must_use]
    pub const fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd => Codec::Zstd,
        }
    }

    /// Compresses.
    ///
    /// # Errors
    /// [`CompressionError::NotBuilt`].
    pub fn compress(self, records: &[u8]) -> Result<Vec<u8>, CompressionError> {
        let compressed = match self {
            Self::None => Ok(records.to_vec()),
            Self::Gzip => gzip(records),
            Self::Snappy => snappy(records),
            Self::Lz4 => lz4(records),
            Self::Zstd => zstd(records)?,
        };
        compressed.map_err(|error| self.malformed(&error))
    }

    /// Decompresses to at most `limit` bytes.
    ///
    /// # Errors
    /// See [`CompressionError`].
    pub fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        match self {
            Self::None if bytes.len() <= limit => Ok(bytes.to_vec()),
            Self::None => Err(CompressionError::TooLarge { limit }),
            Self::Gzip => self.read(flate2::read::MultiGzDecoder::new(bytes), limit),
            Self::Snappy => self.unsnappy(bytes, limit),
            Self::Lz4 => self.read(lz4_flex::frame::FrameDecoder::new(bytes), limit),
            Self::Zstd => self.unzstd(bytes, limit),
        }
    }

    fn read(self, reader: impl Read, limit: usize) -> Result<Vec<u8>, CompressionError> {
        let mut bytes = Vec::new();
        let one_more = limit as u64 + 1;
        reader.take(one_more).read_to_end(&mut bytes).map_err(|error| self.malformed(&error))?;
        if bytes.len() > limit { Err(CompressionError::TooLarge { limit }) } else { Ok(bytes) }
    }

    fn unsnappy(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let mut out = Vec::new();
        let Some(mut rest) = bytes.strip_prefix(&XERIAL_HEADER) else {
            self.unsnappy_block(bytes, limit, &mut out)?;
            return Ok(out);
        };
        while !rest.is_empty() {
            let ends = || self.malformed(&"it ends within a block");
            let (length, behind) = rest.split_first_chunk().ok_or_else(ends)?;
            let length = u32::from_be_bytes(*length) as usize;
            let (block, behind) = behind.split_at_checked(length).ok_or_else(ends)?;
            self.unsnappy_block(block, limit, &mut out)?;
            rest = behind;
        }
        Ok(out)
    }

    fn unsnappy_block(
        self,
        block: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let malformed = |error| self.malformed(&error);
        let length = snap::raw::decompress_len(block).map_err(malformed)?;
        let begin = out.len();
        if length > limit - begin {
            return Err(CompressionError::TooLarge { limit });
        }
        out.resize(begin + length, 0);
        snap::raw::Decoder::new().decompress(block, &mut out[begin..]).map_err(malformed)?;
        Ok(())
    }

    #[cfg(feature = "zstd")]
    fn unzstd(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, CompressionError> {
        let decoder = ::zstd::stream::read::Decoder::with_buffer(bytes);
        self.read(decoder.map_err(|error| self.malformed(&error))?, limit)
    }

    #[cfg(not(feature = "zstd"))]
    fn unzstd(self, _: &[u8], _: usize) -> Result<Vec<u8>, CompressionError> {
        Err(CompressionError::NotBuilt(self))
    }

    fn malformed(self, why: &dyn fmt::Display) -> CompressionError {
        CompressionError::Malformed { codec: self, why: why.to_string() }
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip,
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Compression {
    type Err = CompressionUnknown;
    fn from_str(name: &str) -> Result<Self, CompressionUnknown> {
        let found = Self::ALL.into_iter().find(|compression| compression.name() == name);
        found.ok_or_else(|| CompressionUnknown(name.to_owned()))
    }
}

fn gzip(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(records)?;
    encoder.finish()
}

fn snappy(records: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = XERIAL_HEADER.to_vec();
    let mut encoder = snap::raw::Encoder::new();
    for block in records.chunks(XERIAL_BLOCK_BYTES) {
        let compressed = encoder.compress_vec(block).map_err(io::Error::other)?;
        let length = u32::try_from(compressed.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(out)
}

/// Kafka's Java client reads independent blocks only.
fn lz4(records: &[u8]) -> io::Result<Vec<u8>> {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let info = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(records)?;
    encoder.finish().map_err(io::Error::other)
}

#[cfg(feature = "zstd")]
fn zstd(records: &[u8]) -> Result<io::Result<Vec<u8>>, CompressionError> {
    Ok(::zstd::bulk::compress(records, ::zstd::DEFAULT_COMPRESSION_LEVEL))
}

#[cfg(not(feature = "zstd"))]
fn zstd(_: &[u8]) -> Result<io::Result<Vec<u8>>, CompressionError> {
    Err(CompressionError::NotBuilt(Compression::Zstd))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn built() -> impl Iterator<Item = Compression> {
        Compression::ALL.into_iter().filter(|c| cfg!(feature = "zstd") || *c != Compression::Zstd)
    }

    #[test]
    fn names_and_codecs_read_back() {
        for compression in Compression::ALL {
            assert_eq!(compression.name().parse(), Ok(compression));
            assert_eq!(Compression::from(compression.codec()), compression);
        }
        assert!("brotli".parse::<Compression>().is_err());
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 4 << 20];
        for compression in built().filter(|c| *c != Compression::None) {
            let bomb = compression.compress(&zeros).unwrap();
            assert!(bomb.len() < zeros.len() / 20, "{compression}: {} bytes", bomb.len());
            let refused = compression.decompress(&bomb, zeros.len() - 1);
            assert!(matches!(refused, Err(CompressionError::TooLarge { .. })), "{compression}");
            assert_eq!(compression.decompress(&bomb, zeros.len()).unwrap(), zeros);
        }
    }

    #[test]
    fn snappy_without_framing_is_read() {
        let text = b"catena catena catena catena".repeat(50);
        let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        assert_eq!(Compression::Snappy.decompress(&raw, 1 << 20).unwrap(), text);
    }

    #[test]
    fn a_snappy_length_that_lies_takes_no_memory() {
        let mut lie = XERIAL_HEADER.to_vec();
        lie.extend_from_slice(&6u32.to_be_bytes());
        lie.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let refused = Compression::Snappy.decompress(&lie, 1 << 20);
        assert!(matches!(refused, Err(CompressionError::TooLarge { .. })), "{refused:?}");
    }

    proptest! {
        #[test]
        fn what_is_compressed_reads_back(
            word in prop::collection::vec(any::<u8>(), 0..100),
            times in 0usize..2000,
        ) {
            let bytes = word.repeat(times);
            for compression in built() {
                let compressed = compression.compress(&bytes).unwrap();
                prop_assert_eq!(&compression.decompress(&compressed, 1 << 20).unwrap(), &bytes);
            }
        }

        #[test]
        fn random_and_damaged_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
        ) {
            for compression in built() {
                let _ = compression.decompress(&bytes, 1 << 16);
                let mut damaged = compression.compress(&bytes).unwrap();
                if !damaged.is_empty() {
                    let at = at.index(damaged.len());
                    damaged[at] ^= 0x10;
                    let _ = compression.decompress(&damaged, 1 << 16);
                }
            }
        }
    }
}
