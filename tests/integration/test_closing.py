"""Each close is owed a close-ok, and two may cross: on channels and connections, towards the client
and towards RabbitMQ. A number is free only when nothing is owed, and nothing stands in a message."""

import select
import struct
import threading

import pytest

from support import amqp
from support.broker import FakeBroker
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until

TOO_LARGE = 1 << 40  # announced in a content header; above spool.max_message_size


def round_trip(proxy):
    """The proxy has read everything that was sent to it before."""
    with RawClient(proxy.port) as other:
        other.close()


def arrived(broker, count=1):
    wait_until(lambda: len(broker.messages) >= count, "the messages at the broker")
    message = broker.messages[-1]
    connection = next(c for c in broker.connections if message in c.messages)
    return connection, message.channel


def send_close(client, channel=1):
    """Of the connection, on 0."""
    method = "channel.close" if channel else "connection.close"
    client.send_method(channel, method, reply_code=200, reply_text="bye")


def works(client, channel=1):
    """The number can be used again, and the connection is well."""
    client.open_channel(channel, confirms=True)
    client.publish(b"after", "q", channel)
    assert client.expect("basic.ack", channel).args["delivery_tag"] == 1


def expect_refusal(client, code, channel=1):
    assert client.expect("channel.close", channel).args["reply_code"] == code


@pytest.mark.parametrize("first", ["the client's", "RabbitMQ's"])
@pytest.mark.parametrize("answered", ["before", "after"])
def test_exception_crosses_the_clients_close(broker, make_proxy, first, answered):
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(1)
        client.publish(b"bad", "q")
        connection, channel = arrived(broker)
        if first == "the client's":
            send_close(client)
            round_trip(proxy)
        connection.close_channel(channel, 404, "NOT_FOUND - scripted")
        if first != "the client's":
            proxy.wait_event("channel_refused")
            send_close(client)
        if answered == "after":
            expect_refusal(client, 404)
            client.expect("channel.close-ok", 1)
            client.send_method(1, "channel.close-ok")
        else:
            expect_refusal(client, 404)
            client.send_method(1, "channel.close-ok")
            client.expect("channel.close-ok", 1)
        broker.acks = True
        works(client)
        client.close()
    assert not proxy.events("upstream_lost") and not proxy.events("client_refused")


def test_exception_crosses_a_close_that_rabbitmq_has_to_answer(broker, make_proxy):
    """The channel's consumer had acked what it never got; both ends of the channel are closing."""
    proxy = make_proxy(broker.url)
    crossed = []

    def cross(connection, frame):
        if frame.name != "channel.close" or crossed:
            return False
        crossed.append((connection, frame.channel))
        connection.close_channel(frame.channel, 406, "PRECONDITION_FAILED - scripted")
        return True

    broker.on_frame = cross
    with RawClient(proxy.port) as client:
        client.open_channel(1)
        client.call(1, "basic.consume", queue="q")
        send_close(client)
        expect_refusal(client, 406)
        client.expect("channel.close-ok", 1)
        client.send_method(1, "channel.close-ok")
        # RabbitMQ's own close-ok is still to come: the number is not given to the next channel.
        connection, channel = crossed[0]
        client.open_channel(1)
        client.call(1, "basic.consume", queue="q")
        taken = [f.channel for f in connection.frames if f.name == "channel.open"]
        assert len(taken) == 2 and channel == taken[0] != taken[1]
        connection.send_method(channel, "channel.close-ok")
        client.call(1, "basic.qos", prefetch_count=1)
        client.open_channel(2)
        client.call(2, "basic.consume", queue="q")
        assert [f.channel for f in connection.frames if f.name == "channel.open"][2] == channel
        client.close()


@pytest.mark.parametrize("own", [False, True])
def test_close_ok_that_nobody_asked_for_ends_nothing(broker, make_proxy, own):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel(1, confirms=True)
        if own:
            client.call(1, "basic.consume", queue="q")
        client.publish(b"one", "q")
        client.acked_up_to(1)
        connection, channel = arrived(broker)
        connection.send_method(channel, "channel.close-ok")
        client.publish(b"two", "q")
        client.acked_up_to_tags({2})
        assert broker.messages[-1].channel == channel
        client.close()


