#!/usr/bin/env python3
"""Reads golden vectors of the wire protocol, from docs/wire-protocol.md alone.

    wire_decoder.py net/wire/golden/produce-request.hex ...

It shares no code with the Rust decoder: what both read alike, the tables say.
"""
import json
import pathlib
import struct
import sys


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert self.at + count <= len(self.data), "the head ends within a field"
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]


def number(code):
    return lambda reader: reader.number(code)


u8, u16, u32, u64, i16, i64 = map(number, ["B", "H", "I", "Q", "h", "q"])
topic_id = cluster_id = lambda reader: int.from_bytes(reader.take(16), "little")
flag = lambda reader: {0: False, 1: True}[u8(reader)]
text = lambda reader: reader.take(u16(reader)).decode()
data = lambda reader: reader.take(u16(reader)).hex()
query = lambda reader: [kind := u8(reader), (i64 if kind == 3 else u64)(reader)]


def optional_offset(reader):
    there, offset = flag(reader), u64(reader)
    return offset if there else None


def many(item):
    return lambda reader: [item(reader) for _ in range(u32(reader))]


def fields(line, **own):
    """A struct from lines of `name:type`."""
    types = {**globals(), **own}
    pairs = [pair.split(":") for pair in line.split()]
    return lambda reader: {name: types[kind](reader) for name, kind in pairs}


ranges = many(fields("api:u8 min:u8 max:u8"))
cores = many(fields("core:u16 address:text"))
nodes = many(fields("node:u64 address:text"))
texts = many(text)
chain = many(u64)
settings = many(fields("key:text value:text"))
settings_in_force = many(fields("key:text value:text origin:u8"))
damage = many(fields("start:u64 end:u64"))
place = fields("index:u32 uid:u64 epoch:u32 core:u16 chain:chain error:u16")
places = many(place)
details = many(fields(
    "place:place log_start:u64 high_watermark:u64 durable_end:u64 log_end:u64 bytes:u64"
    " segments:u32 damaged:damage"))
topics = many(fields(
    "error:u16 name:text id:topic_id config_version:u64 batch_bytes_max:u32 partitions:places"))
limits = fields(
    "head_bytes_max:u32 payload_bytes_max:u32 in_flight_bytes_max:u32 in_flight_max:u32"
    " dedup_window:u32 credit_bytes_max:u32")

MESSAGES = {
    "refusal": "error:u16",
    "handshake-request": "client:text client_version:text apis:ranges features:u64 mechanism:text"
    " authentication:data",
    "handshake-response": "error:u16 server_version:text apis:ranges features:u64 limits:limits"
    " cluster:cluster_id node:u64 incarnation:u64 core:u16 cores:cores mechanisms:text"
    " authentication:data",
    "produce-request": "topic:topic_id partition:u32 durability:u8"
    " expect_next_offset:optional_offset deadline_ms:u32",
    "produce-response": "error:u16 level:u8 flags:u8 copies:u8 partition:u32 first_offset:u64"
    " next_offset:u64 epoch:u32 append_time:i64 retry_after_ms:u32",
    "fetch-request": "topic:topic_id partition:u32 offset:u64 max_bytes:u32 min_bytes:u32"
    " max_wait_ms:u32",
    "fetch-response": "error:u16 partition:u32 next_offset:u64 log_start:u64 high_watermark:u64"
    " epoch:u32",
    "subscribe-request": "subscription:u32 topic:topic_id partition:u32 offset:u64"
    " credit_bytes:u32",
    "subscribe-response": "error:u16 subscription:u32 log_start:u64 high_watermark:u64 epoch:u32",
    "credit-request": "subscription:u32 bytes:u32",
    "unsubscribe-request": "subscription:u32",
    "push": "error:u16 subscription:u32 next_offset:u64 log_start:u64 high_watermark:u64 epoch:u32",
    "list-offsets-request": "topic:topic_id partition:u32 query:query",
    "list-offsets-response": "error:u16 found:flag offset:u64 epoch:u32",
    "metadata-request": "names:texts",
    "metadata-response": "error:u16 version:u64 nodes:nodes topics:topics",
    "create-topic-request": "name:text partitions:u32 replicas:u8 config:settings"
    " validate_only:flag",
    "alter-topic-request": "name:text set:settings remove:texts partitions:u32 new_name:text",
    "delete-topic-request": "name:text",
    "describe-topic-request": "name:text",
    "describe-topic-response": "error:u16 id:topic_id config_version:u64 config:settings_in_force"
    " partitions:details",
    "trim-request": "topic:topic_id partition:u32 to:u64",
    "trim-response": "error:u16 log_start:u64",
    "producer-id-request": "id:i64 epoch:i16",
    "producer-id-response": "error:u16 id:i64 epoch:i16",
    "ping-request": "",
    "status-response": "error:u16",
}


def preface(reader):
    assert reader.take(8) == b"CATENA\r\n"
    version, core, zero = u16(reader), u16(reader), u32(reader)
    assert zero == 0
    return [("version", version), ("core", core)]


def frame(name, reader):
    assert u16(reader) == 0xCA7E
    out = [("api", u8(reader)), ("version", u8(reader)), ("correlation", u32(reader))]
    head_bytes, payload_bytes = u32(reader), u32(reader)
    head, payload = Reader(reader.take(head_bytes)), reader.take(payload_bytes)
    line = next(MESSAGES[known] for known in MESSAGES if name.startswith(known))
    out += fields(line)(head).items()
    tail = {}
    while head.at < len(head.data):
        tag, value = u16(head), head.take(u16(head))
        tail[tag] = value.decode()
    if line.startswith("error:u16"):
        out.append(("message", tail.get(1, "")))
    return [*out, ("payload", payload.decode())]


for path in map(pathlib.Path, sys.argv[1:]):
    reader = Reader(bytes.fromhex(path.read_text()))
    decoded = preface(reader) if path.stem == "preface" else frame(path.stem, reader)
    assert reader.at == len(reader.data), "bytes are left over"
    print("#", path.stem)
    for name, value in decoded:
        print(name, "=", json.dumps(value, ensure_ascii=False))
