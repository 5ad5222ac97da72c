//! Which partition a record goes to: by its key as Kafka's default partitioner decides; without a
//! key, the same until its batch is closed.

/// MurmurHash2 in Kafka's variant (`org.apache.kafka.common.utils.Utils.murmur2`), seed 0x9747b28c.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c ^ length;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("chunks of four")).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (at, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The partition of a key among `partitions`.
///
/// # Panics
/// When there is no partition.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// Chooses partitions.
#[derive(Debug)]
pub(crate) struct Partitioner {
    partitions: u32,
    sticky: u32,
}

impl Partitioner {
    /// Among `partitions`, which are not zero; records without a key begin anywhere.
    pub(crate) fn new(partitions: u32, anywhere: u64) -> Self {
        assert!(partitions > 0, "a topic has a partition");
        let sticky = (anywhere % u64::from(partitions)) as u32;
        Self { partitions, sticky }
    }

    /// The partition of a record with this key.
    pub(crate) fn partition(&self, key: Option<&[u8]>) -> u32 {
        key.map_or(self.sticky, |key| partition_for_key(key, self.partitions))
    }

    /// There are more partitions now: keys are spread anew over all of them.
    pub(crate) fn grow(&mut self, partitions: u32) {
        self.partitions = partitions.max(self.partitions);
    }

    /// A batch of the partition was closed: records without a key go elsewhere now.
    pub(crate) fn on_closed(&mut self, partition: u32) {
        if partition == self.sticky {
            self.sticky = (partition + 1) % self.partitions;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_key_a_partition_sticks_until_its_batch_is_closed() {
        let mut partitioner = Partitioner::new(3, 8);
        assert_eq!(partitioner.partition(None), 2);
        partitioner.on_closed(1);
        assert_eq!(partitioner.partition(None), 2);
        partitioner.on_closed(2);
        assert_eq!(partitioner.partition(None), 0);
        assert_eq!(partitioner.partition(Some(b"21")), partition_for_key(b"21", 3));
    }

    #[test]
    fn kafka_s_own_vectors() {
        let vectors: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }
}
