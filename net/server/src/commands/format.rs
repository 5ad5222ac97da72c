//! How `consume` prints a record: by a format, or as JSON.

use std::io::{self, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use catena_format::{
    Offset, PartitionIndex,
    records::{Header, Record},
};
use serde_json::{Value, json};

/// Text with `%v` value, `%k` key, `%h` headers, `%p` partition, `%o` offset, `%t` timestamp, `%%`,
/// `\n`, `\r`, `\t`, `\0`, `\\`, and `\xHH` for a byte. Null is printed as nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Format(Vec<Piece>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(Vec<u8>),
    Value,
    Key,
    Headers,
    Partition,
    Offset,
    Timestamp,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut plain = Vec::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => match field(letters.next())? {
                    Some(piece) => {
                        if !plain.is_empty() {
                            pieces.push(Piece::Text(std::mem::take(&mut plain)));
                        }
                        pieces.push(piece);
                    }
                    None => plain.push(b'%'),
                },
                '\\' => plain.push(escaped(&mut letters)?),
                letter => plain.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self(pieces))
    }
}

/// What stands behind a `%`; `None`: another one.
fn field(letter: Option<char>) -> Result<Option<Piece>, String> {
    Ok(Some(match letter {
        Some('v') => Piece::Value,
        Some('k') => Piece::Key,
        Some('h') => Piece::Headers,
        Some('p') => Piece::Partition,
        Some('o') => Piece::Offset,
        Some('t') => Piece::Timestamp,
        Some('%') => return Ok(None),
        other => {
            let other = other.map(String::from).unwrap_or_default();
            return Err(format!("`%{other}` means nothing in a format"));
        }
    }))
}

/// The byte that stands behind a `\`.
fn escaped(letters: &mut std::str::Chars<'_>) -> Result<u8, String> {
    Ok(match letters.next() {
        Some('n') => b'\n',
        Some('r') => b'\r',
        Some('t') => b'\t',
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('x') => {
            let digits: String = letters.take(2).collect();
            let are_two =
                digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let byte = u8::from_str_radix(&digits, 16).ok().filter(|_| are_two);
            byte.ok_or_else(|| format!("`\\x{digits}` is no byte: \\x and two digits"))?
        }
        other => {
            let other = other.map(String::from).unwrap_or_default();
            return Err(format!("`\\{other}` means nothing in a format"));
        }
    })
}

impl Format {
    /// Prints a record.
    pub(super) fn write(
        &self,
        out: &mut impl Write,
        partition: PartitionIndex,
        offset: Offset,
        record: &Record<'_>,
    ) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Value => out.write_all(record.value.unwrap_or_default())?,
                Piece::Key => out.write_all(record.key.unwrap_or_default())?,
                Piece::Headers => headers(out, record)?,
                Piece::Partition => write!(out, "{partition}")?,
                Piece::Offset => write!(out, "{offset}")?,
                Piece::Timestamp => write!(out, "{}", record.timestamp)?,
            }
        }
        Ok(())
    }
}

/// `key=value,key=value`.
fn headers(out: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    for (number, header) in record.headers().enumerate() {
        if number > 0 {
            out.write_all(b",")?;
        }
        out.write_all(header.key)?;
        out.write_all(b"=")?;
        out.write_all(header.value.unwrap_or_default())?;
    }
    Ok(())
}

/// Prints a record as an object on a line of its own. Keys and values are null, text, or, where
/// they are no UTF-8, an object with `base64`.
pub(super) fn write_json(
    out: &mut impl Write,
    partition: PartitionIndex,
    offset: Offset,
    record: &Record<'_>,
) -> io::Result<()> {
    let header = |header: Header<'_>| {
        let (key, value) = (bytes(Some(header.key)), bytes(header.value));
        json!({ "key": key, "value": value })
    };
    let object = json!({
        "partition": partition.get(),
        "offset": offset.get(),
        "timestamp": record.timestamp.get(),
        "key": bytes(record.key),
        "value": bytes(record.value),
        "headers": record.headers().map(header).collect::<Value>(),
    });
    writeln!(out, "{object}")
}

fn bytes(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => text.into(),
        Some((bytes, Err(_))) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use catena_format::{
        Millis,
        records::{BatchBuilder, Producer, Records},
    };

    use super::*;

    /// A record with these contents, printed by `format`, or as JSON.
    fn printed(
        format: Option<&str>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> String {
        let mut builder = BatchBuilder::new();
        builder.push(Millis::new(5), key, value, headers);
        let batch = builder.build(Producer::NONE).unwrap();
        let mut records = Records::new(&batch[61..], 1, Millis::new(5));
        let record = records.next().unwrap().unwrap();
        let (partition, offset) = (PartitionIndex::new(3), Offset::new(17));
        let mut out = Vec::new();
        match format {
            Some(format) => {
                let format: Format = format.parse().unwrap();
                format.write(&mut out, partition, offset, &record).unwrap();
            }
            None => write_json(&mut out, partition, offset, &record).unwrap(),
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn everything_in_a_format_is_printed() {
        let headers = [
            Header { key: b"a", value: Some(b"1") },
            Header { key: b"b", value: None },
            Header { key: b"c", value: Some(b"") },
        ];
        let format = "%p/%o@%t %k=%v [%h] 100%%\\t\\x41\\\\\\n";
        let text = printed(Some(format), Some(b"key"), Some(b"value"), &headers);
        assert_eq!(text, "3/17@5 key=value [a=1,b=,c=] 100%\tA\\\n");
    }

    #[test]
    fn what_means_nothing_in_a_format_is_refused() {
        for format in ["%x", "%", "\\", "\\y", "\\x4", "\\xzz", "\\x+1"] {
            assert!(format.parse::<Format>().is_err(), "{format}");
        }
    }

    #[test]
    fn json_keeps_null_and_empty_and_bytes_apart() {
        let headers = [Header { key: b"h", value: None }, Header { key: b"", value: Some(b"x") }];
        let value: Value = serde_json::from_str(&printed(None, None, Some(b""), &headers)).unwrap();
        let expected = json!({
            "partition": 3, "offset": 17, "timestamp": 5, "key": null, "value": "",
            "headers": [{ "key": "h", "value": null }, { "key": "", "value": "x" }],
        });
        assert_eq!(value, expected);
        let value: Value =
            serde_json::from_str(&printed(None, Some(b"\xff\x00"), None, &[])).unwrap();
        assert_eq!(value["key"], json!({ "base64": "/wA=" }));
        assert_eq!(value["value"], Value::Null);
    }

    #[test]
    fn json_is_one_line_whatever_is_in_the_record() {
        assert_eq!(printed(None, None, Some(b"a\nb"), &[]).matches('\n').count(), 1);
    }
}
