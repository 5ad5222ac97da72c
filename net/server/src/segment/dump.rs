//! `catena segment dump`: what stands in a segment file, in order.

use std::{io, path::Path};

use anyhow::{Context, bail};
use catena_format::{
    BATCH_HEADER_BYTES, BatchHeader, Codec, Offset, Position, SegmentFooter, SegmentHeader,
    records::Records,
};
use serde_json::json;

use super::file::{Frame, SegmentFile};
use crate::cli::Output;

/// Writes header, frames and footer of a file; with `records`, the head of each record.
pub(super) fn dump(
    path: &Path,
    records: bool,
    output: Output,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let file =
        SegmentFile::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut dump = Dump { path, output, out };
    match &file.header {
        Ok(header) => dump.header(header)?,
        Err(error) => dump.no_header(error)?,
    }
    let Some(seed) = file.seed() else {
        bail!("{} is no segment, and its name does not tell of which log", path.display());
    };
    dump.head()?;
    let mut expected = file.header.map(|header| header.base_offset).ok();
    let end = file.walk(seed, Position::new(u64::MAX), |frame| {
        if let Some(from) = expected.filter(|from| *from < frame.header.base_offset) {
            dump.gap(from, frame.header.base_offset)?;
        }
        expected = Some(frame.header.next_offset());
        dump.frame(&frame)?;
        if records { dump.records(&frame) } else { Ok(()) }
    })?;
    match file.footer(end)? {
        Some(footer) => dump.footer(&footer),
        None => Ok(()),
    }
}

struct Dump<'a, W> {
    path: &'a Path,
    output: Output,
    out: &'a mut W,
}

impl<W: io::Write> Dump<'_, W> {
    fn line(&mut self, text: String, json: serde_json::Value) -> anyhow::Result<()> {
        match self.output {
            Output::Table => writeln!(self.out, "{text}")?,
            Output::Json => writeln!(self.out, "{json}")?,
        }
        Ok(())
    }

    fn header(&mut self, h: &SegmentHeader) -> anyhow::Result<()> {
        let path = self.path.display().to_string();
        let (cluster, topic) = (h.cluster.get(), h.topic.get());
        let text = format!(
            "{path}\nheader  uid {}, file {}, base offset {}, epoch {}, created {}\n        \
             cluster {cluster:032x}, topic {topic:032x}, partition {}",
            h.uid, h.file, h.base_offset, h.epoch, h.created, h.partition
        );
        let json = json!({
            "kind": "header", "path": path, "uid": h.uid.get(), "file": h.file.get(),
            "cluster": format!("{cluster:032x}"), "topic": format!("{topic:032x}"),
            "partition": h.partition.get(), "base_offset": h.base_offset.get(),
            "epoch": h.epoch.get(), "created": h.created.get(),
        });
        self.line(text, json)
    }

    fn no_header(&mut self, error: &dyn std::error::Error) -> anyhow::Result<()> {
        let (path, error) = (self.path.display().to_string(), error.to_string());
        let text = format!("{path}\nheader  {error}");
        self.line(text, json!({ "kind": "header", "path": path, "fault": error }))
    }

    fn head(&mut self) -> anyhow::Result<()> {
        if self.output == Output::Table {
            let names = ["EPOCH", "BASE OFFSET", "RECORDS", "BYTES", "DURABLE END"];
            let [a, b, c, d, e] = names;
            writeln!(
                self.out,
                "{:>11} KIND  {a:>6} {b:>12} {c:>8} {d:>8} {e:>12}  CHECKSUMS",
                "POSITION"
            )?;
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame<'_>) -> anyhow::Result<()> {
        let (h, position) = (&frame.header, frame.position);
        let kind = if h.mark { "mark" } else { "batch" };
        let fault = frame.fault.map(|fault| fault.to_string());
        let checksums = fault.as_deref().unwrap_or("ok");
        let text = format!(
            "{:>11} {kind:<5} {:>6} {:>12} {:>8} {:>8} {:>12}  {checksums}",
            position, h.epoch, h.base_offset, h.count, h.payload_length, h.durable_end
        );
        let json = json!({
            "kind": kind, "position": position.get(), "epoch": h.epoch.get(),
            "base_offset": h.base_offset.get(), "records": h.count, "bytes": h.payload_length,
            "durable_end": h.durable_end.get(), "max_timestamp": h.max_timestamp.get(),
            "append_time": h.append_time.get(), "payload_crc": h.payload_crc, "fault": fault,
        });
        self.line(text, json)
    }

    fn gap(&mut self, from: Offset, to: Offset) -> anyhow::Result<()> {
        let text = format!("{:>11} gap   offsets {from} to {to} are not here", "");
        self.line(text, json!({ "kind": "gap", "from": from.get(), "to": to.get() }))
    }

    fn records(&mut self, frame: &Frame<'_>) -> anyhow::Result<()> {
        let Ok(header) = BatchHeader::parse(frame.batch) else { return Ok(()) };
        if frame.fault.is_some() {
            return Ok(());
        }
        if header.codec != Codec::None {
            let text = format!("{:>14}the records are compressed ({:?})", "", header.codec);
            let codec = format!("{:?}", header.codec).to_lowercase();
            return self.line(text, json!({ "kind": "compressed", "codec": codec }));
        }
        let bytes = &frame.batch[BATCH_HEADER_BYTES..];
        for record in Records::new(bytes, header.count, header.base_timestamp) {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let error = error.to_string();
                    let json = json!({ "kind": "record", "fault": error });
                    return self.line(format!("{:>14}{error}", ""), json);
                }
            };
            let offset = frame.header.base_offset.get() + u64::from(record.offset_delta);
            let (key, value) = (record.key.map(<[u8]>::len), record.value.map(<[u8]>::len));
            let headers = record.headers().count();
            let bytes = |length: Option<usize>| length.map_or("null".into(), |l| l.to_string());
            let text = format!(
                "{:>14}offset {offset}, timestamp {}, key {}, value {}, headers {headers}",
                "",
                record.timestamp,
                bytes(key),
                bytes(value)
            );
            let json = json!({
                "kind": "record", "offset": offset, "timestamp": record.timestamp.get(),
                "key_bytes": key, "value_bytes": value, "headers": headers,
            });
            self.line(text, json)?;
        }
        Ok(())
    }

    fn footer(&mut self, f: &SegmentFooter) -> anyhow::Result<()> {
        let text = format!(
            "{:>11} footer  offsets {} to {}, {} batches, {} records, max timestamp {}",
            f.end_position, f.base_offset, f.end_offset, f.batches, f.records, f.max_timestamp
        );
        let json = json!({
            "kind": "footer", "position": f.end_position.get(),
            "base_offset": f.base_offset.get(), "end_offset": f.end_offset.get(),
            "batches": f.batches, "records": f.records, "max_timestamp": f.max_timestamp.get(),
            "last_append_time": f.last_append_time.get(),
        });
        self.line(text, json)
    }
}
