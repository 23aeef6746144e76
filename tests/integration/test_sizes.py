"""Sizes that a peer chooses: long secrets, long declarations, any frame_max of either side. None of
them ends the process; what does not fit is refused or set aside, and said."""

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until


def filled(size):
    """A table whose one string is `size` bytes long."""
    return amqp.short_string("x") + b"S" + amqp.long_string(b"y" * size)


def publishes(proxy, body):
    """One more client comes in and is served."""
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.publish(body, "q")
    client.acked_up_to(1)
    client.close()


@pytest.mark.parametrize("size", [4000, 4084, 4085, 5000, 60000, 131000])
def test_long_secret(broker, make_proxy, size):
    """A token of any length that a frame can carry."""
    proxy = make_proxy(broker.url)
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.send_method(0, "connection.update-secret", new_secret="t" * size, reason="rotation")
    client.expect("connection.update-secret-ok", 0)
    client.publish(b"after", "q")
    client.acked_up_to(1)
    client.close()
    assert broker.wait_messages(1) == [b"after"]


def test_secret_that_fits_no_frame_of_an_older_connection(broker, make_proxy):
    """It was opened when RabbitMQ's frame_max was smaller: that connection keeps its old secret."""
    broker.frame_max = 4096
    proxy = make_proxy(broker.url)
    consumer = RawClient(proxy.port)
    consumer.open_channel()
    consumer.call(1, "basic.consume", queue="q", consumer_tag="c")  # on a connection of its own
    old = list(broker.open_connections())
    broker.frame_max = 131072
    shared = next(c for c in old if c.sequence() == [])
    shared.die()
    wait_until(lambda: len(proxy.events("upstream_connected")) == 3, "the shared one is back")
    client = RawClient(proxy.port)
    client.send_method(0, "connection.update-secret", new_secret="t" * 5000, reason="rotation")
    client.expect("connection.update-secret-ok", 0)
    client.open_channel(confirms=True)
    client.publish(b"after", "q")
    client.acked_up_to(1)
    client.close()
    consumer.call(1, "basic.qos", prefetch_count=1)
    consumer.close()


@pytest.mark.parametrize("frame_max", [1 << 20, 0xFFFFFFFF])
@pytest.mark.parametrize("what", ["live", "offline"])
def test_declaration_longer_than_an_ordinary_buffer(broker, make_proxy, frame_max, what):
    broker.frame_max = frame_max
    proxy = make_proxy(broker.url)
    publishes(proxy, b"first")  # from here on the proxy offers this frame_max
    client = RawClient(proxy.port)
    client.open_channel()
    client.call(1, "queue.declare", queue="known")
    size = 300000
    if what == "live":  # rewritten, for it names no queue
        client.call(1, "queue.bind", exchange="e", routing_key="k", arguments=filled(size))
    else:
        broker.down()
        proxy.wait_event("buffering_started")
        client.call(1, "queue.declare", queue="long", arguments=filled(size))
        broker.up()
        proxy.wait_event("drain_finished")
    client.close()
    declared = [frame for connection in broker.connections for frame in connection.frames
                if len(frame.payload) > size]
    assert [frame.name for frame in declared] == [
        "queue.bind" if what == "live" else "queue.declare"]
    assert filled(size) in declared[0].payload
    assert declared[0].args["queue"] == ("known" if what == "live" else "long")


def test_declaration_that_no_longer_fits(broker, make_proxy):
    """RabbitMQ comes back with a smaller frame_max: that record is rejected, the others go out."""
    broker.frame_max = 1 << 20
    proxy = make_proxy(broker.url)
    publishes(proxy, b"first")
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    broker.down()
    proxy.wait_event("buffering_started")
    client.call(1, "queue.declare", queue="long", arguments=filled(300000))
    client.publish(b"behind it", "q")
    client.acked_up_to(1)
    broker.frame_max = 131072
    broker.up()
    assert broker.wait_messages(2) == [b"first", b"behind it"]
    proxy.wait_empty()
    assert proxy.wait_event("message_rejected")["code"] == "501"
    client.close()


def test_frame_max_below_the_least(broker, make_proxy):
    """A broker that no client may talk to (4.2.8) is one that is away; nothing is lost."""
    proxy = make_proxy(broker.url)
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.publish(b"live", "q")
    client.acked_up_to_tags({1})
    broker.down()
    proxy.wait_event("buffering_started")
    client.publish(b"offline", "q")
    client.acked_up_to_tags({2})
    broker.frame_max = 2048
    broker.up()
    wait_until(lambda: any("frame_max" in event["reason"]
                           for event in proxy.events("upstream_failed")), "the reason is said")
    publishes(proxy, b"still offline")
    broker.frame_max = 4096
    broker.wait_messages(3)
    proxy.wait_empty()
    client.close()


def test_empty_routing_keys_of_a_transaction_hold_little(broker, make_proxy):
    """Each of these publishes is rewritten; none may keep a whole buffer for that."""
    proxy = make_proxy(broker.url, {"listen.max_memory": "8MiB", "spool.max_message_size": "1MiB"})
    client = RawClient(proxy.port)
    client.open_channel()
    client.call(1, "queue.declare", queue="known")
    broker.down()
    proxy.wait_event("buffering_started")
    client.call(1, "tx.select")
    for _ in range(500):
        client.publish(b"x", "")
    client.call(1, "tx.commit")
    client.close()
    assert proxy.waiting() == 500
