"""Every limit gives a clear AMQP error, or the end of the connection, and hurts nobody else."""

import datetime
import resource
import socket
import struct

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until


def started(port):
    """A raw client that has read connection.start."""
    client = RawClient(port, handshake=False)
    client.send(amqp.PROTOCOL_HEADER)
    client.expect("connection.start")
    return client


@pytest.mark.parametrize("how_far", ["nothing", "half a header", "half a start-ok", "no open"])
def test_slow_handshake_is_cut_off(broker, make_proxy, how_far):
    proxy = make_proxy(broker.url, {"listen.handshake_timeout": "500ms"})
    client = RawClient(proxy.port, handshake=False)
    if how_far == "half a header":
        client.send(b"AMQP")
    elif how_far == "half a start-ok":
        client.send(amqp.PROTOCOL_HEADER)
        client.expect("connection.start")
        client.send(amqp.method_frame(0, "connection.start-ok", mechanism="PLAIN")[:12])
    elif how_far == "no open":
        client.begin("guest", "guest")
        client.tune_ok()
    assert client.read() is None
    RawClient(proxy.port).close()


def comes_in(proxy):
    try:
        RawClient(proxy.port).close()
    except (AssertionError, OSError):
        return False
    return True


def test_max_connections(broker, make_proxy):
    proxy = make_proxy(broker.url, {"listen.max_connections": 2})
    first, second = RawClient(proxy.port), RawClient(proxy.port)
    third = RawClient(proxy.port, handshake=False)
    try:
        third.send(amqp.PROTOCOL_HEADER)
        answer = third.read()
    except OSError:  # it was closed already
        answer = None
    assert answer is None, "no connection.start"
    first.open_channel(confirms=True)
    first.publish(b"x", "q")
    first.acked_up_to(1)
    second.close()

    wait_until(lambda: comes_in(proxy), "a place is free again")
    first.close()


def test_file_descriptors(broker, make_watched):
    """Clients cannot take those that the spool, RabbitMQ's connections and who asks need."""
    proxy, admin = make_watched(broker.url)
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (184, 184))
    witness = RawClient(proxy.port)
    witness.open_channel(confirms=True)
    crowd = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(200)]
    proxy.wait_event("connection_refused")
    for _ in range(40):
        crowd.append(socket.create_connection(("127.0.0.1", admin.port)))
        crowd.append(socket.socket(socket.AF_UNIX))
        crowd[-1].connect(str(proxy.spool / "control.sock"))
    assert admin.get("/healthz")
    assert proxy.descriptors() < 184
    witness.publish(b"live", "q")
    witness.acked_up_to_tags({1})
    broker.down()
    proxy.wait_event("buffering_started")
    witness.publish(b"offline", "q")
    witness.acked_up_to_tags({2})
    broker.up()
    broker.wait_messages(2)
    assert not proxy.events("accept_failed")
    for connection in crowd:
        connection.close()
    wait_until(lambda: comes_in(proxy), "there are descriptors again")


class Limited:
    """Starts it with so many descriptors, as a service manager would."""

    def __init__(self, limit):
        self.limit = limit

    def command(self, program):
        return ["prlimit", f"--nofile={self.limit}:{self.limit}", *program]

    def descriptors(self):
        return ()


@pytest.mark.provokes("descriptors_short")
def test_a_start_without_descriptors_for_clients_fails(broker, make_proxy):
    proxy = make_proxy(broker.url, start=False)
    proxy.begin(Limited(135))
    assert proxy.wait_status() == 1
    assert proxy.events("descriptors_short") and not proxy.events("listening")


def test_few_descriptors_are_told_at_the_start(broker, make_proxy):
    proxy = make_proxy(broker.url, {"listen.max_connections": 100}, start=False)
    proxy.start(Limited(136))
    assert proxy.events("descriptors_few")[0]["clients"] == "8"
    assert comes_in(proxy)
    proxy.term()
    proxy.start(Limited(228))
    assert proxy.events("descriptors_few") == []


def test_descriptors_of_connections_that_are_being_opened(broker, make_proxy):
    """Each of these queues dials a RabbitMQ that says nothing."""
    proxy = make_proxy(broker.url, {"upstream.connect_timeout": "60s"})
    publishers = [RawClient(proxy.port, user=f"user{number}") for number in range(100)]
    broker.down()
    proxy.wait_event("buffering_started", 100)
    for publisher in publishers:
        publisher.open_channel(confirms=True)
        publisher.publish(b"waits", "q")
        publisher.acked_up_to(1)
        publisher.close()
    broker.silent_before = "connection.start"
    broker.up()
    wait_until(lambda: len(broker.connections) >= 200, "they dial")
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (256, 256))
    crowd = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(200)]
    proxy.wait_event("connection_refused")
    assert proxy.descriptors() < 256 - 64
    assert not proxy.events("accept_failed")
    for connection in crowd:
        connection.close()


