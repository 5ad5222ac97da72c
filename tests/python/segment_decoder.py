#!/usr/bin/env python3
"""Reads a segment file by the tables of the documentation.

    segment_decoder.py docs/disk-format.md 0000000000000001.seg

It shares no code with the Rust decoder: what both read alike, the tables say.
"""
import pathlib
import re
import sys
import zlib

BLOCK = 4096


def tables(text):
    """The tables under each title: their rows (at, type, field, what the meaning quotes)."""
    titles, rows = {}, []
    for line in text.splitlines():
        if title := re.fullmatch(r"#+ (.+)", line):
            rows = titles.setdefault(title[1], [])
        elif row := re.fullmatch(r"\| (\d+) \| (\S+) \| ([\w ]+) \| *(`(\w+)`)?.*", line):
            rows.append((int(row[1]), row[2], row[3], row[5]))
    return titles


def field(data, kind, at, order):
    """A number, or the bytes of `[n]` as text."""
    if kind[0] == "[":
        return data[at : at + int(kind[1:-1])].decode("latin-1")
    assert at + int(kind[1:]) // 8 <= len(data), f"the bytes end within a {kind}"
    return int.from_bytes(data[at : at + int(kind[1:]) // 8], order, signed=kind[0] == "i")


def struct(rows, data, order="little"):
    return {name: field(data, kind, at, order) for at, kind, name, _ in rows}


def is_here(rows, data):
    """Whether the magic in the first row of a table begins the data."""
    return data.startswith(rows[0][3].encode())


def text(what, position, fields):
    hidden = ("magic", "crc", "payload crc", "header crc")
    shown = (f"{name.replace(' ', '_')}={fields[name]}" for name in fields if name not in hidden)
    return f"{what} at={position} {' '.join(shown)}"


def block(what, rows, data, position):
    """A header or footer block."""
    data = data[position : position + BLOCK]
    assert is_here(rows, data), f"no {what} at {position}"
    fields = struct(rows, data)
    length = fields["length"]
    assert zlib.crc32(data[: length - 4]) == fields["crc"], f"the {what} is damaged"
    assert fields["version"] == 1 and not fields.get("features"), f"unknown {what}"
    assert not any(data[length:]), f"bytes behind the {what}"
    return fields


def frame(titles, data, position, segment):
    """A frame: its fields, its batch."""
    data = data[position:]
    fields = struct(titles["Frame header"], data)
    start = fields["header length"]
    batch = data[start : start + fields["payload length"]]
    place = b"".join(n.to_bytes(8, "little") for n in (segment["uid"], segment["file"], position))
    crc = zlib.crc32(place + data[: start - 4] + batch[:16])
    assert crc == fields["header crc"], f"the frame at {position} does not belong there"
    assert fields["version"] == 1 and fields["flags"] in (0, 1), f"unknown frame at {position}"
    assert (fields["flags"] == 1) == (fields["payload length"] == 0)
    if batch:
        assert zlib.crc32(batch[16:]) == fields["payload crc"], f"the batch at {position} is damaged"
        inner = struct(titles["Record batch"], batch, "big")
        assert inner["batch length"] == len(batch) - 12
        assert inner["partition leader epoch"] == fields["epoch"]
        for name in ("base offset", "last offset delta", "max timestamp", "count"):
            assert inner[name] == fields[name], f"{name} of the batch at {position}"
    return fields, batch


def decode(titles, data):
    """A line for each thing in the file."""
    segment = block("header", titles["Segment header"], data, 0)
    yield text("header", 0, segment)
    position = BLOCK
    while position < len(data):
        if is_here(titles["Frame header"], data[position : position + 8]):
            fields, batch = frame(titles, data, position, segment)
            yield text("frame" if batch else "mark", position, fields)
            if batch:
                yield f"batch {batch.hex()}"
            end = position + fields["header length"] + len(batch)
            position = end + -end % 16
        elif position % BLOCK == 0 and is_here(
            titles["Segment footer"], data[position : position + 8]
        ):
            footer = block("footer", titles["Segment footer"], data, position)
            assert footer["end position"] == position
            yield text("footer", position, footer)
            position += BLOCK
        else:
            # Padding, what a repair has left, or the end.
            zeros = data[position : position + 16]
            assert not any(zeros), f"neither frame nor zeros at {position}"
            position += 16


if __name__ == "__main__":
    document, file = map(pathlib.Path, sys.argv[1:])
    for line in decode(tables(document.read_text("utf-8")), file.read_bytes()):
        print(line)
