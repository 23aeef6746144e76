"""Clients that mean harm: each meets its limit, a publisher beside them goes on, memory stays bounded,
and the log does not flood."""

import contextlib
import random
import resource
import socket
import struct

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until

IDLE = 10_000
FILES = IDLE + 500
# A build with sanitizers takes some times what a release does; tools/bench measures that one.
MOST_BYTES_PER_IDLE = 32 * 1024
ROUNDS = 300


class Witness:
    """A publisher with confirms: what it publishes meanwhile has to be confirmed."""

    def __init__(self, proxy):
        self.client, self.count = RawClient(proxy.port), 0
        self.client.open_channel(confirms=True)

    def publishes(self, count=1):
        for _ in range(count):
            self.count += 1
            self.client.publish(b"witness", "q")
            self.client.acked_up_to_tags({self.count})


@pytest.fixture
def proxy(broker, make_proxy):
    return make_proxy(broker.url)


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), max(hard, FILES)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def lines_of(proxy, event):
    return len([found for found in proxy.events() if found["event"] == event])


def test_ten_thousand_idle_connections(broker, many_files, make_proxy):
    proxy = make_proxy(broker.url, {"listen.max_connections": IDLE + 10})
    witness = Witness(proxy)
    witness.publishes()
    before = proxy.resident_bytes()
    idle = []
    for number in range(IDLE):
        client = RawClient(proxy.port)
        client.open_channel()
        idle.append(client)
        if number % 1000 == 0:
            witness.publishes()
    assert (proxy.resident_bytes() - before) / IDLE < MOST_BYTES_PER_IDLE
    witness.publishes(10)
    for client in idle:
        client.socket.close()
    wait_until(lambda: lines_of(proxy, "client_closed") == IDLE,
               lambda: proxy.failure("every client that has gone is seen to have gone"))
    witness.publishes(10)
    Witness(proxy).publishes()
    assert lines_of(proxy, "client_refused") == 0


def test_half_open_handshakes_are_cut_off(broker, make_proxy):
    """A crowd that never says a word, or stops in the middle, is gone after its time."""
    proxy = make_proxy(broker.url, {"listen.handshake_timeout": "2s"})
    witness = Witness(proxy)
    crowd = []
    for number in range(500):
        client = RawClient(proxy.port, handshake=False)
        client.send((b"", b"AM", amqp.PROTOCOL_HEADER)[number % 3])
        crowd.append(client)
    witness.publishes(10)
    for client in crowd:
        while client.socket.recv(65536):
            pass
    witness.publishes()


def test_floods_of_refused_clients_do_not_flood_the_log(proxy):
    witness = Witness(proxy)
    for number in range(ROUNDS):
        client = RawClient(proxy.port)
        client.send(struct.pack(">BHI", 1, 1, 0xffffffff))  # a frame of 4 GiB
        assert client.expect("connection.close").args["reply_code"] == 501
        client.socket.close()
        if number % 100 == 0:
            witness.publishes()

    def told():
        return (lines_of(proxy, "client_refused")
                + sum(int(found["lines"]) for found in proxy.events()
                      if found["event"] == "log_suppressed" and found["of"] == "client_refused"))

    wait_until(lambda: told() == ROUNDS, lambda: proxy.failure(f"{told()} of {ROUNDS} are told"))
    suppressions = lines_of(proxy, "log_suppressed")
    assert suppressions > 0
    assert lines_of(proxy, "client_refused") <= 10 * (suppressions + 1)
    witness.publishes()


def test_channels_opened_and_closed_for_ever(proxy):
    witness = Witness(proxy)
    with RawClient(proxy.port) as client:
        def flood(count):
            client.send(b"".join(amqp.method_frame(channel, "channel.open")
                                 + amqp.method_frame(channel, "channel.close", reply_code=200,
                                                     reply_text="", class_id=0, method_id=0)
                                 for channel in range(1, count + 1)))
            for channel in range(1, count + 1):
                client.expect("channel.open-ok", channel)
                client.expect("channel.close-ok", channel)
        flood(2000)
        before = proxy.resident_bytes()
        for _ in range(5):
            flood(2000)
            witness.publishes()
        assert proxy.resident_bytes() - before < 8_000_000


