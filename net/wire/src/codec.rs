//! How fields stand in a head: the reader, the writer, and the macro that draws a message from its
//! fields.
//!
//! ```text
//! head    ┌ field ┬ field ┬ … ┬ tail: (tag u16, length u16, value) … to the end ┐
//! text    length u16, UTF-8          bytes  length u16, bytes
//! list    count u32, items           bool   u8, 0 or 1
//! ```

use std::borrow::Cow;

use catena_format::{
    ClusterId, Epoch, Incarnation, JoinToken, Millis, NodeId, Offset, PartitionIndex, PartitionUid,
    ProducerEpoch, ProducerId, TopicId,
};

use crate::limits::SENTENCE_BYTES_MAX;

/// Why a head cannot be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The head ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A count is larger than what is left of the head.
    #[error("a count of {0} is larger than the message")]
    Count(u32),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A field has a value without a meaning.
    #[error("field `{0}` has a value without a meaning")]
    Value(&'static str),
    /// A known tag of the tail came twice.
    #[error("tag {0} came twice")]
    TagTwice(u16),
    /// A text or list of bytes to send is longer than [`crate::limits::TEXT_BYTES_MAX`].
    #[error("a text of {0} bytes is too long to send")]
    TextTooLong(usize),
    /// A head or payload to send is longer than any peer takes.
    #[error("a message of {0} bytes is too long to send")]
    MessageTooLong(usize),
}

/// The head of a request or response, which borrows from the bytes it was read from.
pub trait Message<'a>: Sized {
    /// The same, borrowing nothing.
    type Owned: Message<'static, Owned = Self::Owned>;

    /// Writes the head behind what `out` holds.
    ///
    /// # Errors
    /// [`WireError::TextTooLong`]; what stands in `out` then is of no use.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), WireError>;

    /// Reads a whole head. Lists are allocated, no larger than the head's own length allows.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    fn decode(head: &'a [u8]) -> Result<Self, WireError>;

    /// Reads a whole head into a message that borrows nothing.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    fn decode_owned(head: &[u8]) -> Result<Self::Owned, WireError>;

    /// Copies whatever is borrowed.
    fn into_owned(self) -> Self::Owned;
}

/// Reads fields one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Hands each tag and its value to `each`, to the end of the head.
    pub(crate) fn tail(
        &mut self,
        mut each: impl FnMut(u16, &'a [u8]) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        while !self.0.is_empty() {
            let (tag, length) = (u16::take(self)?, u16::take(self)?);
            each(tag, self.bytes(usize::from(length))?)?;
        }
        Ok(())
    }
}

/// Writes fields one after another.
pub(crate) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    refused: Option<WireError>,
}

impl<'o> Writer<'o> {
    pub(crate) fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out, refused: None }
    }

    /// Bytes behind their length; too many are refused at the end.
    fn sized(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => {
                length.put(self);
                self.out.extend_from_slice(bytes);
            }
            Err(_) => self.refused = Some(WireError::TextTooLong(bytes.len())),
        }
    }

    /// A field under a tag.
    fn tagged<'a>(&mut self, tag: u16, field: &impl Field<'a>) {
        tag.put(self);
        let at = self.out.len();
        0u16.put(self);
        field.put(self);
        let bytes = self.out.len() - at - size_of::<u16>();
        match u16::try_from(bytes) {
            Ok(length) => self.out[at..][..size_of::<u16>()].copy_from_slice(&length.to_le_bytes()),
            Err(_) => self.refused = Some(WireError::TextTooLong(bytes)),
        }
    }

    pub(crate) fn end(self) -> Result<(), WireError> {
        self.refused.map_or(Ok(()), Err)
    }
}

/// Reads what stands under a tag; one that came before is refused.
pub(crate) fn tagged<'a, T: Tagged<'a>>(
    slot: &mut Option<T>,
    tag: u16,
    value: &'a [u8],
) -> Result<(), WireError> {
    match slot.replace(T::take_tagged(value)?) {
        Some(_) => Err(WireError::TagTwice(tag)),
        None => Ok(()),
    }
}

/// What stands under a tag of the tail: nothing does where it is empty.
pub(crate) trait Tagged<'a>: Sized + Default {
    type Owned;
    fn put_tagged(&self, tag: u16, writer: &mut Writer<'_>);
    fn take_tagged(value: &'a [u8]) -> Result<Self, WireError>;
    fn owned_tagged(self) -> Self::Owned;
}

/// A sentence for a person: cut when it is long.
impl<'a> Tagged<'a> for Cow<'a, str> {
    type Owned = Cow<'static, str>;
    fn put_tagged(&self, tag: u16, writer: &mut Writer<'_>) {
        if !self.is_empty() {
            tag.put(writer);
            writer.sized(&self.as_bytes()[..self.floor_char_boundary(SENTENCE_BYTES_MAX)]);
        }
    }
    fn take_tagged(value: &'a [u8]) -> Result<Self, WireError> {
        std::str::from_utf8(value).map(Cow::Borrowed).map_err(|_| WireError::Text)
    }
    fn owned_tagged(self) -> Cow<'static, str> {
        Cow::Owned(self.into_owned())
    }
}