@pytest.mark.parametrize("offline", [False, True])
def test_max_message_size(broker, make_proxy, offline):
    """The largest passes; one byte more closes its channel alone, at the header already."""
    proxy = make_proxy(broker.url, {"spool.max_message_size": "64KiB"})
    RawClient(proxy.port).close()
    if offline:
        broker.down()
        proxy.wait_event("upstream_lost")
    with RawClient(proxy.port) as client:
        client.open_channel(1, confirms=True)
        client.open_channel(2)
        client.publish(b"x" * 65536, "q")
        client.acked_up_to(1)
        client.send_method(2, "basic.publish", routing_key="q")
        client.send(amqp.frame(amqp.HEADER, 2, amqp.header(65537)))
        close = client.expect("channel.close", 2).args
        assert close["reply_code"] == 406 and "max_message_size" in close["reply_text"]
        client.send_method(2, "channel.close-ok")
        client.publish(b"after", "q")
        client.acked_up_to_tags({2})
        client.close()
    if offline:
        broker.up()
    assert [len(body) for body in broker.wait_messages(2)] == [65536, 5]


def test_header_that_announces_everything(broker, make_proxy):
    """No memory is taken on a header's word."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        before = proxy.resident_bytes()
        for size in (1 << 62, (1 << 64) - 1, (128 << 20) + 1):
            client.send_method(1, "basic.publish", routing_key="q")
            client.send(amqp.frame(amqp.HEADER, 1, amqp.header(size)))
            assert client.expect("channel.close", 1).args["reply_code"] == 406
            client.send_method(1, "channel.close-ok")
            client.open_channel()
        client.send_method(1, "basic.publish", routing_key="q")
        client.send(amqp.frame(amqp.HEADER, 1, amqp.header(128 << 20)))
        client.open_channel(2)
        assert proxy.resident_bytes() - before < 16_000_000
        client.die()


def test_deeply_nested_table(broker, make_proxy):
    proxy = make_proxy(broker.url)
    table = b""
    for _ in range(10000):
        table = b"\x01kF" + struct.pack(">I", len(table)) + table
    properties = struct.pack(">H", 0x2000) + struct.pack(">I", len(table)) + table
    with RawClient(proxy.port) as other:
        other.open_channel(confirms=True)
        client = RawClient(proxy.port)
        client.open_channel()
        client.send_method(1, "basic.publish", routing_key="q")
        client.send(amqp.frame(amqp.HEADER, 1, amqp.header(0, properties)))
        client.expect_close(502)
        other.publish(b"x", "q")
        other.acked_up_to(1)
        other.close()


@pytest.mark.parametrize("frame_max,channel_max", [(100, 2047), (4095, 2047), (200000, 2047),
                                                   (131072, 4000)])
def test_tuning_out_of_bounds(broker, make_proxy, frame_max, channel_max):
    client = RawClient(make_proxy(broker.url).port, handshake=False)
    client.begin("guest", "guest")
    client.tune_ok(frame_max, channel_max)
    client.expect_close(530)


def test_channel_number_above_the_negotiated(broker, make_proxy):
    client = RawClient(make_proxy(broker.url).port, channel_max=5)
    client.open_channel(5)
    client.send_method(6, "channel.open")
    client.expect_close(530)


@pytest.mark.parametrize("mechanism,response,code", [
    ("EXTERNAL", b"", 503), ("PLAIN", b"guest", 403), ("PLAIN", b"", 403),
    ("PLAIN", b"admin\0guest\0guest", 403), ("PLAIN", b"guest\0guest\0guest", 403),
    ("PLAIN", b"\0guest", 403), ("PLAIN", b"\0guest\0guest\0more", 403),
    ("AMQPLAIN", b"\x05LOGIN", 403), ("AMQPLAIN", b"", 403)])
def test_unreadable_logins(broker, make_proxy, mechanism, response, code):
    client = started(make_proxy(broker.url).port)
    capabilities = {"capabilities": {"authentication_failure_close": True}}
    client.send_method(0, "connection.start-ok", mechanism=mechanism, response=response,
                       client_properties=capabilities)
    client.expect_close(code)


def test_an_unreadable_login_of_who_expects_no_answer(broker, make_proxy):
    """It sees the end of its connection, as from RabbitMQ."""
    client = started(make_proxy(broker.url).port)
    client.send_method(0, "connection.start-ok", mechanism="PLAIN", response=b"guest")
    assert client.read() is None


def test_back_off_between_tries(broker, make_proxy):
    """Tries double their distance from reconnect_min to reconnect_max, with a quarter of jitter."""
    proxy = make_proxy(broker.url, {"upstream.reconnect_min": "100ms",
                                    "upstream.reconnect_max": "800ms"})
    with RawClient(proxy.port):  # somebody must want the connection
        broker.down()
        proxy.wait_event("upstream_failed", 5)
    times = [_seconds(event["ts"]) for event in proxy.events("upstream_failed")[:5]]
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    for gap, delay in zip(gaps, (0.1, 0.2, 0.4, 0.8)):
        assert gap >= 0.7 * delay, gaps


def _seconds(stamp):
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
