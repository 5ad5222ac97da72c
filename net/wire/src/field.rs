//! How fields stand on the wire, and the macro that draws a message from its fields.

/// Why a head cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The head ends within a field.
    #[error("the message ends within a field")]
    Truncated,
    /// A count or length is larger than what is left of the head.
    #[error("a count or length of {0} is larger than the message")]
    Count(usize),
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A field has a value without a meaning.
    #[error("field `{0}` has a value without a meaning")]
    Value(&'static str),
    /// A tag of the tail came twice.
    #[error("tag {0} came twice")]
    TagTwice(u16),
}

/// Reads fields one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The tagged tail: tags are in no order, unknown ones are skipped, none may come twice.
    pub(crate) fn tail(&mut self) -> Result<(), WireError> {
        let mut seen = Vec::new();
        while !self.0.is_empty() {
            let (tag, length) = (u16::get(self)?, u16::get(self)?);
            self.take(usize::from(length))?;
            if seen.contains(&tag) {
                return Err(WireError::TagTwice(tag));
            }
            seen.push(tag);
        }
        Ok(())
    }
}

/// A field of a message.
pub(crate) trait Field: Sized {
    /// The fewest bytes that it takes: bounds counts before anything is allocated.
    const BYTES_MIN: usize;
    fn put(&self, out: &mut Vec<u8>);
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError>;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Field for $type {
            const BYTES_MIN: usize = size_of::<$type>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
                let bytes = reader.take(size_of::<$type>())?;
                Ok(<$type>::from_le_bytes(bytes.try_into().expect("as many were taken")))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, u128, i16, i64);

impl Field for bool {
    const BYTES_MIN: usize = 1;
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::get(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value("bool")),
        }
    }
}

/// A text: length u16, UTF-8.
impl Field for String {
    const BYTES_MIN: usize = 2;
    fn put(&self, out: &mut Vec<u8>) {
        let mut end = self.len().min(usize::from(u16::MAX));
        while !self.is_char_boundary(end) {
            end -= 1;
        }
        (end as u16).put(out);
        out.extend_from_slice(&self.as_bytes()[..end]);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let length = u16::get(reader)?;
        let bytes = reader.take(usize::from(length))?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WireError::Text)
    }
}

/// A list: count u32, then the items.
impl<T: Field> Field for Vec<T> {
    const BYTES_MIN: usize = 4;
    fn put(&self, out: &mut Vec<u8>) {
        u32::try_from(self.len()).expect("a list fits its count").put(out);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u32::get(reader)? as usize;
        if count > reader.0.len() / T::BYTES_MIN.max(1) {
            return Err(WireError::Count(count));
        }
        (0..count).map(|_| T::get(reader)).collect()
    }
}

/// The head of a request or response.
pub trait Message: Sized {
    /// Writes the head behind what `out` holds.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a whole head.
    ///
    /// # Errors
    /// Says what is wrong; nothing is allocated beyond what the head's length allows.
    fn decode(head: &[u8]) -> Result<Self, WireError>;
}

/// Draws a struct whose fields stand on the wire in this order; `message` ends with a tail.
macro_rules! wire_struct {
    (
        $(#[$doc:meta])* $kind:ident $name:ident {
            $($(#[$fdoc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        impl $crate::field::Field for $name {
            const BYTES_MIN: usize = 0 $(+ <$type as $crate::field::Field>::BYTES_MIN)*;
            fn put(&self, out: &mut Vec<u8>) {
                $($crate::field::Field::put(&self.$field, out);)*
                let _ = out;
            }
            fn get(
                reader: &mut $crate::field::Reader<'_>,
            ) -> Result<Self, $crate::field::WireError> {
                let _ = &reader;
                Ok(Self { $($field: <$type as $crate::field::Field>::get(reader)?,)* })
            }
        }

        wire_struct!(@$kind $name);
    };
    (@message $name:ident) => {
        impl $crate::field::Message for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $crate::field::Field::put(self, out);
            }
            fn decode(head: &[u8]) -> Result<Self, $crate::field::WireError> {
                let mut reader = $crate::field::Reader(head);
                let message = <Self as $crate::field::Field>::get(&mut reader)?;
                reader.tail()?;
                Ok(message)
            }
        }
    };
    (@part $name:ident) => {};
}

pub(crate) use wire_struct;

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unreachable_pub)]
    mod sample {
        wire_struct! {
            /// A message for the tests.
            message Sample {
                /// A number.
                number: u32,
                /// Texts.
                texts: Vec<String>,
            }
        }
    }
    use sample::Sample;

    #[test]
    fn unknown_tags_are_skipped_and_none_comes_twice() {
        let sample = Sample { number: 7, texts: vec!["a".to_owned()] };
        let mut head = Vec::new();
        sample.encode(&mut head);
        head.extend_from_slice(&[9, 0, 2, 0, 1, 2]);
        assert_eq!(Sample::decode(&head).unwrap(), sample);
        head.extend_from_slice(&[9, 0, 0, 0]);
        assert_eq!(Sample::decode(&head), Err(WireError::TagTwice(9)));
    }

    #[test]
    fn counts_are_checked_before_anything_is_allocated() {
        let head = [0, 0, 0, 0, 255, 255, 255, 255];
        assert_eq!(Sample::decode(&head), Err(WireError::Count(u32::MAX as usize)));
        assert_eq!(Sample::decode(&head[..6]), Err(WireError::Truncated));
    }
}