/// Any other field. A newer peer may have more to say behind what is known of it.
impl<'a, T: Field<'a>> Tagged<'a> for Option<T> {
    type Owned = Option<T::Owned>;
    fn put_tagged(&self, tag: u16, writer: &mut Writer<'_>) {
        if let Some(field) = self {
            writer.tagged(tag, field);
        }
    }
    fn take_tagged(value: &'a [u8]) -> Result<Self, WireError> {
        T::take(&mut Reader(value)).map(Some)
    }
    fn owned_tagged(self) -> Option<T::Owned> {
        self.map(T::owned)
    }
}

/// A field of a message.
pub(crate) trait Field<'a>: Sized {
    type Owned;
    /// The fewest bytes that it takes: bounds counts before anything is allocated.
    const BYTES_MIN: usize;
    fn put(&self, writer: &mut Writer<'_>);
    fn take(reader: &mut Reader<'a>) -> Result<Self, WireError>;
    fn owned(self) -> Self::Owned;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl<'a> Field<'a> for $type {
            type Owned = Self;
            const BYTES_MIN: usize = size_of::<$type>();
            fn put(&self, writer: &mut Writer<'_>) {
                writer.out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(reader: &mut Reader<'a>) -> Result<Self, WireError> {
                let bytes = reader.bytes(size_of::<$type>())?;
                Ok(<$type>::from_le_bytes(bytes.try_into().expect("as many were taken")))
            }
            fn owned(self) -> Self {
                self
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, u128, i16, i64);

/// A field that is another one within, when that one's value has a meaning here.
macro_rules! fields_as {
    ($($type:ty as $inner:ty: |$put:ident| $as_inner:expr, |$taken:ident| $from:expr;)*) => {$(
        impl<'a> $crate::codec::Field<'a> for $type {
            type Owned = Self;
            const BYTES_MIN: usize = <$inner as $crate::codec::Field<'a>>::BYTES_MIN;
            fn put(&self, writer: &mut $crate::codec::Writer<'_>) {
                let $put = *self;
                let inner: $inner = $as_inner;
                $crate::codec::Field::put(&inner, writer);
            }
            fn take(
                reader: &mut $crate::codec::Reader<'a>,
            ) -> Result<Self, $crate::codec::WireError> {
                let $taken = <$inner as $crate::codec::Field<'a>>::take(reader)?;
                $from
            }
            fn owned(self) -> Self {
                self
            }
        }
    )*};
}

pub(crate) use fields_as;

fields_as! {
    ClusterId as u128: |id| id.get(), |raw| Ok(Self::new(raw));
    Incarnation as u64: |number| number.get(), |raw| Ok(Self::new(raw));
    JoinToken as u128: |token| token.get(), |raw| Ok(Self::new(raw));
    Millis as i64: |millis| millis.get(), |raw| Ok(Self::new(raw));
    NodeId as u64: |id| id.get(), |raw| Ok(Self::new(raw));
    PartitionIndex as u32: |index| index.get(), |raw| Ok(Self::new(raw));
    PartitionUid as u64: |uid| uid.get(), |raw| Ok(Self::new(raw));
    ProducerEpoch as i16: |epoch| epoch.get(), |raw| Ok(Self::new(raw));
    ProducerId as i64: |id| id.get(), |raw| Ok(Self::new(raw));
    TopicId as u128: |id| id.get(), |raw| Ok(Self::new(raw));
    Offset as u64: |offset| offset.get(), |raw| {
        let offset = Self::new(raw);
        (offset <= Self::MAX).then_some(offset).ok_or(WireError::Value("offset"))
    };
    Epoch as u32: |epoch| epoch.get(), |raw| {
        let epoch = Self::new(raw);
        (epoch <= Self::MAX).then_some(epoch).ok_or(WireError::Value("epoch"))
    };
    bool as u8: |flag| u8::from(flag), |raw| match raw {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Value("bool")),
    };
}

/// A flag byte (bit 0: there is one; the others are zero), then the offset, or zero.
impl<'a> Field<'a> for Option<Offset> {
    type Owned = Self;
    const BYTES_MIN: usize = 9;
    fn put(&self, writer: &mut Writer<'_>) {
        self.is_some().put(writer);
        self.unwrap_or_default().put(writer);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let (is_some, offset) = (bool::take(reader)?, Offset::take(reader)?);
        if !is_some && offset != Offset::ZERO {
            return Err(WireError::Value("absent offset"));
        }
        Ok(is_some.then_some(offset))
    }
    fn owned(self) -> Self {
        self
    }
}

impl<'a> Field<'a> for Cow<'a, str> {
    type Owned = Cow<'static, str>;
    const BYTES_MIN: usize = 2;
    fn put(&self, writer: &mut Writer<'_>) {
        writer.sized(self.as_bytes());
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let length = u16::take(reader)?;
        let bytes = reader.bytes(usize::from(length))?;
        std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| WireError::Text)
    }
    fn owned(self) -> Cow<'static, str> {
        Cow::Owned(self.into_owned())
    }
}

