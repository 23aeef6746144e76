"""Writes the inputs that the fuzz targets begin with: make_corpus.py FOLDER

One folder a target, in the form of input that the comment on top of the target describes.
"""

import pathlib
import struct
import sys

SOURCES = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCES))

from tests.support import amqp  # noqa: E402

TABLE = {"x-max-length": 10, "x-dead-letter-exchange": "", "nested": {"deep": {"deeper": True}}}
EVERY_TYPE = b"".join(
    b"\x01k" + value
    for value in [
        b"t\x01", b"b\xff", b"B\xff", b"s\xff\xfe", b"u\xff\xfe", b"I\x00\x00\x00\x01",
        b"i\x00\x00\x00\x01", b"l" + bytes(8), b"L" + bytes(8), b"f" + bytes(4), b"d" + bytes(8),
        b"D\x02\x00\x00\x00\x07", b"T" + bytes(8), b"S\x00\x00\x00\x01s", b"x\x00\x00\x00\x01x", b"V",
        b"F\x00\x00\x00\x04\x01kt\x01", b"A\x00\x00\x00\x03Vt\x01",
    ]
)
EVERY_PROPERTY = b"".join([
    b"\xff\xfc", amqp.short_string("text/plain"), amqp.short_string("gzip"), amqp.table(TABLE),
    b"\x02\x09", amqp.short_string("correlation"), amqp.short_string("reply"),
    amqp.short_string("60000"), amqp.short_string("id"), bytes(8), amqp.short_string("type"),
    amqp.short_string("guest"), amqp.short_string("app"), amqp.short_string(""),
])
EXPIRES = b"\x01\x00" + amqp.short_string("60000")
DEFAULTS = {"o": 1, "h": 1, "l": 1, "L": 1, "s": "name", "S": "text", "t": TABLE, "b": True}


def methods():
    for name, (_, _, fields) in amqp.METHODS.items():
        yield name, amqp.method(name, **{field: DEFAULTS[kind] for field, kind in fields})


def frame():
    publish = amqp.publish_frames(1, b"body", routing_key="q")
    heartbeat = amqp.frame(amqp.HEARTBEAT, 0, b"")
    yield "publish", b"\x10\x00\x02" + publish
    yield "several", b"\x00\x00\x00" + publish + heartbeat + publish
    yield "cut", b"\x00\x00\x06" + publish + publish[:-3]
    yield "too-large", b"\x00\x20\x06" + heartbeat + amqp.frame(amqp.BODY, 1, bytes(64))
    yield "bad-end", b"\x00\x00\x06" + publish + amqp.frame(amqp.BODY, 1, b"x", end=0)


def method():
    for name, payload in methods():
        yield name, b"\x00" + payload
    for name, properties in [("none", b"\x00\x00"), ("every", EVERY_PROPERTY), ("expires", EXPIRES)]:
        yield f"header-{name}", b"\x01" + amqp.header(5, properties=properties)
    yield "table", b"\x02" + EVERY_TYPE


def unit(kind, payload):
    return struct.pack(">BH", kind, len(payload)) + payload


def content():
    header = unit(1, amqp.header(0, properties=EVERY_PROPERTY))
    body = unit(2, b"0123456789" * 20)
    yield "empty", b"\x00\x00" + header
    yield "one-frame", b"\x00\x01" + header + body
    yield "many-frames", b"\x10\x01" + header + body * 30
    yield "cut-again", b"\xff\x01" + header + unit(2, bytes(5000))
    yield "too-long", b"\x00\x01" + unit(0, amqp.header(3)) + body
    yield "unexpected", b"\x00\x01" + header + body + unit(3, b"m") + body


def record():
    place = b"\x00\x07\x00\x09"
    value = b"ab\x01\x01" + bytes(12) + struct.pack(">LLQHHLQQ", 2, 3, 4, 0, 0, 0, 0, 0) + b"mmhhhbody"
    yield "value", b"\x00" + place + value
    yield "sealed", b"\x01" + place + value
    fields = b"\x02mm\x03hhh"
    yield "publish", b"\x02" + place + b"\x00" + bytes(8) + fields + b"\x00\x00body"
    yield "declare", b"\x02" + place + b"\x01" + bytes(8) + fields + b"\x00\x00"
    yield "rejected", (b"\x02" + place + b"\x02" + bytes(8) + fields + b"\x01\x38" + bytes(8)
                       + b"\x08NO_ROUTE\x00\x00body")
    yield "parted", b"\x02" + place + b"\x04" + bytes(8) + fields + bytes(7)
    yield "part", b"\x03" + place + b"\x00\x00\x01" + b"part" * 8


def directory():
    login = struct.pack(">HHH", 4, 1, 6) + b"shop/sealed"
    counters = struct.pack(">QQQQ", 4, 2, 60, 1)
    yield "value", b"\x00\x00\x01" + counters + bytes(16) + login
    yield "old-value", b"\x01\x00\x01" + counters + login
    yield "fields", b"\x02\x00\x01\x01\x00" + counters + b"\x04shop\x01/sealed"


def config():
    example = (SOURCES / "proxy.ini.example").read_bytes()
    yield "example", example
    uncommented = [line[1:] if line[:1] == b"#" and b" = " in line else line
                   for line in example.splitlines(keepends=True)]
    yield "every-key", b"".join(uncommented)
    yield "urls", b"[upstream]\nurl = amqp://a:b%20c@[::1]:5671/%2f,amqp://host,amqp://u@h/v\n"
    yield "mistakes", b"\xef\xbb\xbf[nowhere]\nkey\n[pool]\nupstream = 1\r\n[\nmax_channels=-1 ; no\n"


def field(data):
    return bytes([len(data)]) + data


