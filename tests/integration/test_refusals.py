"""What RabbitMQ refuses while live, and what a close waits for, against a scripted broker."""

import select
import threading

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until


def arrived(broker, count):
    """The broker has taken `count` messages; the connection they came on, and their channel."""
    wait_until(lambda: len(broker.messages) == count,
               lambda: f"{count} messages, got {len(broker.messages)}")
    return broker.connections[-1], broker.messages[-1].channel


def test_nack_that_nobody_hears_of_is_tried_again(broker, make_proxy):
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel()
        for body in (b"one", b"two", b"three"):
            client.publish(body, "q")
        connection, channel = arrived(broker, 3)
        broker.acks = True
        connection.send_method(channel, "basic.nack", delivery_tag=2)
        connection.send_method(channel, "basic.nack", delivery_tag=1)
        connection.send_method(channel, "basic.ack", delivery_tag=3)
        client.close()  # is answered once they are in the spool
    assert sorted(broker.wait_messages(5)[3:]) == [b"one", b"two"]
    wait_until(lambda: proxy.waiting() == 0, lambda: proxy.failure("all is taken"))
    assert proxy.dump("--rejected") == []


def test_nack_for_a_client_that_is_gone(broker, make_proxy):
    """It is tried again, and kept as rejected when RabbitMQ goes on nacking it."""
    proxy = make_proxy(broker.url, {"drain.nack_limit": 2})
    broker.acks = False
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.publish(b"orphan", "q")
    connection, channel = arrived(broker, 1)
    client.die()
    proxy.wait_event("client_closed")
    broker.on_message = lambda connection, message: connection.nack(message)
    connection.send_method(channel, "basic.nack", delivery_tag=1, multiple=True)
    proxy.wait_event("message_rejected")
    rejected = proxy.dump("--rejected")
    assert [(r["body"], r["rejected"]["code"]) for r in rejected] == [("orphan", 0)]
    assert len(broker.messages) == 3


def test_nack_goes_to_the_client_that_asked_for_confirms(broker, make_proxy):
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        other.open_channel(confirms=True)
        client.open_channel(confirms=True)
        client.publish(b"one", "q")
        client.publish(b"two", "q")
        connection, channel = arrived(broker, 2)
        connection.send_method(channel, "basic.nack", delivery_tag=1)
        connection.send_method(channel, "basic.ack", delivery_tag=2)
        assert client.expect("basic.nack", 1).args["delivery_tag"] == 1
        client.acked_up_to_tags({2})
        client.close()
        other.close()
    assert proxy.dump("--rejected") == []


@pytest.mark.parametrize("mixed", [False, True])
def test_an_exchange_that_is_not_there(broker, make_proxy, mixed):
    """RabbitMQ takes none of what goes there: all of it is rejected at once, and the other publishers
    of this login stay live. What went elsewhere behind it, and was thrown away, goes out."""
    proxy = make_proxy(broker.url)
    sent = threading.Event()

    def refuse(connection, message):
        if message.args["exchange"] != "missing":
            return connection.ack(message)
        assert sent.wait(60)
        connection.send_method(message.channel, "channel.close", reply_code=404, class_id=60,
                               reply_text="NOT_FOUND - no exchange 'missing' in vhost '/'",
                               method_id=40)
        while connection._read().name != "channel.close-ok":
            pass  # what was sent behind it is thrown away
        connection._partial.clear()

    broker.on_message = refuse
    with RawClient(proxy.port) as client:
        client.open_channel()
        for number in range(10):
            client.publish(b"bad %d" % number, "q", exchange="missing")
            if mixed:
                client.publish(b"good %d" % number, "q")
        client.send_method(0, "connection.close", reply_code=200, reply_text="bye")
        with RawClient(proxy.port) as other:  # a round trip: the close was read
            other.close()
        sent.set()
        client.expect("connection.close-ok", 0)
    bad = [f"bad {number}" for number in range(10)]
    wait_until(lambda: [r["body"] for r in proxy.dump("--rejected")] == bad,
               lambda: proxy.failure("all to the missing exchange are rejected"))
    if mixed:
        proxy.wait_empty()
        assert [m.body for m in broker.messages if m.body.startswith(b"good")] == [
            b"good %d" % number for number in range(10)]
    assert len([m for m in broker.messages if m.body.startswith(b"bad")]) == 1
    assert len(proxy.events("drain_started")) == (1 if mixed else 0)
    assert {r["rejected"]["code"] for r in proxy.dump("--rejected")} == {404}


@pytest.mark.parametrize("ending", ["channel.close", "connection.close"])
@pytest.mark.parametrize("waits", ["yes", "no"])
def test_close_waits(broker, make_proxy, waits, ending):
    proxy = make_proxy(broker.url, {"pool.close_waits": waits})
    broker.acks = False
    number = 1 if ending == "channel.close" else 0
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"one", "q")
        connection, channel = arrived(broker, 1)
        client.send_method(number, ending, reply_code=200)
        if waits == "yes":
            with RawClient(proxy.port) as other:  # the proxy has seen the close by then
                other.close()
            assert select.select([client.socket], [], [], 0)[0] == []
            connection.send_method(channel, "basic.ack", delivery_tag=1)
        client.expect(f"{ending}-ok", number)


def test_exception_after_connection_close(broker, make_proxy):
    """The client waits for connection.close-ok and hears of nothing else: what RabbitMQ threw away
    behind the bad message goes out, the bad one is kept as rejected."""
    proxy = make_proxy(broker.url)
    closing = threading.Event()
    bad = [1]

    def refuse(connection, frame):
        if frame.type != amqp.BODY or frame.payload != b"bad":
            return False
        if bad:  # only once all is there: RabbitMQ is slow today
            bad.clear()
            assert closing.wait(60)
        connection.send_method(frame.channel, "channel.close", reply_code=404,
                               reply_text="NOT_FOUND - scripted", class_id=60, method_id=40)
        while connection._read().name != "channel.close-ok":
            pass  # what was sent behind it is thrown away
        connection._partial.clear()
        return True

    broker.on_frame = refuse
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"bad", "q")
        for number in range(20):
            client.publish(b"%d" % number, "q")
        client.send_method(0, "connection.close", reply_code=200, reply_text="bye")
        with RawClient(proxy.port) as other:  # a round trip: the close was read
            other.close()
        closing.set()
        client.expect("connection.close-ok", 0)
    wait_until(lambda: len({message.body for message in broker.messages}) == 20,
               lambda: proxy.failure("the good ones arrive"))
    assert [message.body for message in broker.messages] == [b"%d" % n for n in range(20)]
    wait_until(lambda: [r["body"] for r in proxy.dump("--rejected")] == ["bad"], "it is kept")
