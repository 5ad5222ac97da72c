//! For the tests: messages from arbitrary bytes, and their fields as text.

use std::borrow::Cow;

use catena_format::{
    ClusterId, Epoch, Incarnation, JoinToken, Millis, NodeId, Offset, PartitionIndex, PartitionUid,
    ProducerEpoch, ProducerId, TopicId,
};

use crate::{ConfigOrigin, Durability, ErrorCode, OffsetQuery, ReceiptFlags, peer::PeerThread};

const LETTERS: [&str; 8] = ["a", "b", "7", ".", "\"", "ß", "鎖", "\n"];

/// Bytes that values are made from; zeros follow when they are used up, so that failures shrink.
pub(crate) struct Source<'a>(pub(crate) &'a [u8]);

impl Source<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }
}

/// A value of any kind that a message can carry.
pub(crate) trait Sample: Sized {
    fn sample(source: &mut Source<'_>) -> Self;
    /// The fields of a struct.
    fn fields(&self) -> Option<Vec<(&'static str, String)>> {
        None
    }
    /// The value as JSON, as the decoder in Python prints it.
    fn text(&self) -> String {
        let fields = self.fields().expect("what is no struct has a text of its own");
        let fields = fields.iter().map(|(name, value)| format!("\"{name}\": {value}"));
        format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
    }
}

macro_rules! samples {
    ($($type:ty: |$source:ident| $sample:expr, |$value:ident| $text:expr;)*) => {$(
        impl Sample for $type {
            fn sample($source: &mut Source<'_>) -> Self {
                $sample
            }
            fn text(&self) -> String {
                let $value = self;
                $text.to_string()
            }
        }
    )*};
}

samples! {
    u8: |s| s.byte(), |v| v;
    u16: |s| Self::from_le_bytes(s.array()), |v| v;
    u32: |s| Self::from_le_bytes(s.array()), |v| v;
    u64: |s| Self::from_le_bytes(s.array()), |v| v;
    bool: |s| s.byte() & 1 == 1, |v| v;
    ClusterId: |s| Self::new(u128::from_le_bytes(s.array())), |v| v;
    Incarnation: |s| Self::new(Sample::sample(s)), |v| v;
    JoinToken: |s| Self::new(u128::from_le_bytes(s.array())), |v| v;
    Millis: |s| Self::new(i64::from_le_bytes(s.array())), |v| v;
    NodeId: |s| Self::new(Sample::sample(s)), |v| v;
    PartitionIndex: |s| Self::new(Sample::sample(s)), |v| v;
    PartitionUid: |s| Self::new(Sample::sample(s)), |v| v;
    ProducerEpoch: |s| Self::new(i16::from_le_bytes(s.array())), |v| v;
    ProducerId: |s| Self::new(i64::from_le_bytes(s.array())), |v| v;
    TopicId: |s| Self::new(u128::from_le_bytes(s.array())), |v| v;
    Offset: |s| Self::new(u64::sample(s) >> 1), |v| v;
    Epoch: |s| Self::new(u32::sample(s) >> 1), |v| v;
    ErrorCode: |s| Self::from(u16::sample(s) % 300), |v| v.number();
    Durability: |s| Self::ALL[usize::from(s.byte()) % 4], |v| *v as u8;
    ConfigOrigin: |s| Self::ALL[usize::from(s.byte()) % 3], |v| *v as u8;
    PeerThread: |s| Self::from_number(u16::sample(s)), |v| v.number();
    ReceiptFlags: |s| Self { duplicate: bool::sample(s), tentative: bool::sample(s) },
        |v| v.bits();
    OffsetQuery: |s| match s.byte() % 6 {
        0 => Self::Earliest,
        1 => Self::Latest,
        2 => Self::LogEnd,
        3 => Self::AtTime(Sample::sample(s)),
        4 => Self::Confirmed,
        _ => Self::AtOffset(Sample::sample(s)),
    }, |v| match v {
        Self::Earliest => "[0, 0]".to_owned(),
        Self::Latest => "[1, 0]".to_owned(),
        Self::LogEnd => "[2, 0]".to_owned(),
        Self::AtTime(time) => format!("[3, {time}]"),
        Self::AtOffset(offset) => format!("[4, {offset}]"),
        Self::Confirmed => "[5, 0]".to_owned(),
    };
    Cow<'_, str>: |s| {
        let length = s.byte() % 8;
        (0..length).map(|_| LETTERS[usize::from(s.byte()) % LETTERS.len()]).collect()
    }, |v| format!("\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""));
    Cow<'_, [u8]>: |s| {
        let length = s.byte() % 8;
        (0..length).map(|_| s.byte()).collect()
    }, |v| format!("\"{}\"", v.iter().map(|b| format!("{b:02x}")).collect::<String>());
}

impl<T: Sample> Sample for Option<T> {
    fn sample(source: &mut Source<'_>) -> Self {
        bool::sample(source).then(|| T::sample(source))
    }
    fn text(&self) -> String {
        self.as_ref().map_or("null".to_owned(), T::text)
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(source: &mut Source<'_>) -> Self {
        let length = source.byte() % 4;
        (0..length).map(|_| T::sample(source)).collect()
    }
    fn text(&self) -> String {
        format!("[{}]", self.iter().map(T::text).collect::<Vec<_>>().join(", "))
    }
}