def handshake():
    properties = amqp.table({"capabilities": {"connection.blocked": True}})[4:]
    amqplain = (amqp.short_string("LOGIN") + b"S" + amqp.long_string("guest")
                + amqp.short_string("PASSWORD") + b"S" + amqp.long_string("guest"))
    tune_ok = struct.pack(">HLH", 64, 131072, 0)
    for mechanism, response in [(b"PLAIN", b"\0guest\0guest"), (b"AMQPLAIN", amqplain),
                                (b"EXTERNAL", b""), (b"PLAIN", b"\0guest")]:
        name = f"{mechanism.decode()}-{len(response)}"
        yield name, field(properties) + field(mechanism) + field(response) + tune_ok + field(b"/")
    yield "small-frames", (field(b"") + field(b"PLAIN") + field(b"\0u\0p")
                           + struct.pack(">HLH", 64, 100, 0) + field(b"v"))


def sent(kind, payload, channel=1):
    return struct.pack(">BBH", kind, channel, len(payload)) + payload


def publish(body, pieces=1, **args):
    step = len(body) // pieces
    return (sent(0, amqp.method("basic.publish", **args)) + sent(1, amqp.header(len(body)))
            + b"".join(sent(2, body[at:at + step]) for at in range(0, len(body), step)))


def session():
    confirm = sent(0, amqp.method("confirm.select"))
    tx = sent(0, amqp.method("tx.select"))
    close = sent(0, amqp.method("channel.close", reply_code=200))
    message = publish(b"body", routing_key="q")
    yield "publish", b"\x02" + message
    yield "confirmed", b"\x02" + confirm + message * 3 + close
    yield "long-body", b"\x02" + confirm + publish(bytes(6000), pieces=3, exchange="amq.topic")
    yield "empty-body", b"\x02" + sent(0, amqp.method("basic.publish")) + sent(1, amqp.header(0))
    yield "transaction", (b"\x02" + tx + message + sent(0, amqp.method("tx.commit")) + message
                          + sent(0, amqp.method("tx.rollback")) + close)
    yield "long-transaction", b"\x02" + tx + message * 4 + sent(0, amqp.method("tx.commit"))
    yield "two-channels", (b"\x02" + sent(0, amqp.method("channel.open"), channel=2) + message
                           + sent(0, amqp.method("basic.publish"), channel=2) + message)
    for name, payload in methods():
        yield name, b"\x02" + sent(0, payload) + message
        yield f"{name}-0", b"\x02" + sent(0, payload, channel=0)
    wire = (amqp.method_frame(1, "channel.open") + amqp.method_frame(1, "confirm.select")
            + amqp.publish_frames(1, b"body", routing_key="q"))
    yield "raw", b"\x01" + wire + amqp.method_frame(0, "connection.close")
    yield "cut", b"\x01" + wire[:-2]
    yield "other-protocol", b"\x00" + b"AMQP\x03\x01\x00\x00"
    yield "http", b"\x00GET / HTTP/1.1\r\n\r\n"
    yield "first-byte", (b"\x00" + amqp.PROTOCOL_HEADER + amqp.method_frame(
        0, "connection.start-ok", mechanism="PLAIN", response=b"\0guest\0guest", locale="en_US"))


def upstream():
    def play(*units, broker_max=131072, client_max=131072):
        return struct.pack(">LL", broker_max, client_max) + b"".join(units)

    def say(who, payload, kind=0, channel=1):
        return struct.pack(">BBH", kind + 4 * (who == "broker"), channel, len(payload)) + payload
    wait, cut = b"\x0a\0\0\0", b"\x09\0\0\0"
    opened = say("client", amqp.method("channel.open")) + wait + \
        say("broker", amqp.method("channel.open-ok")) + wait
    confirms = say("client", amqp.method("confirm.select")) + wait + \
        say("broker", amqp.method("confirm.select-ok"))
    message = say("client", amqp.method("basic.publish", routing_key="q")) + \
        say("client", amqp.header(4)) + say("client", b"body", 2)
    acked = say("broker", amqp.method("basic.ack", delivery_tag=1))
    yield "publish", play(opened, message, wait, acked, wait)
    yield "confirmed", play(opened, confirms, message, wait, acked, wait)
    yield "lost", play(opened, confirms, message, wait, cut, wait)
    for size in (4096, 4097, 262144, 0):
        for other in (4096, 131072, 0):
            yield f"sizes-{size}-{other}", play(
                opened, message, wait, acked, broker_max=size, client_max=other)
    for sixteens in (1, 255, 256, 4096, 8191, 65535):
        yield f"secret-{sixteens}", play(struct.pack(">BBH", 8, 0, sixteens), wait)
    table = {"x": "v" * 3000}
    declare = say("client", amqp.method("queue.declare", queue="q", durable=True, arguments=table))
    yield "declared", play(opened, declare, wait, say(
        "broker", amqp.method("queue.declare-ok", queue="q")), wait)
    yield "declared-away", play(opened, cut, declare, wait)
    for name, payload in methods():
        yield f"{name}-of-broker", play(opened, message, say("broker", payload), wait)
        yield f"{name}-of-broker-0", play(opened, say("broker", payload, channel=0), wait)
        yield f"{name}-of-client", play(opened, say("client", payload), wait,
                                        say("broker", payload), wait)


TARGETS = {f"fuzz_{made.__name__}": made for made in [frame, method, content, record, directory,
                                                       config, handshake, session, upstream]}


def main(folder):
    for target, made in TARGETS.items():
        inputs = pathlib.Path(folder) / target
        inputs.mkdir(parents=True, exist_ok=True)
        for name, data in made():
            (inputs / name).write_bytes(data)


if __name__ == "__main__":
    main(sys.argv[1])