def test_messages_that_come_while_a_channel_closes_are_whole(broker, make_proxy):
    proxy = make_proxy(broker.url)
    closing = threading.Event()

    def last_words(connection, frame):
        if frame.name != "channel.close":
            return False
        content = amqp.content_frames(frame.channel, b"m" * 1000, frame_max=508)
        deliver = amqp.method_frame(frame.channel, "basic.deliver", consumer_tag="consumer",
                                    delivery_tag=2)
        connection.send(content[-508:] + deliver + content)
        closing.set()
        return False

    broker.on_frame = last_words
    with RawClient(proxy.port) as client:
        client.open_channel(1)
        client.call(1, "basic.consume", queue="q")
        connection = broker.connections[-1]
        channel = next(f.channel for f in connection.frames if f.name == "basic.consume")
        content = amqp.content_frames(channel, b"m" * 1000, frame_max=508)
        connection.send(amqp.method_frame(channel, "basic.deliver", consumer_tag="consumer",
                                          delivery_tag=1) + content[:-508])
        client.expect("basic.deliver", 1)
        send_close(client)
        assert closing.wait(60)
        seen = [str(client.read()) for _ in range(7)]
        message = ["1:header(1000)", "1:body(500)", "1:body(500)"]
        assert seen == message + ["1:basic.deliver"] + message
        client.expect("channel.close-ok", 1)
        broker.on_frame = None
        works(client)
        client.close()


def begin_delivery(broker, client):
    """Half a message for the consumer; the rest of it is returned, for later."""
    client.open_channel(1, confirms=True)
    client.call(1, "basic.consume", queue="q")
    connection = broker.connections[-1]
    channel = next(f.channel for f in connection.frames if f.name == "basic.consume")
    content = amqp.content_frames(channel, b"m" * 1000, frame_max=508)
    connection.send(amqp.method_frame(channel, "basic.deliver", consumer_tag="consumer",
                                      delivery_tag=1) + content[:-508])
    client.expect("basic.deliver", 1)
    client.read(), client.read()
    return connection, content[-508:]


@pytest.mark.parametrize("crossing", [False, True])
def test_the_proxys_own_error_waits_for_the_end_of_a_message(broker, make_proxy, crossing):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        connection, rest = begin_delivery(broker, client)
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(TOO_LARGE)))
        if crossing:
            send_close(client)
        round_trip(proxy)
        connection.send(rest)
        assert str(client.read()) == "1:body(500)"
        expect_refusal(client, 406)
        if crossing:
            client.expect("channel.close-ok", 1)
        client.send_method(1, "channel.close-ok")
        works(client)
        client.close()


def test_an_upstream_lost_in_the_middle_of_a_message(broker, make_proxy):
    """What the client has got of it cannot be completed: its connection ends, with a reason."""
    proxy = make_proxy(broker.url)
    client = RawClient(proxy.port)
    connection, _ = begin_delivery(broker, client)
    client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                amqp.frame(amqp.HEADER, 1, amqp.header(TOO_LARGE)))
    round_trip(proxy)
    connection.die()
    client.expect_close(320)


@pytest.mark.parametrize("state", ["settling", "closing", "refusing", "refused"])
def test_channel_opened_before_it_is_closed(broker, make_proxy, state):
    proxy = make_proxy(broker.url)
    broker.acks = state not in ("settling", "refused")
    broker.silent_on = {"channel.close"}
    client = RawClient(proxy.port)
    if state == "refusing":
        begin_delivery(broker, client)
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(TOO_LARGE)))
    else:
        client.open_channel(1)
        if state == "closing":
            client.call(1, "basic.consume", queue="q")
        else:
            client.publish(b"one", "q")
            connection, channel = arrived(broker)
        if state == "refused":
            connection.close_channel(channel, 404, "NOT_FOUND - scripted")
            expect_refusal(client, 404)
        else:
            send_close(client)
    client.send_method(1, "channel.open")
    assert client.expect_close(504) == "CHANNEL_ERROR - second 'channel.open' seen"


def test_close_ok_of_a_client_that_was_asked_nothing(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as other:
        other.open_channel(confirms=True)
        client = RawClient(proxy.port)
        client.open_channel()
        client.send_method(1, "channel.close-ok")
        client.expect_close(503)
        other.publish(b"x", "q")
        other.acked_up_to(1)
        other.close()
    assert len(broker.connections) == 1


def test_close_ok_before_the_error_of_the_connection_was_sent(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send(amqp.method_frame(1, "channel.open") +
                    amqp.method_frame(0, "connection.close-ok"))
        assert client.expect("connection.close", 0).args["reply_code"] == 504
        assert client.read() is None


@pytest.mark.parametrize("first", ["close", "close-ok"])
def test_error_of_the_connection_crosses_its_close(broker, make_proxy, first):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "channel.open")  # 504
        if first == "close":
            client.send_method(0, "connection.close", reply_code=200)
            assert client.expect("connection.close", 0).args["reply_code"] == 504
            client.expect("connection.close-ok", 0)
            client.send_method(0, "connection.close-ok")
        else:
            assert client.expect("connection.close", 0).args["reply_code"] == 504
            client.send_method(0, "connection.close-ok")
        assert client.read() is None


def test_upstream_lost_while_connection_close_waits(broker, make_proxy):
    """Nothing is buffered: what was not confirmed is lost, and that is said before the end."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0})
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"lost", "q")
        connection, _ = arrived(broker)
        client.send_method(0, "connection.close", reply_code=200)
        round_trip(proxy)
        connection.die()
        assert client.expect("connection.close", 0).args["reply_code"] == 320
        client.expect("connection.close-ok", 0)
        client.send_method(0, "connection.close-ok")
        assert client.read() is None


@pytest.mark.parametrize("buffer", [0, 1000])
def test_refused_call_while_connection_close_waits(broker, make_proxy, buffer):
    """RabbitMQ refuses a declaration behind which nothing was published: nothing has to be saved, so
    the client hears of it, and the close is answered all the same."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": buffer})
    asked = []

    def hold(connection, frame):
        if frame.name != "queue.bind":
            return False
        asked.append((connection, frame.channel))
        return True

    broker.on_frame = hold
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "queue.bind", queue="q", exchange="nowhere")
        client.send_method(0, "connection.close", reply_code=200)
        wait_until(lambda: asked, "the call at the broker")
        round_trip(proxy)
        connection, channel = asked[0]
        connection.close_channel(channel, 404, "NOT_FOUND - scripted")
        expect_refusal(client, 404)
        client.expect("connection.close-ok", 0)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("closes", ["channel", "connection"])
