"""Limits and deadlines, each from both sides: as much as they allow, and no more."""

import pytest

from support import amqp
from support.broker import FakeBroker
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until


@pytest.mark.parametrize("window", [1, 4])
def test_live_window_is_exact(broker, make_proxy, window):
    proxy = make_proxy(broker.url, {"pool.window": window, "pool.upstreams": 1})
    broker.acks = False
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel(confirms=True)
        other.open_channel()
        client.send(b"".join(amqp.publish_frames(1, b"%d" % n, routing_key="q")
                             for n in range(window + 6)))
        broker.wait_messages(window)
        # On the same connection, behind everything that the proxy has sent until now.
        other.call(1, "queue.declare", queue="q", durable=True)
        assert len(broker.messages) == window
        broker.acks = True
        upstream, channel = broker.connections[0], broker.messages[0].channel
        upstream.send_method(channel, "basic.ack", delivery_tag=window, multiple=True)
        client.acked_up_to(window + 6)
        client.close()
        other.close()


@pytest.mark.parametrize("window", [1, 4])
def test_drain_window_is_exact(broker, make_proxy, window):
    proxy = make_proxy(broker.url, {"drain.window": window})
    spool(broker, proxy, [b"%d" % n for n in range(window + 6)])
    broker.acks = False
    broker.up()
    broker.wait_messages(window)
    drain = next(connection for connection in broker.connections if connection.messages)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="q", durable=True)
        client.close()
    assert len(broker.messages) == window
    broker.acks = True
    drain.send_method(broker.messages[0].channel, "basic.ack", delivery_tag=window, multiple=True)
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(window + 6) == [b"%d" % n for n in range(window + 6)]


LARGE = bytes(100 * 1024)


def test_live_window_bytes_are_exact(broker, make_proxy):
    """An eighth is kept for destinations to which nothing is under way."""
    proxy = make_proxy(broker.url, {"pool.window": 1000, "pool.window_bytes": "1MiB",
                                    "pool.upstreams": 1})
    broker.acks = False
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel(confirms=True)
        other.open_channel(confirms=True)
        for _ in range(10):
            client.publish(LARGE, "q")
        broker.wait_messages(8)
        other.publish(LARGE, "other")
        other.publish(LARGE, "other")
        broker.wait_messages(9)
        with RawClient(proxy.port) as third:  # behind everything that was sent until now
            third.open_channel()
            third.call(1, "queue.declare", queue="q", durable=True)
            third.close()
        assert [message.args["routing_key"] for message in broker.messages] == ["q"] * 8 + ["other"]
        broker.acks = True
        for message in broker.messages[:9]:
            broker.connections[0].ack(message)
        client.acked_up_to(10)
        other.acked_up_to(2)
        client.close()
        other.close()


def test_one_that_is_larger_than_the_window_goes_alone(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.window_bytes": "64KiB", "pool.upstreams": 1})
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for _ in range(3):
            client.publish(LARGE, "q")
        for number in range(3):
            broker.wait_messages(number + 1)
            with RawClient(proxy.port) as other:
                other.open_channel()
                other.call(1, "queue.declare", queue="q", durable=True)
                other.close()
            assert len(broker.messages) == number + 1
            broker.connections[0].ack(broker.messages[number])
        client.acked_up_to(3)
        client.close()


@pytest.mark.parametrize("confirms", ["auto", "off"])
def test_drain_window_bytes_are_exact(broker, make_proxy, confirms):
    proxy = make_proxy(broker.url, {"pool.window_bytes": "1MiB", "drain.confirms": confirms})
    bodies = [b"%02d" % n + LARGE for n in range(24)]
    spool(broker, proxy, bodies)
    broker.acks = False
    broker.silent_on = {"channel.close"}
    broker.up()
    broker.wait_messages(10)
    drain = next(connection for connection in broker.connections if connection.messages)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="q", durable=True)
        client.die()
    assert len(broker.messages) == 10
    broker.acks = True
    broker.silent_on = set()
    if confirms == "auto":
        drain.send_method(broker.messages[0].channel, "basic.ack", delivery_tag=10, multiple=True)
    else:
        drain.send_method(broker.messages[0].channel, "channel.close-ok")
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(24) == bodies


