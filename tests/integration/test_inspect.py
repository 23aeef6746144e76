"""amqpbuf-inspect: every command, at a terminal and into a pipe."""

import base64
import errno
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import time

import pytest

from support.spool import (INSPECT, MakeSpool, array, header, long_string, method, publish,
                           short_string, table)

AT = 1767323045_000000  # 2026-01-02T03:04:05Z, in microseconds
AT_TEXT = "2026-01-02T03:04:05.000000Z"
SECOND = 1_000_000


@pytest.fixture
def spool(tmp_path):
    maker = MakeSpool(tmp_path / "spool")
    yield maker
    maker.close()


@pytest.fixture
def orders(spool):
    """Two queues: three messages and one of them rejected, and one declaration."""
    guest, shop = spool.queue("guest", "/"), spool.queue("shop", "eu")
    spool.publish(guest, AT, "orders", "created", b"first")
    spool.publish(guest, AT + SECOND, "orders", "paid", b"second")
    spool.publish(guest, AT + 2 * SECOND, "", "nobody", b"third")
    spool.reject(guest, 3, 312, AT + 9 * SECOND, b"NO_ROUTE")
    spool.declare(shop, AT + 3 * SECOND, method(50, 10, short_string("jobs"), b"\x02", table()))
    return spool


def inspect(spool, *arguments, status=0, **options):
    done = subprocess.run([INSPECT, "-s", spool.path, *arguments], capture_output=True,
                          check=False, **options)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


def output(spool, *arguments, status=0):
    return inspect(spool, *arguments, status=status).stdout.decode()


def complaint(spool, *arguments, status):
    return inspect(spool, *arguments, status=status).stderr.decode()


def objects(spool, *arguments, status=0):
    return [json.loads(line) for line in output(spool, *arguments, status=status).splitlines()]


def seqs(spool, *arguments):
    return [(o["queue"], o["seq"]) for o in objects(spool, *arguments)]


