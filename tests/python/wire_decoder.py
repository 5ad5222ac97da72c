#!/usr/bin/env python3
"""Reads golden vectors of the wire protocol by the tables of its documentation.

    wire_decoder.py docs/wire-protocol.md net/wire/golden/*.hex
    wire_decoder.py docs/peer-protocol.md net/wire/golden/peer/*.hex

It shares no code with the Rust decoder and knows no message by itself: what both read alike, the
tables say.
"""
import json
import pathlib
import re
import sys
import zlib


def tables(text):
    """The structs that the document draws: their rows (field, at, type, meaning)."""
    structs, rows = {}, []
    for line in text.splitlines():
        if title := re.fullmatch(r"#### `([\w-]+)`|`(\w+)`:", line):
            rows = structs.setdefault(title[1] or title[2], [])
        elif re.match(r"\| `\w+` \|", line):
            field, at, kind, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            rows.append((field.strip("`"), at, kind, meaning))
    return structs


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert self.at + count <= len(self.data), "the head ends within a field"
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, kind):
        raw = self.take(int(kind[1:]) // 8)
        return int.from_bytes(raw, "little", signed=kind[0] == "i")

    def value(self, kind):
        """A value of a type, by the table of types."""
        if re.fullmatch(r"[ui]\d+", kind):
            return self.number(kind)
        if kind == "flag":
            return {0: False, 1: True}[self.number("u8")]
        if kind == "text":
            return self.take(self.number("u16")).decode()
        if kind == "bytes":
            return self.take(self.number("u16")).hex()
        if kind == "u8 + u64":
            there, offset = self.value("flag"), self.number("u64")
            return offset if there else None
        if kind == "query":
            query = self.number("u8")
            return [query, self.number("i64" if query == 3 else "u64")]
        if item := re.fullmatch(r"list of (\w+)", kind):
            return [self.value(item[1]) for _ in range(self.number("u32"))]
        return dict(self.struct(STRUCTS[kind]))

    def struct(self, rows):
        start, fields = self.at, []
        for field, at, kind, _ in rows:
            if at != "tail":
                assert at in ("", str(self.at - start)), f"`{field}` is not at {at}"
                fields.append((field, self.value(kind)))
        return fields

    def tail(self, rows):
        """The fields whose meaning begins with their tag; other tags are skipped."""
        values = {}
        while self.at < len(self.data):
            tag, length = self.number("u16"), self.number("u16")
            values[tag] = self.take(length)
        fields = []
        for field, _, kind, meaning in (row for row in rows if row[1] == "tail"):
            value = values.get(int(re.match(r"tag (\d+):", meaning)[1]))
            if kind == "text":
                fields.append((field, (value or b"").decode()))
            else:
                fields.append((field, None if value is None else Reader(value).value(kind)))
        return fields


def preface(reader):
    wanted = {b"CATENA\r\n": "core", b"CTPEER\r\n": "to"}[reader.take(8)]
    fields = [("version", reader.number("u16")), (wanted, reader.number("u16"))]
    assert reader.number("u32") == 0
    return fields


def frame(name, reader):
    assert reader.take(2) == b"\x7e\xca"
    fields = [(field, reader.number(kind)) for field, kind in
              [("api", "u8"), ("version", "u8"), ("correlation", "u32")]]
    head_bytes, payload_bytes = reader.number("u32"), reader.number("u32")
    head, payload = Reader(reader.take(head_bytes)), reader.take(payload_bytes)
    rows = next(STRUCTS[known] for known in STRUCTS if name.startswith(known))
    fields += head.struct(rows) + head.tail(rows)
    return fields + [("payload", payload.decode())]


def peer_frame(name, reader):
    """A frame between nodes, whose CRC is checked, too."""
    header = reader.take(20)
    crc = reader.number("u32")
    header = Reader(header)
    assert header.take(2) == b"\x9e\xca"
    fields = [("kind", header.number("u8")), ("version", header.number("u8"))]
    head_bytes, payload_bytes = header.number("u32"), header.number("u32")
    fields += [("partition", header.number("u64")), ("crc", crc)]
    head, payload = Reader(reader.take(head_bytes)), reader.take(payload_bytes)
    rows = next(STRUCTS[known] for known in STRUCTS if name.startswith(known))
    message = head.struct(rows) + head.tail(rows)
    covered, batches = header.data + bytes(4) + head.data, Reader(payload)
    if "payload_crc" in dict(message):
        assert zlib.crc32(payload) == dict(message)["payload_crc"]
    else:
        for stamp in dict(message).get("stamps", []):
            batch = batches.take(stamp["length"])
            assert int.from_bytes(batch[8:12], "big") + 12 == len(batch)
            assert zlib.crc32(batch[16:]) == stamp["payload_crc"]
            covered += batch[:16]
        assert batches.at == len(payload), "bytes without a stamp"
    assert zlib.crc32(covered) == crc
    return fields + message + [("payload", payload.hex())]


def decoded(name, reader):
    if name.startswith("preface"):
        return preface(reader)
    return (peer_frame if reader.data[:1] == b"\x9e" else frame)(name, reader)


STRUCTS = tables(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
sys.stdout.reconfigure(encoding="utf-8")
for path in map(pathlib.Path, sys.argv[2:]):
    vector = Reader(bytes.fromhex(path.read_text()))
    read = decoded(path.stem, vector)
    assert vector.at == len(vector.data), "bytes are left over"
    print("#", path.stem)
    for field, value in read:
        print(field, "=", json.dumps(value, ensure_ascii=False))