def test_upstream_lost_with_a_deletion_before_the_close(broker, make_proxy, closes, answers):
    """Whether RabbitMQ has deleted it nobody knows, and the close's answer alone would say so."""
    proxy = make_proxy(broker.url)
    broker.silent_on.add("queue.delete")
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "queue.delete", queue="old", no_wait=not answers)
        send_close(client, 1 if closes == "channel" else 0)
        connection = wait_until(lambda: next((c for c in broker.connections for f in c.frames
                                              if f.name == "queue.delete"), None), "the deletion")
        round_trip(proxy)
        connection.die()
        expect_refusal(client, 406)
        client.expect(closes + ".close-ok", 1 if closes == "channel" else 0)


GARBAGE = {
    "too large": struct.pack(">BHI", amqp.BODY, 1, 200000) + b"x" * 300000,
    "bad end": amqp.frame(amqp.METHOD, 1, b"\0\0\0\0", end=0) + b"\xff" * 300000,
    "unknown type": b"GET / HTTP/1.1\r\n" * 20000,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_bytes_behind_a_bad_frame_do_not_hide_the_error(broker, make_proxy, kind):
    """A socket that is closed while bytes on it were left unread is reset, and the error is lost."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for _ in range(5):
            client.send(GARBAGE[kind])
            round_trip(proxy)
        close = client.expect("connection.close", 0).args
        assert close["reply_code"] == 501 and close["reply_text"].startswith("FRAME_ERROR")
        data = b"xx" + amqp.method_frame(0, "connection.close-ok")
        client.send(data[:7])
        round_trip(proxy)
        client.send(data[7:])
        assert client.read() is None


def test_exception_crosses_the_drains_close(make_proxy):
    """Without confirms close-ok is all that the drain goes by; the one that RabbitMQ still owes it
    says nothing of what is sent later."""
    seen, crossed = {}, threading.Event()

    def judge(connection, frame):
        if frame.name == "channel.open":
            seen["from"] = len(connection.messages)
        if frame.name != "channel.close" or \
                b"bad" not in [m.body for m in connection.messages[seen["from"]:]]:
            return False
        connection.close_channel(frame.channel, 404, "NOT_FOUND - scripted")
        if crossed.is_set():
            connection.send_method(frame.channel, "channel.close-ok")
        else:
            seen["first"] = (connection, frame.channel)
            crossed.set()
        return True

    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        spool(broker, proxy, [b"good", b"bad", b"late"])
        broker.on_frame = judge
        broker.up()
        assert crossed.wait(60)
        connection, channel = seen["first"]
        wait_until(lambda: connection.frames[-1].name == "channel.close-ok", "the drain's answer")
        round_trip(proxy)
        assert [f.name for f in connection.frames].count("channel.open") == 1
        connection.send_method(channel, "channel.close-ok")
        proxy.wait_event("drain_finished")
        assert proxy.waiting() == 0
        assert [record["body"] for record in proxy.dump("--rejected")] == ["bad"]
        assert [m.body for m in broker.messages if m.body != b"bad"][-1] == b"late"


def test_close_waits_for_a_message_whose_channel_is_gone(broker, make_proxy):
    """The proxy's own error has ended the channel; the confirm of what it sent before is still due."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0, "spool.max_message_size": "64KiB"})
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"waits", "q")
        connection, channel = arrived(broker)
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(100000)))
        expect_refusal(client, 406)
        client.send_method(1, "channel.close-ok")
        client.send_method(0, "connection.close", reply_code=200)
        round_trip(proxy)
        assert select.select([client.socket], [], [], 0)[0] == [], "close-ok before the confirm"
        connection.send_method(channel, "basic.ack", delivery_tag=1)
        client.expect("connection.close-ok", 0)