def test_a_message_larger_than_the_window_is_drained(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.window_bytes": "64KiB"})
    bodies = [b"%02d" % n + LARGE for n in range(5)]
    spool(broker, proxy, bodies)
    broker.up()
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(5) == bodies
    batches = [int(event["messages"]) for event in proxy.events("drain_sent")]
    assert batches == [1] * 5


def test_drain_rate(broker, make_proxy):
    """Every tick of a quarter of a second gives tokens; no batch is larger than those of one."""
    proxy = make_proxy(broker.url, {"drain.rate": 20})
    spool(broker, proxy, [b"%d" % n for n in range(24)])
    broker.up()
    proxy.wait_event("drain_finished")
    batches = [int(event["messages"]) for event in proxy.events("drain_sent")]
    assert sum(batches) == 24 and max(batches) <= 6, batches


@pytest.mark.provokes("client_refused")
@pytest.mark.parametrize("before", ["connection.start", "connection.tune", "connection.open-ok"])
def test_silent_handshake_ends_with_connect_timeout(broker, make_proxy, before):
    broker.silent_before = before
    proxy = make_proxy(broker.url, {"upstream.connect_timeout": "300ms"})
    client = RawClient(proxy.port, handshake=False)
    client.start_ok("guest", "guest")
    assert "connect_timeout" in proxy.wait_event("upstream_failed", timeout=20)["reason"]
    client.die()
    broker.silent_before = None


@pytest.mark.parametrize("method", ["channel.open", "confirm.select", "channel.close"])
def test_drain_that_gets_no_answer_is_given_up_and_tried_again(broker, make_proxy, method):
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "1s"})
    spool(broker, proxy, [b"one"])
    broker.silent_on = {method}
    broker.up()
    assert "the drain" in proxy.wait_event("upstream_lost", 2, timeout=20)["reason"]
    broker.silent_on = set()
    if method != "channel.close":  # then the message was confirmed, and nothing is left to drain
        proxy.wait_event("drain_finished")
    proxy.wait_empty()
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"live again", "q")
        client.acked_up_to(1)
        client.close()
    assert broker.messages[-1].body == b"live again"


def delays(proxy):
    return [int(event["ms"]) for event in proxy.events("retry_scheduled")]


def test_back_off_doubles_and_starts_again_after_success(broker, make_proxy):
    proxy = make_proxy(broker.url, {"upstream.reconnect_min": "20ms",
                                    "upstream.reconnect_max": "320ms"})
    with RawClient(proxy.port) as client:
        broker.down()
        wait_until(lambda: len(delays(proxy)) >= 7, "seven tries")
        expected = [20, 40, 80, 160, 320, 320, 320]
        assert all(want * 3 // 4 <= got <= want * 5 // 4
                   for want, got in zip(expected, delays(proxy))), delays(proxy)
        assert max(delays(proxy)) <= 320
        broker.up()
        proxy.wait_event("upstream_connected", 2)
        tries = len(delays(proxy))
        for connection in broker.open_connections():
            connection.die()
        wait_until(lambda: len(delays(proxy)) > tries, "another try")
        assert 15 <= delays(proxy)[tries] <= 25, delays(proxy)
        client.close()


def test_broker_that_is_silent_for_two_heartbeats_is_given_up(make_proxy):
    with FakeBroker(heartbeat=1) as broker:  # which never sends one
        proxy = make_proxy(broker.url, {"upstream.heartbeat": "1s"})
        with RawClient(proxy.port) as client:
            assert "heartbeats" in proxy.wait_event("upstream_lost")["reason"]
            assert broker.connections[0].heartbeats >= 1
            client.close()


def test_client_that_is_silent_for_two_heartbeats_is_closed(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, heartbeat=1) as client:
        beats = 0
        while (frame := client.stream.read()) is not None:
            beats += frame.type == amqp.HEARTBEAT
        assert beats >= 2
    assert len(proxy.events("heartbeat_missed")) == 1


def test_a_new_destination_finds_no_more_bytes_than_there_are(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.upstreams": 1, "pool.window_bytes": "64KiB"})
    broker.acks = False
    clients = [RawClient(proxy.port) for _ in range(3)]
    for client in clients:
        client.open_channel(confirms=True)
    clients[0].publish(bytes(50000), "a")
    broker.wait_messages(1)
    clients[1].publish(bytes(1000000), "b")
    clients[2].publish(bytes(10), "c")
    broker.wait_messages(2)
    clients[2].call(1, "queue.declare", queue="q", durable=True)
    assert [len(message.body) for message in broker.messages] == [50000, 10]
    for message in broker.messages[:]:
        broker.connections[0].ack(message)
    broker.wait_messages(3)
    broker.connections[0].ack(broker.messages[2])
    for client in clients:
        client.acked_up_to(1) if client is not clients[2] else None
        client.die()