@pytest.mark.parametrize("question", [
    amqp.method_frame(1, "basic.qos", prefetch_count=1),
    amqp.method_frame(0, "connection.update-secret", new_secret=b"guest")], ids=["qos", "secret"])
def test_method_flood_that_nobody_reads_the_answers_of(proxy, question):
    """Answers that are not taken stop the reading of questions."""
    witness = Witness(proxy)
    client = RawClient(proxy.port, receive_buffer=4096)
    client.open_channel()
    before = proxy.resident_bytes()
    question *= 1000
    client.socket.setblocking(False)
    sent = blocked = 0
    while sent < 400_000_000 and blocked < 20:
        try:
            sent += client.socket.send(question[sent % len(question):])
            blocked = 0
        except BlockingIOError:
            blocked += 1
            witness.publishes()
    assert blocked == 20, "it read on and on"
    assert proxy.resident_bytes() - before < 32_000_000
    client.socket.close()
    witness.publishes(10)


@pytest.mark.parametrize("beginning, word", [
    (b"AMQP\0\1\0\0", "another version"), (b"\x16\x03\x01\0\xc8\1\0\0", "TLS"), (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
    (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "send-proxy)"), (b"\r\n\r\n\0\r\nQUIT\n", "send-proxy-v2"),
    (b"Hello, you", "no header")])
def test_what_does_not_begin_as_amqp_is_named(proxy, beginning, word):
    """Whoever looks for what is wrong has amqpbuf's log, and hears nothing from the client's library."""
    with RawClient(proxy.port, handshake=False) as client:
        client.send(beginning)
        heard = b""
        with contextlib.suppress(ConnectionResetError):  # it has sent more than was read
            while got := client.socket.recv(100):
                heard += got
        assert heard in (amqp.PROTOCOL_HEADER, b"")
        named = proxy.wait_event("not_amqp")
    assert word in named["reason"] and named["peer"] == client.address


@pytest.mark.provokes("client_refused")
@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(proxy, seed):
    """At each step of the handshake, and behind it."""
    rng = random.Random(seed)
    witness = Witness(proxy)
    before = proxy.resident_bytes()
    for _ in range(ROUNDS):
        step = rng.randrange(4)
        client = RawClient(proxy.port, handshake=step == 3)
        if step == 3:
            client.open_channel()
        elif step:
            client.send(amqp.PROTOCOL_HEADER)
            client.expect("connection.start")
        frame_type = bytes([rng.choice([1, 2, 3, 8])]) if step else b""
        client.send(frame_type + rng.randbytes(rng.randrange(1, 200)))
        client.socket.shutdown(socket.SHUT_WR)
        try:
            while client.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass
        client.socket.close()
    witness.publishes(10)
    assert proxy.resident_bytes() - before < 32_000_000


PUBLISH = amqp.method_frame(1, "basic.publish", routing_key="q")
WRONG_ORDERS = {
    "a body without a header": (505, PUBLISH + amqp.frame(amqp.BODY, 1, b"x")),
    "a header without a method": (505, amqp.frame(amqp.HEADER, 1, amqp.header(1))),
    "a method in a body": (505, PUBLISH + amqp.frame(amqp.HEADER, 1, amqp.header(5))
                           + amqp.method_frame(1, "tx.select")),
    "a channel that is not open": (504, amqp.method_frame(9, "basic.publish", routing_key="q")),
    "a channel twice": (504, amqp.method_frame(1, "channel.open")),
    "a server's method": (503, amqp.method_frame(1, "channel.open-ok")),
    "tune-ok again": (504, amqp.method_frame(0, "connection.tune-ok", channel_max=1,
                                             frame_max=131072, heartbeat=0)),
}


@pytest.mark.parametrize("what", WRONG_ORDERS)
@pytest.mark.parametrize("offline", [False, True], ids=["live", "offline"])
def test_valid_frames_in_a_wrong_order(broker, proxy, what, offline):
    witness = Witness(proxy)
    if offline:
        broker.down()
        proxy.wait_event("upstream_lost")
    code, frames = WRONG_ORDERS[what]
    client = RawClient(proxy.port)
    client.open_channel()
    client.send(frames)
    assert client.expect("connection.close").args["reply_code"] == code
    client.socket.close()
    witness.publishes()