def terminal(spool, *arguments, environment=None):
    """What the command writes to a terminal, and its exit status."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.pop("NO_COLOR", None)
        os.environ.update(environment or {})
        os.execv(INSPECT, [INSPECT, "-s", spool.path, *arguments])
    chunks = []
    while True:
        try:
            chunk = os.read(fd, 65536)
        except OSError as error:  # Linux's way to say that the other side is closed
            assert error.errno == errno.EIO
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(fd)
    _, status = os.waitpid(pid, 0)
    return b"".join(chunks).decode().replace("\r\n", "\n"), os.waitstatus_to_exitcode(status)


# ---- summary ----

def test_summary_is_the_default_and_tab_separated_in_a_pipe(orders):
    lines = [line.split("\t") for line in output(orders).splitlines()]
    assert lines[0] == ["queue", "user", "vhost", "messages", "bytes", "oldest_at", "newest_at",
                        "first_seq", "last_seq", "rejected"]
    assert lines[1][:4] == ["1", "guest", "/", "2"]
    assert lines[1][5:] == [AT_TEXT, "2026-01-02T03:04:06.000000Z", "1", "2", "1"]
    assert lines[2][:4] == ["2", "shop", "eu", "1"]
    assert len(lines) == 3
    assert output(orders, "summary") == output(orders)


def test_summary_json(orders):
    (summary,) = objects(orders, "--json")
    assert list(summary) == ["queues", "bytes_used", "bytes_max"]
    first = summary["queues"][0]
    size = sum(len(publish("orders", key)) + len(header(0)) + len(body)
               for key, body in [("created", "first"), ("paid", "second")])
    assert list(first.items()) == list({
        "id": 1, "user": "guest", "vhost": "/", "messages": 2, "bytes": size, "first_seq": 1,
        "last_seq": 2, "oldest_at": AT_TEXT, "newest_at": "2026-01-02T03:04:06.000000Z",
        "rejected": 1}.items())
    assert [queue["id"] for queue in summary["queues"]] == [1, 2]
    assert 0 < summary["bytes_used"] < summary["bytes_max"] == 1 << 30


def test_summary_of_an_empty_queue(spool):
    spool.queue()
    (summary,) = objects(spool, "summary", "--json")
    assert summary["queues"] == [{
        "id": 1, "user": "guest", "vhost": "/", "messages": 0, "bytes": 0, "first_seq": None,
        "last_seq": None, "oldest_at": None, "newest_at": None, "rejected": 0}]


def test_summary_at_a_terminal_is_aligned_with_ages_and_sizes(spool):
    now_us = time.time_ns() // 1000
    spool.queue("guest", "/")
    spool.queue("a-long-name", "/")
    spool.publish(1, now_us - 7325 * SECOND, body=b"x" * 1_258_291)
    text, status = terminal(spool, environment={"NO_COLOR": "1"})
    title, first, second, usage = text.splitlines()
    assert status == 0
    assert first.split() == ["1", "guest", "/", "1", "1.2", "MiB", "2h", "2m", "2h", "2m", "1",
                             "1", "0"]
    assert second.split() == ["2", "a-long-name", "/", "0", "0", "B", "-", "-", "0", "0", "0"]
    for column, cell in [("USER", "guest"), ("VHOST", "/")]:
        assert title.index(column) == first.index(cell)
    assert title.index("OLDEST") + len("OLDEST") == first.index("2h 2m") + len("2h 2m")
    assert usage.startswith("Spool: 1.") and usage.endswith("MiB of 1.0 GiB used (0.1 %).")


def test_an_empty_spool_says_so(spool):
    assert output(spool).count("\n") == 1
    assert json.loads(output(spool, "--json"))["queues"] == []
    assert terminal(spool)[0].startswith("No queues")
    assert terminal(spool, "list") == ("No messages.\n", 0)


def test_colour_only_at_a_terminal_and_not_with_no_color(orders):
    assert "\033[1mQUEUE" in terminal(orders)[0]
    assert "\033" not in terminal(orders, environment={"NO_COLOR": "1"})[0]
    assert "\033" in terminal(orders, environment={"NO_COLOR": ""})[0]
    assert "\033[31m312: NO_ROUTE\033[0m" in terminal(orders, "list", "--rejected")[0]
    assert "\033" not in output(orders) + output(orders, "list", "--rejected")


# ---- list, dump, show ----

def test_list_in_a_pipe(orders):
    assert [line.split("\t") for line in output(orders, "list").splitlines()] == [
        ["queue", "seq", "received_at", "exchange", "routing_key", "size", "declaration"],
        ["1", "1", AT_TEXT, "orders", "created", "5", ""],
        ["1", "2", "2026-01-02T03:04:06.000000Z", "orders", "paid", "6", ""],
        ["2", "1", "2026-01-02T03:04:08.000000Z", "", "", "0", "queue.declare jobs"]]
    assert [line.split("\t") for line in output(orders, "list", "--rejected").splitlines()] == [
        ["queue", "seq", "received_at", "exchange", "routing_key", "size", "declaration",
         "rejected"],
        ["1", "3", "2026-01-02T03:04:07.000000Z", "", "nobody", "5", "", "312: NO_ROUTE"]]


def test_list_at_a_terminal_stays_aligned_over_many_rows(spool):
    now_us = time.time_ns() // 1000
    spool.queue()
    spool.publish(1, now_us - 192 * SECOND, "orders", "created", b"x" * 2048, count=300)
    text, status = terminal(spool, "list", environment={"NO_COLOR": "1"})
    title, *rows = text.splitlines()
    assert status == 0
    assert len(rows) == 300
    assert [row.split()[1] for row in rows] == [str(seq) for seq in range(1, 301)]
    assert {row.index("created") for row in rows} == {title.index("ROUTING KEY")}
    assert all("3m 1" in row and "2.0 KiB" in row for row in rows)


def test_a_long_key_at_a_terminal_is_out_of_line_alone(spool):
    spool.queue()
    for key in "short", "long" * 50, "other":
        spool.publish(1, AT, "orders", key)
    text, _ = terminal(spool, "list", environment={"NO_COLOR": "1"})
    titles, short, long, other = text.splitlines()
    assert titles.index("SIZE") + 1 == short.index("4 B") == other.index("4 B") < 100
    assert "long" * 50 in long


def test_list_json_is_dump_without_the_body(orders):
    dumped = objects(orders, "dump")
    for message in dumped:
        message.pop("body", None)
        message.pop("body_encoding", None)
    assert objects(orders, "list", "--json") == dumped


def test_dump_has_everything_in_the_promised_order(orders):
    first = objects(orders, "dump")[0]
    assert list(first.items()) == list({
        "queue": 1, "seq": 1, "user": "guest", "vhost": "/", "received_at": AT_TEXT,
        "exchange": "orders", "routing_key": "created", "mandatory": False, "immediate": False,
        "properties": {}, "body_size": 5, "body": "first", "body_encoding": "utf8",
        "rejected": None}.items())
    (rejected,) = objects(orders, "dump", "--rejected")
    assert rejected["rejected"] == {"code": 312, "text": "NO_ROUTE",
                                    "at": "2026-01-02T03:04:14.000000Z"}


def test_mandatory_and_immediate(spool):
    spool.queue()
    for flags in range(4):
        spool.put(1, AT, publish("", "key", flags), header(0))
    assert [(o["mandatory"], o["immediate"]) for o in objects(spool, "dump")] == [
        (False, False), (True, False), (False, True), (True, True)]


PROPERTIES = [
    ("content_type", short_string("text/plain"), "text/plain"),
    ("content_encoding", short_string("gzip"), "gzip"),
    ("headers", table(a=b"V"), {"a": None}),
    ("delivery_mode", b"\x02", 2),
    ("priority", b"\x09", 9),
    ("correlation_id", short_string("c-1"), "c-1"),
    ("reply_to", short_string("answers"), "answers"),
    ("expiration", short_string("60000"), "60000"),
    ("message_id", short_string("m-1"), "m-1"),
    ("timestamp", struct.pack(">Q", AT // SECOND), AT_TEXT),
    ("type", short_string("order"), "order"),
    ("user_id", short_string("guest"), "guest"),
    ("app_id", short_string("shop"), "shop"),
    ("cluster_id", short_string("rabbit"), "rabbit"),
]


def test_every_property(spool):
    spool.queue()
    spool.put(1, AT, publish("", "key"), header(0, 0xFFFC, b"".join(p[1] for p in PROPERTIES)))
    for i, (_, value, _) in enumerate(PROPERTIES):
        spool.put(1, AT, publish("", "key"), header(0, 0x8000 >> i, value))
    everything, *single = [message["properties"] for message in objects(spool, "dump")]
    assert list(everything.items()) == [(name, value) for name, _, value in PROPERTIES]
    assert single == [{name: value} for name, _, value in PROPERTIES]


FIELDS = {
    "true": (b"t\x01", True),
    "false": (b"t\x00", False),
    "int8": (b"b\x80", -128),
    "uint8": (b"B\xFF", 255),
    "int16": (b"s\x80\x00", -32768),
    "uint16": (b"u\xFF\xFF", 65535),
    "int32": (b"I\x80\x00\x00\x00", -2147483648),
    "uint32": (b"i\xFF\xFF\xFF\xFF", 4294967295),
    "int64": (b"l" + struct.pack(">q", -2 ** 63), -2 ** 63),
    "signed": (b"L" + struct.pack(">q", 2 ** 63 - 1), 2 ** 63 - 1),
    "float": (b"f" + struct.pack(">f", 0.5), 0.5),
    "double": (b"d" + struct.pack(">d", 0.1), 0.1),
    "decimal": (b"D\x02" + struct.pack(">I", 1234), {"decimal": "12.34"}),
    "text": (b"S" + long_string("größe"), "größe"),
    "empty": (b"S" + long_string(""), ""),
    "not_text": (b"S" + long_string(b"\xFF\x00"), {"base64": "/wA="}),
    "bytes": (b"x" + long_string(b"abc"), {"base64": "YWJj"}),
    "no_bytes": (b"x" + long_string(b""), {"base64": ""}),
    "time": (b"T" + struct.pack(">Q", AT // SECOND), AT_TEXT),
    "millis": (b"T" + struct.pack(">Q", AT // 1000), AT // 1000),
    "null": (b"V", None),
    "array": (b"A" + array(b"V", b"b\x01", b"A" + array(b"S" + long_string("deep"))),
              [None, 1, ["deep"]]),
    "table": (b"F" + table(inner=b"F" + table(n=b"I\x00\x00\x00\x07")), {"inner": {"n": 7}}),
}


def test_every_kind_of_header_field(spool):
    spool.queue()
    fields = table(**{name: encoded for name, (encoded, _) in FIELDS.items()})
    spool.put(1, AT, publish("", "key"), header(0, 0x2000, fields))
    (message,) = objects(spool, "dump")
    assert message["properties"]["headers"] == {name: value
                                                for name, (_, value) in FIELDS.items()}


BODIES = [
    (b"", "utf8"), (b"plain", "utf8"), ("größe \u2028 \U0001F407".encode(), "utf8"),
    (b"\x1b[2J\x7f\xc2\x9b", "utf8"), (b"\xff\xfe", "base64"), (b"a\x00b", "base64"),
    (b"\x80" * 100_000, "base64"), (b"0123456789" * 50_000, "utf8"),
]


def test_bodies_come_out_as_they_went_in(spool):
    spool.queue()
    for body, _ in BODIES:
        spool.publish(1, AT, body=body)
    for seq, ((body, encoding), message) in enumerate(zip(BODIES, objects(spool, "dump")), 1):
        assert message["body_encoding"] == encoding
        assert message["body_size"] == len(body)
        decode = base64.b64decode if encoding == "base64" else str.encode
        assert decode(message["body"]) == body
        assert inspect(spool, "show", "1", str(seq), "--body").stdout == body


DECLARATIONS = [
    (method(40, 10, short_string("orders"), short_string("topic"), b"\x0A", table(a=b"t\x01")),
     "exchange.declare", "orders",
     {"exchange": "orders", "type": "topic", "durable": True, "auto_delete": False,
      "internal": True, "arguments": {"a": True}}),
    (method(50, 10, short_string("jobs"), b"\x0A", table(ttl=b"I\x00\x00\x00\x05")),
     "queue.declare", "jobs",
     {"queue": "jobs", "durable": True, "exclusive": False, "auto_delete": True,
      "arguments": {"ttl": 5}}),
    (method(50, 20, short_string("jobs"), short_string("orders"), short_string("new.*"), b"\x00",
            table()),
     "queue.bind", "jobs",
     {"queue": "jobs", "exchange": "orders", "routing_key": "new.*", "arguments": {}}),
    (method(40, 30, short_string("archive"), short_string("orders"), short_string("#"), b"\x00",
            table()),
     "exchange.bind", "archive",
     {"destination": "archive", "source": "orders", "routing_key": "#", "arguments": {}}),
]


def test_declarations(spool):
    spool.queue()
    for payload, _, _, _ in DECLARATIONS:
        spool.declare(1, AT, payload)
    spool.reject(1, 2, 406, AT, b"PRECONDITION_FAILED")
    expected = [{"queue": 1, "seq": seq, "user": "guest", "vhost": "/", "received_at": AT_TEXT,
                 "kind": "declare", "method": name, "fields": fields, "rejected": None}
                for seq, (_, name, _, fields) in enumerate(DECLARATIONS, 1)]
    expected[1]["rejected"] = {"code": 406, "text": "PRECONDITION_FAILED", "at": AT_TEXT}
    dumped = [json.loads(output(spool, "show", "1", str(seq))) for seq in (1, 2, 3, 4)]
    assert [list(o.items()) for o in dumped] == [list(o.items()) for o in expected]
    listed = [line.split("\t") for line in output(spool, "list").splitlines()[1:]]
    assert [row[6] for row in listed] == [f"{name} {what}"
                                          for _, name, what, _ in DECLARATIONS
                                          if name != "queue.declare"]
    assert seqs(spool, "dump", "--exchange", "orders") == [(1, 1), (1, 3), (1, 4)]
    assert seqs(spool, "dump", "--routing-key", "new.*") == [(1, 3)]
    assert "without a body" in complaint(spool, "show", "1", "1", "--body", status=1)


def test_show_finds_waiting_and_rejected_messages(orders):
    assert objects(orders, "show", "1", "2") == [objects(orders, "dump")[1]]
    assert objects(orders, "show", "1", "3") == objects(orders, "dump", "--rejected")
    assert output(orders, "show", "1", "3", "--body") == "third"
    text, status = terminal(orders, "show", "1", "2")
    assert status == 0
    assert json.loads(text) == objects(orders, "dump")[1]
    assert text.splitlines()[1] == '  "queue": 1,'


@pytest.mark.parametrize("queue, seq", [("1", "4"), ("1", "0"), ("1", str(2 ** 64 - 1)),
                                        ("7", "1"), ("0", "1")])
def test_show_of_what_is_not_there(orders, queue, seq):
    done = inspect(orders, "show", queue, seq, status=1)
    assert done.stdout == b""
    assert b"there is no " in done.stderr


def test_nothing_from_the_wire_steers_a_terminal(spool):
    hostile = "\x1b]0;x\x07\x7f\u009b\u202e\u200b\U000e0041\t\r\n"
    spool.queue(f"user{hostile}", f"vhost{hostile}")
    properties = short_string(hostile) + table(**{hostile: b"S" + long_string(hostile)})
    spool.put(1, AT, publish(f"ex{hostile}", f"key{hostile}"), header(9, 0xA000, properties),
              b"\x1b\x7f\xc2\x9b\xe2\x80\xaex")
    spool.put(1, AT, publish("", "gone"), header(0))
    spool.reject(1, 2, 312, AT, hostile.encode())
    for arguments in [[], ["list"], ["list", "--rejected"], ["show", "1", "1"], ["dump"],
                      ["verify"], ["list", "--exchange", hostile, "--user", "nobody"],
                      [hostile], ["list", f"--since={hostile}"], [f"--{hostile}"]]:
        shown = terminal(spool, *arguments, environment={"NO_COLOR": "1"})[0]
        assert not set("\x1b\x07\x7f\u009b\u202e\u200b\U000e0041\r\t") & set(shown), (arguments, shown)
        piped = inspect_any(spool, *arguments)
        assert not set("\x1b\x07\x7f\u009b\u202e\u200b\U000e0041\r") & set(piped), (arguments, piped)
    assert all(line.count("\t") == 9 for line in output(spool).splitlines())
    assert all(line.count("\t") == 6 for line in output(spool, "list").splitlines())
    assert objects(spool, "dump", "--exchange", f"ex{hostile}")[0]["routing_key"] == (
        f"key{hostile}")


def inspect_any(spool, *arguments):
    done = subprocess.run([INSPECT, "-s", spool.path, *arguments], capture_output=True,
                          check=False)
    return (done.stdout + done.stderr).decode()


# ---- filters ----

def test_filters(orders):
    orders.publish(2, AT + 3600 * SECOND, "orders", "created", b"fourth")
    everything = [(1, 1), (1, 2), (2, 1), (2, 2)]
    cases = {
        (): everything,
        ("--queue", "1"): [(1, 1), (1, 2)],
        ("--queue=2",): [(2, 1), (2, 2)],
        ("--user", "guest"): [(1, 1), (1, 2)],
        ("--user", "gues"): [],
        ("--vhost", "eu"): [(2, 1), (2, 2)],
        ("--vhost", "eu", "--user", "guest"): [],
        ("--exchange", "orders"): [(1, 1), (1, 2), (2, 2)],
        ("--exchange", "order"): [],
        ("--exchange", ""): [],
        ("--routing-key", "created"): [(1, 1), (2, 2)],
        ("--exchange", "orders", "--routing-key", "paid"): [(1, 2)],
        ("--since", "2026-01-02T03:04:06Z"): [(1, 2), (2, 1), (2, 2)],
        ("--since", "2026-01-02T03:04:06.000001Z"): [(2, 1), (2, 2)],
        ("--until", "2026-01-02T03:04:06Z"): [(1, 1)],
        ("--since", "@1767323046", "--until", "2026-01-02T05:04:08+02:00"): [(1, 2)],
        ("--since", "2026-01-03"): [],
        ("--after", "1"): [(1, 2), (2, 2)],
        ("--after", "2"): [],
        ("--limit", "3"): [(1, 1), (1, 2), (2, 1)],
        ("--limit", "0"): [],
        ("--limit", "1", "--after", "1", "--queue", "2"): [(2, 2)],
        ("--limit", "1", "--routing-key", "created", "--since", "2026-01-02T04:00:00Z"): [(2, 2)],
        ("--rejected",): [(1, 3)],
        ("--rejected", "--queue", "2"): [],
        ("--rejected", "--exchange", ""): [(1, 3)],
    }
    for arguments, expected in cases.items():
        assert seqs(orders, "dump", *arguments) == expected, arguments
        assert seqs(orders, *arguments, "list", "--json") == expected, arguments


def test_times_relative_to_now(spool):
    now_us = time.time_ns() // 1000
    spool.queue()
    spool.publish(1, now_us - 7200 * SECOND)
    spool.publish(1, now_us - 60 * SECOND)
    assert seqs(spool, "dump", "--since", "15m") == [(1, 2)]
    assert seqs(spool, "dump", "--since", "-15m") == [(1, 2)]
    assert seqs(spool, "dump", "--until", "1h30m ago") == [(1, 1)]
    assert seqs(spool, "dump", "--since", "1d", "--until", "now") == [(1, 1), (1, 2)]


def test_a_queue_that_is_not_there(orders):
    assert "there is no queue 9" in complaint(orders, "list", "--queue", "9", status=1)


# ---- verify and damage ----

def test_verify_of_a_sound_spool(orders):
    assert output(orders, "verify").splitlines() == [
        "queue 1 (guest at /): 2 messages, 1 rejected, 0 damaged",
        "queue 2 (shop at eu): 1 messages, 0 rejected, 0 damaged",
        "4 records in 2 queues checked, 0 problems"]
    assert terminal(orders, "verify")[1] == 0


def test_a_damaged_record_is_told_and_passed_over(orders):
    orders.damage(1, 1)
    lines = output(orders, "verify", status=1).splitlines()
    assert lines[0].startswith("queue 1, message 1: ")
    assert lines[1] == "queue 1 (guest at /): 2 messages, 1 rejected, 1 damaged"
    assert lines[-1] == "4 records in 2 queues checked, 1 problem"
    for arguments in ["dump"], ["list"], ["list", "--json"]:
        done = inspect(orders, *arguments, status=1)
        assert b"queue 1, message 1 is damaged: " in done.stderr
        assert b"paid" in done.stdout and b"created" not in done.stdout
    assert "message 1 is damaged" in complaint(orders, "show", "1", "1", status=1)
    assert objects(orders, "show", "1", "2")[0]["routing_key"] == "paid"
    text, status = terminal(orders, "verify")
    assert status == 1
    assert "\033[31mqueue 1, message 1: " in text


def test_verify_compares_the_counters(orders):
    orders.lose(1, 1)
    lines = output(orders, "verify", status=1).splitlines()
    assert "queue 1: its message counter says 2, but there are 1" in lines
    assert any(line.startswith("queue 1: its byte counter says ") for line in lines)
    assert lines[-1] == "3 records in 2 queues checked, 2 problems"


def test_a_damaged_entry_is_named(orders):
    whole = objects(orders, "dump", "--queue", "1")
    orders.spoil(1)
    lines = output(orders, "verify", status=1).splitlines()
    assert "queue 1: its entry is damaged: whose its messages are cannot be read" in lines
    assert lines[-1].endswith(", 1 problem")
    assert [(o["seq"], o["body"], o["user"]) for o in objects(orders, "dump", "--queue", "1")] == \
        [(o["seq"], o["body"], "") for o in whole]


WRONG_RECORDS = [
    (publish("", "key")[:-1], header(4), "its method cannot be read"),
    (method(50, 10, short_string("q"), b"\x00", table()), header(4), "its method cannot be read"),
    (publish("", "key"), header(5), "its body is not as long as its header says"),
    (publish("", "key"), header(4, 0x8000), "its properties cannot be read"),
    (publish("", "key"), header(4, 0x2000, table(a=b"?")), "its properties cannot be read"),
]


@pytest.mark.parametrize("method_payload, header_payload, what", WRONG_RECORDS)
def test_records_that_make_no_sense(spool, method_payload, header_payload, what):
    spool.queue()
    spool.put(1, AT, method_payload, header_payload, b"body")
    spool.publish(1, AT, routing_key="sound")
    assert f"queue 1, message 1: {what}" in output(spool, "verify", status=1).splitlines()
    if "body" not in what:
        assert [o["seq"] for o in objects(spool, "dump", status=1)] == [2]
        assert what in complaint(spool, "dump", status=1)
        assert what in complaint(spool, "show", "1", "1", status=1)


# ---- beside a writer ----

def test_reading_beside_a_writer(spool):
    spool.queue()
    spool.publish(1, AT, body=b"x" * 1000, count=5000)
    dump = subprocess.Popen([INSPECT, "-s", spool.path, "dump"], stdout=subprocess.PIPE)
    first = json.loads(dump.stdout.readline())
    # The pipe is full and the dump waits in it: what is written meanwhile must not wait, and what
    # was not read yet may be gone.
    for seq in range(3000, 5001):
        spool.delete(1, seq)
    spool.publish(1, AT, routing_key="late", count=10)
    rest = [json.loads(line) for line in dump.stdout]
    dump.stdout.close()
    assert dump.wait() == 0
    seen = [first["seq"]] + [message["seq"] for message in rest]
    assert seen == sorted(set(seen))
    assert set(range(1, 3000)) <= set(seen)
    assert set(range(5001, 5011)) <= set(seen)
    assert objects(spool, "--json")[0]["queues"][0]["messages"] == 3009
    assert output(spool, "verify").splitlines()[-1] == "3009 records in 1 queue checked, 0 problems"


def test_a_slow_reader_lets_old_pages_be_used_again(spool):
    spool.queue()
    spool.publish(1, AT, body=b"x" * 10_000, count=2000)
    dump = subprocess.Popen([INSPECT, "-s", spool.path, "dump"], stdout=subprocess.PIPE)
    dump.stdout.readline()  # it is under way, and soon waits in the full pipe
    data = spool.path / "data.mdb"
    for seq in range(1, 2001):
        spool.delete(1, seq)
    spool.publish(1, AT, body=b"x" * 10_000)  # frees what the last delete left
    before = data.stat().st_size
    spool.publish(1, AT, body=b"x" * 10_000, count=1000)
    assert data.stat().st_size == before
    dump.stdout.close()
    assert dump.wait() == 0


def test_a_copied_spool_on_a_directory_that_cannot_be_written(orders, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "data.mdb").write_bytes((orders.path / "data.mdb").read_bytes())
    (copy / "data.mdb").chmod(0o400)
    copy.chmod(0o500)
    orders.path, original = copy, orders.path
    try:
        assert seqs(orders, "dump") == [(1, 1), (1, 2), (2, 1)]
        assert output(orders, "verify").endswith(" 0 problems\n")
    finally:
        orders.path = original
        copy.chmod(0o700)


# ---- how it ends ----

@pytest.mark.parametrize("arguments, hint", [
    (["lisst"], 'did you mean "list"?'),
    (["sumary"], 'did you mean "summary"?'),
    (["frobnicate"], "there are summary, list, dump, show and verify"),
    (["list", "--quue", "1"], "did you mean --queue?"),
    (["list", "--jsn"], "did you mean --json?"),
    (["list", "--frobnicate"], "there is no option --frobnicate"),
    (["list", "-x"], "there is no option -x"),
    (["list", "--limit"], "--limit wants a value"),
    (["list", "--json=yes"], "--json takes no value"),
    (["list", "--limit", "-1"], "--limit wants a number of messages"),
    (["list", "--limit", "many"], "--limit wants a number of messages"),
    (["list", "--after", "18446744073709551616"], "--after wants a sequence number"),
    (["list", "--queue", "4294967296"], "--queue wants a queue's number"),
    (["list", "--since", "yesterday"], "--since wants a time such as"),
    (["list", "--until", "2026-02-30"], "--until wants a time such as"),
    (["list", "extra"], '"extra" is one word too many for list'),
    (["show", "1", "2", "3"], '"3" is one word too many'),
    (["show"], "show wants two numbers"),
    (["show", "1"], "show wants two numbers"),
    (["show", "one", "2"], "show wants two numbers"),
    (["show", "1", "2", "--limit", "1"], "show takes no --limit"),
    (["show", "1", "2", "--body", "--json"], "nothing for --json to do"),
    (["verify", "--json"], "verify takes no --json"),
    (["dump", "--body"], "dump takes no --body"),
    (["--user", "guest"], "summary takes no --user"),
    (["--body"], "summary takes no --body"),
])
def test_wrong_usage(orders, arguments, hint):
    done = inspect(orders, *arguments, status=2)
    assert done.stdout == b""
    assert done.stderr.decode().startswith("amqpbuf-inspect: ")
    assert hint in done.stderr.decode()


def run(*arguments, **options):
    return subprocess.run([INSPECT, *arguments], capture_output=True, check=False, text=True,
                          **options)


def test_options_before_and_after_the_command(orders):
    path = str(orders.path)
    expected = output(orders, "list", "--json")
    for arguments in [["list", "-s", path, "--json"], ["--json", "list", f"--spool={path}"],
                      [f"-s{path}", "--json", "--", "list"]]:
        assert run(*arguments).stdout == expected
        assert run(*arguments, env={"POSIXLY_CORRECT": "1"}).stdout == expected


def test_help_and_version_need_no_spool(tmp_path):
    for option in "--help", "-h":
        done = run(option, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "amqpbuf-inspect [-s DIR] verify" in done.stdout
    for option in "--version", "-V":
        done = run(option, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("amqpbuf-inspect ")


@pytest.mark.parametrize("make", ["pipe", "folder", "link to a device"])
@pytest.mark.parametrize("command", [["summary"], ["dump", "--recover"], ["verify"]])
def test_what_is_no_file_in_the_place_of_one(tmp_path, make, command):
    """A named pipe would wait for a writer."""
    path = tmp_path / "data.mdb"
    if make == "pipe":
        os.mkfifo(path)
    elif make == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    done = run("-s", tmp_path, *command, timeout=60)
    assert done.returncode in (1, 3) and done.stdout == ""
    assert f"{path} is no regular file" in done.stderr


def test_a_checkpoint_that_is_a_pipe_holds_nobody_up(orders):
    os.mkfifo(orders.path / "checkpoint")
    assert run("-s", orders.path, timeout=60).returncode == 0


def test_a_spool_that_was_never_written_is_none(tmp_path):
    """What a kill in the first moment leaves."""
    (tmp_path / "data.mdb").touch()
    done = run("-s", tmp_path)
    assert done.returncode == 3 and "there is no spool" in done.stderr


def test_no_spool(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(cwd=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no spool in ./spool" in done.stderr
    for path in empty, tmp_path / "missing":
        done = run("-s", path, "list")
        assert done.returncode == 3
        assert f"there is no spool in {path}" in done.stderr
    assert list(empty.iterdir()) == []


def test_what_is_not_a_spool(tmp_path):
    (tmp_path / "file").write_text("no spool")
    assert run("-s", tmp_path / "file").returncode == 3
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(b"\0" * 65536)
    done = run("-s", folder)
    assert done.returncode == 1
    assert str(folder) in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly(spool):
    spool.queue()
    spool.publish(1, AT, body=b"x" * 1000, count=5000)
    for command in "dump", "list":
        child = subprocess.Popen([INSPECT, "-s", spool.path, command], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        child.stdout.readline()
        child.stdout.close()
        assert child.stderr.read() == b""
        child.stderr.close()
        assert child.wait() == 0


def test_a_full_disk_is_told(orders):
    for arguments in [], ["list"], ["dump"], ["show", "1", "1"], ["verify"], ["--help"]:
        with open("/dev/full", "wb") as full:
            done = subprocess.run([INSPECT, "-s", orders.path, *arguments], stdout=full,
                                  stderr=subprocess.PIPE, check=False)
        assert done.returncode == 1
        assert b"cannot write the output: No space left on device" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_the_spool_closed(spool, number):
    spool.queue()
    spool.publish(1, AT, body=b"x" * 1000, count=5000)
    child = subprocess.Popen([INSPECT, "-s", spool.path, "dump"], stdout=subprocess.PIPE)
    child.stdout.readline()
    child.send_signal(number)
    child.stdout.read()
    child.stdout.close()
    assert child.wait() == -number


# ---- much ----

MANY = 100_000


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    maker = MakeSpool(tmp_path_factory.mktemp("many") / "spool")
    maker.queue()
    maker.publish(1, AT, "orders", "created", b"x" * 200, count=MANY)
    yield maker
    maker.close()


def peak_kib(spool, *arguments):
    """Lines on standard output, and the most memory that the command had resident."""
    # What AddressSanitizer keeps of freed memory, where the program was built with it, is no part
    # of the question.
    environment = dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=1")
    child = subprocess.Popen([INSPECT, "-s", spool.path, *arguments], stdout=subprocess.PIPE,
                             env=environment)
    lines = sum(1 for _ in child.stdout)
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return lines, usage.ru_maxrss


def test_memory_stays_flat(many):
    """The map's own pages are resident as well, so the data file is allowed for; records kept as
    JSON would take over a kilobyte each on top of it."""
    map_kib = os.stat(many.path / "data.mdb").st_size // 1024
    for arguments, expected in [(["list"], MANY + 1), (["dump"], MANY), (["verify"], 2)]:
        _, small = peak_kib(many, *arguments[:1], *(["--limit", "1000"]
                                                    if arguments != ["verify"] else []))
        lines, large = peak_kib(many, *arguments)
        assert lines == expected
        assert large < small + map_kib + 16 * 1024, arguments


def test_progress_on_a_terminal_for_long_work(many):
    """Standard error is a terminal, standard output a pipe that is read only once the progress
    has been seen."""
    main, side = pty.openpty()
    child = subprocess.Popen([INSPECT, "-s", many.path, "dump"], stdout=subprocess.PIPE,
                             stderr=side)
    os.close(side)
    seen, deadline = b"", time.monotonic() + 60
    while b" left" not in seen and time.monotonic() < deadline:
        # The pipe is emptied a little at a time, for the work to outlast the second of silence.
        if select.select([main], [], [], 0.05)[0]:
            seen += os.read(main, 4096)
        elif os.read(child.stdout.fileno(), 65536) == b"":
            break
    child.stdout.close()
    child.wait()
    os.close(main)
    assert re.search(rb"Dumped \d+ of 100000 messages, (\d+[hms] ?)+ left", seen)


def test_no_progress_where_standard_error_is_no_terminal(many):
    assert inspect(many, "dump").stderr == b""


# ---- --follow ----

class Following:
    """A command that goes on; what it has written so far."""

    def __init__(self, spool, *arguments):
        self.child = subprocess.Popen([INSPECT, "-s", spool.path, *arguments], text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def lines(self, count):
        return [self.child.stdout.readline().rstrip("\n") for _ in range(count)]

    def interrupt(self):
        self.child.send_signal(signal.SIGINT)
        _, err = self.child.communicate(timeout=60)
        assert self.child.returncode == -signal.SIGINT and err == ""


@pytest.mark.parametrize("command", [["list", "--json"], ["dump"]])
def test_follow_shows_what_comes_in_every_queue(spool, command):
    spool.queue()
    spool.publish(1, AT, count=2)
    following = Following(spool, *command, "--follow")
    assert [json.loads(line)["seq"] for line in following.lines(2)] == [1, 2]
    spool.delete(1, 1)
    spool.publish(1, AT, count=300)
    assert [json.loads(line)["seq"] for line in following.lines(300)] == list(range(3, 303))
    spool.queue("shop", "eu")
    spool.publish(2, AT)
    last, = following.lines(1)
    assert (json.loads(last)["queue"], json.loads(last)["seq"]) == (2, 1)
    following.interrupt()


def test_follow_ends_with_the_limit_and_keeps_to_the_filter(spool):
    spool.queue()
    following = Following(spool, "list", "--json", "-f", "--exchange", "wanted", "--limit", "2")
    spool.publish(1, AT, exchange="wanted")
    assert len(following.lines(1)) == 1
    spool.publish(1, AT, exchange="other", count=5)
    spool.publish(1, AT, exchange="wanted", count=5)
    out, err = following.child.communicate(timeout=60)
    assert [json.loads(line)["seq"] for line in out.splitlines()] == [7]
    assert following.child.returncode == 0 and err == ""


def test_follow_ends_when_nobody_listens(spool):
    spool.queue()
    spool.publish(1, AT)
    following = Following(spool, "dump", "-f")
    following.lines(1)
    following.child.stdout.close()
    assert following.child.wait(60) == 0


def test_follow_shows_the_summary_after_each_change(spool):
    spool.queue()
    following = Following(spool, "--json", "-f")
    assert json.loads(following.lines(1)[0])["queues"][0]["messages"] == 0
    spool.publish(1, AT, count=3)
    assert json.loads(following.lines(1)[0])["queues"][0]["messages"] == 3
    following.interrupt()
    plain = Following(spool, "-f")
    first = plain.lines(3)
    assert first[0] == "" and first[1].startswith("queue\tuser") and "\t3\t" in first[2]
    plain.interrupt()


def test_follow_at_a_terminal_shows_the_summary_in_one_place(orders):
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(INSPECT, [INSPECT, "-s", orders.path, "--follow"])
    seen = b""
    while seen.count(b"\033[H\033[2J") < 3:
        seen += os.read(fd, 65536)
    os.kill(pid, signal.SIGINT)
    os.close(fd)
    os.waitpid(pid, 0)
    assert b"Spool: " in seen and b"guest" in seen


def test_follow_has_no_end_to_wait_at_for_what_was_refused(orders):
    assert "--follow" in complaint(orders, "list", "--rejected", "--follow", status=2)
    assert "verify takes no --follow" in complaint(orders, "verify", "-f", status=2)
