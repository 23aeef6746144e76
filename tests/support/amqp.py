"""AMQP 0-9-1 frames and methods in a few lines: a second opinion that shares nothing with the proxy.

Argument kinds: o octet, h short, l long, L long long, s short string, S long string, t table, b bit.
Field tables are as RabbitMQ has them (https://www.rabbitmq.com/amqp-0-9-1-errata.html#section_3).
"""

import dataclasses
import struct

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
BASIC = 60
PERSISTENT = b"\x10\x00\x02"  # property flags with delivery-mode alone, and its value 2

_SPECIFICATION = """
10 10 connection.start          version_major:o version_minor:o server_properties:t mechanisms:S locales:S
10 11 connection.start-ok       client_properties:t mechanism:s response:S locale:s
10 20 connection.secure         challenge:S
10 21 connection.secure-ok      response:S
10 30 connection.tune           channel_max:h frame_max:l heartbeat:h
10 31 connection.tune-ok        channel_max:h frame_max:l heartbeat:h
10 40 connection.open           vhost:s reserved_1:s reserved_2:b
10 41 connection.open-ok        reserved_1:s
10 50 connection.close          reply_code:h reply_text:s class_id:h method_id:h
10 51 connection.close-ok
10 60 connection.blocked        reason:s
10 61 connection.unblocked
10 70 connection.update-secret  new_secret:S reason:s
10 71 connection.update-secret-ok
20 10 channel.open              reserved_1:s
20 11 channel.open-ok           reserved_1:S
20 20 channel.flow              active:b
20 21 channel.flow-ok           active:b
20 40 channel.close             reply_code:h reply_text:s class_id:h method_id:h
20 41 channel.close-ok
40 10 exchange.declare          reserved_1:h exchange:s type:s passive:b durable:b auto_delete:b internal:b no_wait:b arguments:t
40 11 exchange.declare-ok
40 20 exchange.delete           reserved_1:h exchange:s if_unused:b no_wait:b
40 21 exchange.delete-ok
40 30 exchange.bind             reserved_1:h destination:s source:s routing_key:s no_wait:b arguments:t
40 31 exchange.bind-ok
40 40 exchange.unbind           reserved_1:h destination:s source:s routing_key:s no_wait:b arguments:t
40 51 exchange.unbind-ok
50 10 queue.declare             reserved_1:h queue:s passive:b durable:b exclusive:b auto_delete:b no_wait:b arguments:t
50 11 queue.declare-ok          queue:s message_count:l consumer_count:l
50 20 queue.bind                reserved_1:h queue:s exchange:s routing_key:s no_wait:b arguments:t
50 21 queue.bind-ok
50 30 queue.purge               reserved_1:h queue:s no_wait:b
50 31 queue.purge-ok            message_count:l
50 40 queue.delete              reserved_1:h queue:s if_unused:b if_empty:b no_wait:b
50 41 queue.delete-ok           message_count:l
50 50 queue.unbind              reserved_1:h queue:s exchange:s routing_key:s arguments:t
50 51 queue.unbind-ok
60 10 basic.qos                 prefetch_size:l prefetch_count:h global_:b
60 11 basic.qos-ok
60 20 basic.consume             reserved_1:h queue:s consumer_tag:s no_local:b no_ack:b exclusive:b no_wait:b arguments:t
60 21 basic.consume-ok          consumer_tag:s
60 30 basic.cancel              consumer_tag:s no_wait:b
60 31 basic.cancel-ok           consumer_tag:s
60 40 basic.publish             reserved_1:h exchange:s routing_key:s mandatory:b immediate:b
60 50 basic.return              reply_code:h reply_text:s exchange:s routing_key:s
60 60 basic.deliver             consumer_tag:s delivery_tag:L redelivered:b exchange:s routing_key:s
60 70 basic.get                 reserved_1:h queue:s no_ack:b
60 71 basic.get-ok              delivery_tag:L redelivered:b exchange:s routing_key:s message_count:l
60 72 basic.get-empty           reserved_1:s
60 80 basic.ack                 delivery_tag:L multiple:b
60 90 basic.reject              delivery_tag:L requeue:b
60 100 basic.recover-async      requeue:b
60 110 basic.recover            requeue:b
60 111 basic.recover-ok
60 120 basic.nack               delivery_tag:L multiple:b requeue:b
85 10 confirm.select            no_wait:b
85 11 confirm.select-ok
90 10 tx.select
90 11 tx.select-ok
90 20 tx.commit
90 21 tx.commit-ok
90 30 tx.rollback
90 31 tx.rollback-ok
"""


