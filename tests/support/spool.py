"""Spools made for tests: wire bytes, and make_spool that stores them."""

import os
import pathlib
import struct
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("AMQPBUF_TEST_BIN", ROOT / "build-dev" / "amqpbuf"))
INSPECT = pathlib.Path(os.environ.get("AMQPBUF_TEST_INSPECT", BINARY.parent / "amqpbuf-inspect"))
MAKE_SPOOL = pathlib.Path(os.environ.get("AMQPBUF_TEST_MAKE_SPOOL", INSPECT.parent / "make_spool"))
MAKE_SPOOL_V1 = pathlib.Path(os.environ.get("AMQPBUF_TEST_MAKE_SPOOL_V1",
                                            INSPECT.parent / "make_spool_v1"))


def short_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return bytes([len(data)]) + data


def long_string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack(">I", len(data)) + data


def table(**fields):
    """A field table; each value is the type's letter and its bytes."""
    return long_string(b"".join(short_string(name) + value for name, value in fields.items()))


def array(*values):
    return long_string(b"".join(values))


def method(class_id, method_id, *fields):
    return struct.pack(">HHH", class_id, method_id, 0) + b"".join(fields)


def publish(exchange, routing_key, flags=0):
    return method(60, 40, short_string(exchange), short_string(routing_key), bytes([flags]))


def header(body_size, flags=0, properties=b""):
    return struct.pack(">HHQH", 60, 0, body_size, flags) + properties


class MakeSpool:
    """The spool at `path`, with a make_spool that has it open."""

    def __init__(self, path):
        self.path = path
        self._child = subprocess.Popen([MAKE_SPOOL, path], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
        self._answer()

    def close(self):
        self._child.stdin.close()
        self._child.stdout.close()
        assert self._child.wait() == 0

    def _answer(self):
        answer = self._child.stdout.readline().split(maxsplit=1)
        assert answer[0] == "ok", answer
        return int(answer[1])

    def _ask(self, *words):
        words = [(word.hex() or "-") if isinstance(word, bytes) else str(word) for word in words]
        self._child.stdin.write(" ".join(words) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def queue(self, user="guest", vhost="/"):
        user = user if isinstance(user, bytes) else user.encode()
        return self._ask("queue", user, vhost.encode())

    def put(self, queue, at_us, method_payload, header_payload, body=b"", count=1):
        return self._ask("publish", queue, at_us, method_payload, header_payload, body, count)

    def publish(self, queue, at_us, exchange="", routing_key="key", body=b"body", count=1):
        return self.put(queue, at_us, publish(exchange, routing_key), header(len(body)), body,
                        count)

    def declare(self, queue, at_us, method_payload):
        return self._ask("declare", queue, at_us, method_payload)

    def reject(self, queue, seq, code, at_us, text):
        self._ask("reject", queue, seq, code, at_us, text)

    def delete(self, queue, seq):
        self._ask("delete", queue, seq)

    def damage(self, queue, seq):
        self._ask("damage", queue, seq)

    def spoil(self, queue):
        self._ask("spoil", queue)

    def lose(self, queue, seq):
        self._ask("lose", queue, seq)
