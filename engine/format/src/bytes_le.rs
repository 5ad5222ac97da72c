//! Fixed-width fields at fixed places of a slice whose length was checked before.

/// The `N` bytes at `at`.
///
/// # Panics
/// When the slice ends before them: callers check lengths first.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the range has N bytes")
}

macro_rules! field {
    ($read:ident, $write:ident, $type:ty) => {
        pub(crate) fn $read(bytes: &[u8], at: usize) -> $type {
            <$type>::from_le_bytes(array(bytes, at))
        }
        pub(crate) fn $write(bytes: &mut [u8], at: usize, value: $type) {
            bytes[at..at + size_of::<$type>()].copy_from_slice(&value.to_le_bytes());
        }
    };
}

field!(u16_at, put_u16, u16);
field!(u32_at, put_u32, u32);
field!(u64_at, put_u64, u64);
field!(i64_at, put_i64, i64);
field!(u128_at, put_u128, u128);