def _parse(specification):
    methods = {}
    for line in specification.strip().splitlines():
        class_id, method_id, name, *fields = line.split()
        methods[name] = (int(class_id), int(method_id), [field.split(":") for field in fields])
    return methods


METHODS = _parse(_SPECIFICATION)
NAMES = {(class_id, method_id): name for name, (class_id, method_id, _) in METHODS.items()}


@dataclasses.dataclass
class Frame:
    type: int
    channel: int
    payload: bytes
    name: str = ""
    args: dict = dataclasses.field(default_factory=dict)

    def __str__(self):
        if self.type == METHOD:
            return f"{self.channel}:{self.name}"
        if self.type == HEADER:
            return f"{self.channel}:header({self.body_size})"
        if self.type == BODY:
            return f"{self.channel}:body({len(self.payload)})"
        return f"{self.channel}:heartbeat"

    @property
    def body_size(self):
        return struct.unpack_from(">Q", self.payload, 4)[0]


# ---- writing ----


def short_string(text):
    """Bytes that are no UTF-8 are written and read as Python's surrogate escapes."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    return struct.pack(">B", len(data)) + data


def long_string(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">L", len(data)) + data


def field_value(value):
    if isinstance(value, bool):
        return b"t" + struct.pack(">B", value)
    if isinstance(value, int):
        return b"I" + struct.pack(">l", value)
    if isinstance(value, dict):
        return b"F" + table(value)
    return b"S" + long_string(value)


def table(fields):
    """Of booleans, 32 bit integers, strings and tables; bytes are taken as they are."""
    if isinstance(fields, bytes):
        return long_string(fields)
    return long_string(b"".join(short_string(k) + field_value(v) for k, v in fields.items()))


_WRITERS = {
    "o": lambda v: struct.pack(">B", v),
    "h": lambda v: struct.pack(">H", v),
    "l": lambda v: struct.pack(">L", v),
    "L": lambda v: struct.pack(">Q", v),
    "s": short_string,
    "S": long_string,
    "t": table,
}
_EMPTY = {"s": "", "S": "", "t": {}}


def method(name, **args):
    """The payload of a method frame; an argument that is not given is 0 or empty."""
    class_id, method_id, fields = METHODS[name]
    unknown = set(args) - {field for field, _ in fields}
    assert not unknown, f"{name} has no {unknown}"
    out = bytearray(struct.pack(">HH", class_id, method_id))
    bit_at = 8  # of the last octet: bits that stand together share one
    for field, kind in fields:
        value = args.get(field, _EMPTY.get(kind, 0))
        if kind != "b":
            out += _WRITERS[kind](value)
            bit_at = 8
            continue
        if bit_at == 8:
            out.append(0)
            bit_at = 0
        out[-1] |= bool(value) << bit_at
        bit_at += 1
    return bytes(out)


def header(body_size, properties=PERSISTENT, class_id=BASIC, weight=0):
    return struct.pack(">HHQ", class_id, weight, body_size) + properties


def frame(kind, channel, payload, end=FRAME_END):
    return struct.pack(">BHL", kind, channel, len(payload)) + payload + bytes([end])


def method_frame(channel, name, **args):
    return frame(METHOD, channel, method(name, **args))


def content_frames(channel, body, properties=PERSISTENT, frame_max=131072):
    """The header frame and body frames of a message."""
    step = frame_max - 8
    return frame(HEADER, channel, header(len(body), properties)) + b"".join(
        frame(BODY, channel, body[at:at + step]) for at in range(0, len(body), step))


def publish_frames(channel, body, exchange="", routing_key="", properties=PERSISTENT,
                   frame_max=131072, **args):
    return method_frame(channel, "basic.publish", exchange=exchange, routing_key=routing_key,
                        **args) + content_frames(channel, body, properties, frame_max)


# ---- reading ----


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert count <= len(self.data) - self.at, "the payload is too short"
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, kind):
        return struct.unpack(">" + kind, self.take(struct.calcsize(">" + kind)))[0]

    def short_string(self):
        return self.take(self.number("B")).decode(errors="surrogateescape")

    def table(self):
        inner, fields = Reader(self.take(self.number("L"))), {}
        while inner.at < len(inner.data):
            key = inner.short_string()
            fields[key] = inner.field()
        return fields

    def array(self):
        inner, values = Reader(self.take(self.number("L"))), []
        while inner.at < len(inner.data):
            values.append(inner.field())
        return values

    def field(self):
        kind = self.take(1).decode()
        if kind in "bBsuIilLdfT":
            return self.number({"b": "b", "B": "B", "s": "h", "u": "H", "I": "l", "i": "L",
                                "l": "q", "L": "q", "d": "d", "f": "f", "T": "Q"}[kind])
        if kind == "t":
            return self.number("B") != 0
        if kind in "Sx":
            return self.take(self.number("L"))
        if kind == "F":
            return self.table()
        if kind == "A":
            return self.array()
        if kind == "D":
            return self.number("B"), self.number("l")
        assert kind == "V", f"unknown field kind {kind}"
        return None

    def value(self, kind):
        if kind == "s":
            return self.short_string()
        if kind == "S":
            return self.take(self.number("L"))
        if kind == "t":
            return self.table()
        return self.number({"o": "B", "h": "H", "l": "L", "L": "Q"}[kind])


def read_method(payload):
    reader = Reader(payload)
    class_id, method_id = reader.number("H"), reader.number("H")
    name = NAMES.get((class_id, method_id))
    if name is None:
        return f"{class_id}.{method_id}", {}
    args, bits, bit_at = {}, 0, 8
    for field, kind in METHODS[name][2]:
        if kind == "b":
            if bit_at == 8:
                bits, bit_at = reader.number("B"), 0
            args[field] = bool(bits >> bit_at & 1)
            bit_at += 1
        else:
            args[field], bit_at = reader.value(kind), 8
    assert reader.at == len(payload), f"{name}: bytes left over"
    return name, args


class FrameStream:
    """Reads frames from a socket. `read` returns None at end of file or reset."""

    def __init__(self, sock):
        self.socket, self._buffer = sock, b""

    def _fill(self, count):
        while len(self._buffer) < count:
            try:
                data = self.socket.recv(1 << 18)
            except (ConnectionError, OSError) as error:
                if isinstance(error, TimeoutError):
                    raise
                return False
            if not data:
                return False
            self._buffer += data
        return True

    def take(self, count):
        if not self._fill(count):
            return None
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def read(self):
        if not self._fill(7):
            return None
        kind, channel, size = struct.unpack(">BHL", self._buffer[:7])
        data = self.take(size + 8)
        if data is None:
            return None
        assert data[-1] == FRAME_END, f"frame end is {data[-1]:#x}"
        result = Frame(kind, channel, data[7:-1])
        if kind == METHOD:
            result.name, result.args = read_method(result.payload)
        return result


wrong_confirms = []  # of all clients


class _Opened:
    """A channel number from one channel.open to the next."""

    def __init__(self):
        self.is_open = self.confirms = False
        self.sent, self.unconfirmed = 0, set()

    def take(self, tag, multiple):
        """A confirm; returns what is wrong with it."""
        if not self.confirms:
            return "no confirms were asked for"
        if not 0 < tag <= self.sent:
            return f"only {self.sent} sent"
        if tag not in self.unconfirmed:
            return "confirmed before"
        self.unconfirmed -= {t for t in self.unconfirmed if t <= tag} if multiple else {tag}
        return None


class Confirms:
    """Watches both directions of a client's connection, and fails over a confirm that makes no sense:
    of a tag that was not sent, of one that was confirmed before, or where none were asked for.
    """

    def __init__(self):
        self._buffer = b""
        self._channels = {}  # number: what it was opened for; the first is what the peer speaks of
        self._knows = True  # false once bytes were sent that are no frames

    def sent(self, data):
        if not self._knows:
            return
        if data[:4] == b"AMQP":
            data = data[8:]
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 7:
            kind, channel, size = struct.unpack_from(">BHL", self._buffer, at)
            if len(self._buffer) - at < size + 8:
                break
            if self._buffer[at + 7 + size] != FRAME_END:
                self._knows = False
                return
            if kind == METHOD and size >= 4:
                self._sent_method(channel, struct.unpack_from(">HH", self._buffer, at + 7))
            at += size + 8
        self._buffer = self._buffer[at:]

    def _sent_method(self, channel, numbers):
        name = NAMES.get(numbers)
        if name == "channel.open":
            self._channels.setdefault(channel, []).append(_Opened())
        elif channel in self._channels:
            last = self._channels[channel][-1]
            if name == "confirm.select":
                last.confirms = True
            elif name == "basic.publish" and last.confirms:
                last.sent += 1
                last.unconfirmed.add(last.sent)

    def received(self, frame):
        opened = self._channels.get(frame.channel)
        if not self._knows or not opened:
            return
        if frame.name == "channel.open-ok":
            if opened[0].is_open and len(opened) > 1:
                del opened[0]
            opened[0].is_open = True
        elif frame.name in ("basic.ack", "basic.nack"):
            tag, multiple = frame.args["delivery_tag"], frame.args["multiple"]
            wrong = opened[0].take(tag, multiple)
            if wrong:
                wrong_confirms.append(f"{frame} {frame.args}: {wrong}")  # where it is forgiven too
                raise AssertionError(wrong_confirms[-1])