impl<'a> Field<'a> for Cow<'a, [u8]> {
    type Owned = Cow<'static, [u8]>;
    const BYTES_MIN: usize = 2;
    fn put(&self, writer: &mut Writer<'_>) {
        writer.sized(self);
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let length = u16::take(reader)?;
        reader.bytes(usize::from(length)).map(Cow::Borrowed)
    }
    fn owned(self) -> Cow<'static, [u8]> {
        Cow::Owned(self.into_owned())
    }
}

impl<'a, T: Field<'a>> Field<'a> for Vec<T> {
    type Owned = Vec<T::Owned>;
    const BYTES_MIN: usize = 4;
    fn put(&self, writer: &mut Writer<'_>) {
        u32::try_from(self.len()).expect("a list fits its count").put(writer);
        self.iter().for_each(|item| item.put(writer));
    }
    fn take(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        const { assert!(T::BYTES_MIN > 0, "an item takes bytes") };
        let count = u32::take(reader)?;
        if count as usize > reader.0.len() / T::BYTES_MIN {
            return Err(WireError::Count(count));
        }
        (0..count).map(|_| T::take(reader)).collect()
    }
    fn owned(self) -> Vec<T::Owned> {
        self.into_iter().map(T::owned).collect()
    }
}

/// Draws a struct whose fields stand on the wire in this order. A `part` stands within others; a
/// `message` is a head of its own, with fields under the tags of its tail.
macro_rules! wire_struct {
    (@part [$name:ident] [$($own:tt)*] [$($any:tt)*] [$($static:tt)*] {
        $($field:ident: $type:ty,)*
    }) => {
        impl<'a> $crate::codec::Field<'a> for $name $($own)* {
            type Owned = $name $($static)*;
            const BYTES_MIN: usize = 0 $(+ <$type as $crate::codec::Field<'a>>::BYTES_MIN)*;
            fn put(&self, writer: &mut $crate::codec::Writer<'_>) {
                $($crate::codec::Field::put(&self.$field, writer);)*
            }
            fn take(
                reader: &mut $crate::codec::Reader<'a>,
            ) -> Result<Self, $crate::codec::WireError> {
                Ok(Self { $($field: $crate::codec::Field::take(reader)?,)* })
            }
            fn owned(self) -> Self::Owned {
                $name { $($field: $crate::codec::Field::owned(self.$field),)* }
            }
        }
    };
    (@message [$name:ident] [$($own:tt)*] [$($any:tt)*] [$($static:tt)*] {
        $($field:ident: $type:ty,)* $(; tail $($tag:literal => $tagged:ident,)*)?
    }) => {
        impl<'a> $crate::codec::Message<'a> for $name $($own)* {
            type Owned = $name $($static)*;
            fn encode(&self, out: &mut Vec<u8>) -> Result<(), $crate::codec::WireError> {
                #[allow(unused_mut)]
                let mut writer = $crate::codec::Writer::new(out);
                $($crate::codec::Field::put(&self.$field, &mut writer);)*
                $($($crate::codec::Tagged::put_tagged(&self.$tagged, $tag, &mut writer);)*)?
                writer.end()
            }
            fn decode(head: &'a [u8]) -> Result<Self, $crate::codec::WireError> {
                let mut reader = $crate::codec::Reader(head);
                $(let $field = $crate::codec::Field::take(&mut reader)?;)*
                $($(let mut $tagged = None;)*)?
                reader.tail(|tag, value| {
                    $($(if tag == $tag {
                        return $crate::codec::tagged(&mut $tagged, tag, value);
                    })*)?
                    let _ = (tag, value);
                    Ok(())
                })?;
                Ok(Self { $($field,)* $($($tagged: $tagged.unwrap_or_default(),)*)? })
            }
            fn decode_owned(head: &[u8]) -> Result<Self::Owned, $crate::codec::WireError> {
                <$name $($any)* as $crate::codec::Message<'_>>::decode(head)
                    .map($crate::codec::Message::into_owned)
            }
            fn into_owned(self) -> Self::Owned {
                $name {
                    $($field: $crate::codec::Field::owned(self.$field),)*
                    $($($tagged: $crate::codec::Tagged::owned_tagged(self.$tagged),)*)?
                }
            }
        }
    };
    (@draw [$(#[$doc:meta])*] $kind:ident $name:ident [$($own:tt)*] [$($any:tt)*] [$($static:tt)*] {
        $($(#[$fdoc:meta])* $field:ident: $type:ty,)*
        $(; tail $($tag:literal => $(#[$tdoc:meta])* $tagged:ident: $ttype:ty,)*)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name $($own)* {
            $($(#[$fdoc])* pub $field: $type,)*
            $($($(#[$tdoc])* pub $tagged: $ttype,)*)?
        }

        $crate::codec::wire_struct!(@$kind [$name] [$($own)*] [$($any)*] [$($static)*] {
            $($field: $type,)* $(; tail $($tag => $tagged,)*)?
        });

        #[cfg(test)]
        impl $crate::sample::Sample for $name $($any)* {
            fn sample(source: &mut $crate::sample::Source<'_>) -> Self {
                let _ = &source;
                Self {
                    $($field: $crate::sample::Sample::sample(source),)*
                    $($($tagged: $crate::sample::Sample::sample(source),)*)?
                }
            }
            fn fields(&self) -> Option<Vec<(&'static str, String)>> {
                Some(vec![
                    $((stringify!($field), $crate::sample::Sample::text(&self.$field)),)*
                    $($((stringify!($tagged), $crate::sample::Sample::text(&self.$tagged)),)*)?
                ])
            }
        }
    };
    ($(#[$doc:meta])* $kind:ident $name:ident<$life:lifetime> { $($body:tt)* }) => {
        $crate::codec::wire_struct!(
            @draw [$(#[$doc])*] $kind $name [<$life>] [<'_>] [<'static>] { $($body)* }
        );
    };
    ($(#[$doc:meta])* $kind:ident $name:ident { $($body:tt)* }) => {
        $crate::codec::wire_struct!(@draw [$(#[$doc])*] $kind $name [] [] [] { $($body)* });
    };
}

pub(crate) use wire_struct;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeleteTopicRequest, MetadataRequest, StatusResponse};

    #[test]
    fn unknown_tags_are_skipped_and_a_known_one_comes_once() {
        let mut head = vec![20, 0, 9, 0, 2, 0, 1, 2, 9, 0, 0, 0, 1, 0, 2, 0, b'h', b'i'];
        let status = StatusResponse::decode(&head).unwrap();
        assert_eq!(status.message, "hi");
        head.extend_from_slice(&[1, 0, 0, 0]);
        assert_eq!(StatusResponse::decode(&head), Err(WireError::TagTwice(1)));
        assert_eq!(StatusResponse::decode(&head[..17]), Err(WireError::Truncated));
    }

    #[test]
    fn counts_are_checked_before_anything_is_allocated() {
        let head = [255, 255, 255, 255, 0, 0];
        assert_eq!(MetadataRequest::decode(&head), Err(WireError::Count(u32::MAX)));
        assert_eq!(MetadataRequest::decode(&head[..3]), Err(WireError::Truncated));
    }

    #[test]
    fn texts_are_borrowed_from_the_head() {
        let mut head = Vec::new();
        DeleteTopicRequest { name: "orders".into() }.encode(&mut head).unwrap();
        let request = DeleteTopicRequest::decode(&head).unwrap();
        assert!(matches!(request.name, Cow::Borrowed("orders")));
    }

    #[test]
    fn long_sentences_are_cut_and_long_names_refused() {
        let status = |message: String| StatusResponse {
            error: crate::ErrorCode::Internal,
            message: message.into(),
        };
        let (mut cut, mut head) = (Vec::new(), Vec::new());
        status("ß".repeat(600)).encode(&mut cut).unwrap();
        status("ß".repeat(512)).encode(&mut head).unwrap();
        assert_eq!(cut, head);
        let request = DeleteTopicRequest { name: "n".repeat(65_536).into() };
        assert_eq!(request.encode(&mut Vec::new()), Err(WireError::TextTooLong(65_536)));
    }

    #[test]
    fn offsets_and_epochs_end_where_kafka_s_do() {
        let offset = u64::to_le_bytes(1 << 63);
        assert_eq!(Offset::take(&mut Reader(&offset)), Err(WireError::Value("offset")));
        let epoch = u32::to_le_bytes(1 << 31);
        assert_eq!(Epoch::take(&mut Reader(&epoch)), Err(WireError::Value("epoch")));
    }
}
