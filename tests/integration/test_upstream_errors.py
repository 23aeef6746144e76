"""RabbitMQ ends a connection that many clients share over what one of them has sent: that one hears
RabbitMQ's words, nothing of it is answered as done or kept for later, and the others go on."""

import pytest

from conftest import url_of
from support import amqp
from support.broker import Lost
from support.raw import RawClient
from support.wait import wait_until

SAYS = "NOT_IMPLEMENTED - scripted"


class Witness:
    """Publishes with confirms beside whatever happens."""

    def __init__(self, port, key="q"):
        self.client, self.tag, self.key = RawClient(port), 0, key
        self.client.open_channel(confirms=True)

    def publishes(self):
        self.tag += 1
        self.client.publish(b"w%d" % self.tag, self.key)
        self.client.acked_up_to_tags({self.tag})

    def ends(self):
        self.publishes()
        self.client.close()
        return [b"w%d" % tag for tag in range(1, self.tag + 1)]


def closes_over(name, queue=None, code=540, cause=True):
    """A broker's answer to a method of this name: connection.close, with or without its cause."""
    class_id, method_id = amqp.METHODS[name][:2] if cause else (0, 0)

    def on_frame(connection, frame):
        if frame.name != name or (queue and frame.args.get("queue") != queue):
            return False
        connection.send_method(0, "connection.close", reply_code=code, reply_text=SAYS,
                               class_id=class_id, method_id=method_id)
        raise Lost

    return on_frame


def bodies(broker):
    return sorted({message.body for message in broker.messages})


@pytest.mark.parametrize("name, args", [
    ("queue.declare", {"durable": True}), ("queue.bind", {"exchange": "e"}), ("queue.delete", {})])
def test_the_client_that_called_it_hears_the_words(broker, make_proxy, name, args):
    proxy = make_proxy(broker.url)
    witness = Witness(proxy.port)
    witness.publishes()
    broker.on_frame = closes_over(name)
    client = RawClient(proxy.port)
    client.open_channel()
    client.send_method(1, name, queue="bad", **args)
    assert client.expect_close(540) == SAYS
    expected = witness.ends()
    assert [e["code"] for e in proxy.events("upstream_lost")] == ["540"]
    proxy.wait_empty()
    assert proxy.summary()["queues"][0]["rejected"] == 0  # nothing of it was kept for later
    assert bodies(broker) == sorted(expected)

    # From now on this method meets RabbitMQ on connections that nobody else uses.
    client = RawClient(proxy.port)
    client.open_channel()
    client.send_method(1, name, queue="bad", **args)
    assert client.expect_close(540) == SAYS
    lost = proxy.events("upstream_lost")
    assert len(lost) == 2 and proxy.events("upstream_connected")[-1]["upstream"] == \
        lost[-1]["upstream"]
    assert proxy.summary()["queues"][0]["rejected"] == 0


def test_of_several_who_called_it_each_asks_again_alone(broker, make_proxy):
    """RabbitMQ names the method, not the channel: the innocent get their answer, the guilty its
    words."""
    proxy = make_proxy(broker.url)
    witness = Witness(proxy.port)
    witness.publishes()
    clients = [RawClient(proxy.port) for _ in range(3)]
    for client in clients:
        client.open_channel()
    broker.silent_on = {"queue.declare"}
    for number, client in enumerate(clients):
        client.send_method(1, "queue.declare", queue=f"good{number}", durable=True)
    wait_until(lambda: sum(frame.name == "queue.declare" for connection in broker.connections
                           for frame in connection.frames) == 3, "all three are asked")
    broker.silent_on = set()
    broker.on_frame = closes_over("queue.declare", queue="bad")
    guilty = RawClient(proxy.port)
    guilty.open_channel()
    guilty.send_method(1, "queue.declare", queue="bad", durable=True)
    assert guilty.expect_close(540) == SAYS
    for number, client in enumerate(clients):
        assert client.expect("queue.declare-ok", 1).args["queue"] == f"good{number}"
        client.call(1, "queue.declare", queue=f"more{number}", durable=True)
        client.close()
    witness.ends()
    assert proxy.summary()["queues"][0]["rejected"] == 0


@pytest.mark.parametrize("what", ["call", "publish"])
def test_end_without_a_cause(broker, make_proxy, what):
    """RabbitMQ's process has failed: who had something under way goes on alone."""
    proxy = make_proxy(broker.url)
    witness = Witness(proxy.port)
    witness.publishes()
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    if what == "call":
        broker.on_frame = closes_over("queue.declare", code=541, cause=False)
        client.send_method(1, "queue.declare", queue="bad", durable=True)
        assert client.expect_close(541) == SAYS
        assert len(proxy.events("upstream_lost")) == 2  # the shared one, and its own
    else:
        broker.on_frame = closes_over("basic.publish", code=541, cause=False)
        client.publish(b"poison", "bad")
        wait_until(lambda: broker.on_frame and proxy.events("upstream_lost"), "it was closed")
        broker.on_frame = None
        client.acked_up_to_tags({1})
        client.publish(b"next", "q")
        client.acked_up_to_tags({2})
        client.close()
    assert proxy.events("client_apart")
    witness.ends()


def test_answers_that_only_rabbitmq_knows_are_asked_for_again(broker, make_proxy):
    """A connection that is closed by force is no outage: who awaits an answer gets it after the next
    dial."""
    proxy = make_proxy(broker.url)
    client = RawClient(proxy.port)
    client.open_channel()
    broker.silent_on = {"queue.delete"}
    client.send_method(1, "queue.delete", queue="q")
    wait_until(lambda: any(frame.name == "queue.delete" for connection in broker.connections
                           for frame in connection.frames), "it is asked")
    broker.silent_on = set()
    broker.on_frame = lambda connection, frame: frame.name == "queue.delete" and (
        connection.send_method(frame.channel, "queue.delete-ok", message_count=7) or True)
    broker.everywhere("connection.close", reply_code=320, reply_text="CONNECTION_FORCED - by hand")
    assert client.expect("queue.delete-ok", 1).args["message_count"] == 7
    client.close()


def test_more_channels_than_a_user_may_have(broker, make_proxy):
    """RabbitMQ closes the connection over the channel too many: its client is told so, and from then
    on who would need another one."""
    proxy = make_proxy(broker.url, {"pool.upstreams": 1})
    opened = set()
    text = "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum " \
           "allowed user limit of (4)"

    def on_frame(connection, frame):
        if frame.name == "channel.close":
            opened.discard((connection, frame.channel))
        if frame.name != "channel.open":
            return False
        if len([key for key in opened if key[0].is_open]) >= 4:
            connection.send_method(0, "connection.close", reply_code=530, reply_text=text,
                                   class_id=0, method_id=0)
            raise Lost
        opened.add((connection, frame.channel))
        return False

    broker.on_frame = on_frame
    witnesses = [Witness(proxy.port) for _ in range(4)]

    def all_are_live():
        for witness in witnesses:
            witness.publishes()
        return len([key for key in opened if key[0].is_open]) == 4

    wait_until(all_are_live, "each has a channel")
    for _ in range(3):
        client = RawClient(proxy.port)
        client.open_channel(confirms=True)
        client.publish(b"too many", "q")
        assert client.expect_close(530) == text
        wait_until(all_are_live, "each has a channel again")
    assert len(proxy.events("upstream_lost")) == 1
    # Nor is a channel given up for a new one, as it would be after a nack.
    broker.on_message = lambda connection, message: connection.nack(message)
    nacked = witnesses[0]
    nacked.tag += 1
    nacked.client.publish(b"nacked", "q")
    assert nacked.client.expect("basic.nack").args["delivery_tag"] == nacked.tag
    broker.on_message = None
    for witness in witnesses:
        witness.ends()


# ---- RabbitMQ itself ----

def hears(port, action, code):
    """What one client, alone or beside others, is closed with."""
    client = RawClient(port)
    client.open_channel()
    client.publish(b"before", "nowhere")
    action(client)
    while True:
        frame = client.read()
        assert frame is not None, "the connection ended without a word"
        if frame.name == "connection.close":
            assert frame.args["reply_code"] == code, frame.args
            client.send_method(0, "connection.close-ok")
            client.socket.close()
            return frame.args["reply_text"]
        assert frame.name not in ("queue.declare-ok", "exchange.declare-ok", "channel.close"), frame


def text_argument(key, value):
    return amqp.short_string(key) + b"S" + amqp.long_string(value)


ENDS = {
    "unknown exchange type": (503, lambda c: c.send_method(
        1, "exchange.declare", exchange="e", type="x-unknown")),
    "master locator": (541, lambda c: c.send_method(
        1, "queue.declare", queue="bad", durable=True,
        arguments=text_argument("x-queue-master-locator", "bogus"))),
    "purge of a stream": (540, lambda c: c.send(amqp.frame(
        amqp.METHOD, 1, b"\0\x32\0\x1e\0\0" + amqp.short_string("stream") + b"\0"))),
    "conditional delete of a quorum queue": (540, lambda c: c.send_method(
        1, "queue.delete", queue="quorum", if_unused=True)),
    "reply-to key": (541, lambda c: c.publish(b"x", "amq.rabbitmq.reply-to.g1h2AA.x")),
}


@pytest.mark.parametrize("what", ENDS)
def test_what_ends_a_connection_ends_no_other(rabbit, make_proxy, queue, what):
    for name in ("stream", "quorum"):
        rabbit.delete(name)
        rabbit.declare(name, arguments={"x-queue-type": name})
    code, action = ENDS[what]
    straight = hears(rabbit.port, action, code)
    proxy = make_proxy(url_of(rabbit))
    witness = Witness(proxy.port, queue)
    witness.publishes()
    shared = proxy.events("upstream_connected")[0]["upstream"]
    assert hears(proxy.port, action, code) == straight
    sent = witness.ends()
    assert shared not in [event["upstream"] for event in proxy.events("upstream_lost")]
    assert rabbit.count(queue) == len(sent)


def test_what_ends_a_connection_is_not_sent_from_the_spool(broker, make_proxy):
    proxy = make_proxy(broker.url)
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    broker.down()
    proxy.wait_event("buffering_started")
    for key in ("a", "amq.rabbitmq.reply-to.g1h2AA.x", "b"):
        client.publish(key.encode(), key)
    client.acked_up_to(3)
    broker.up()
    assert broker.wait_messages(2) == [b"a", b"b"]
    proxy.wait_empty()
    assert [found["rejected"]["code"] for found in proxy.dump("--rejected")] == [541]
    client.close()


def end_over_poison(connection, message):
    """RabbitMQ names no cause."""
    if message.body == b"poison":
        connection.send_method(0, "connection.close", reply_code=541, class_id=0, method_id=0,
                               reply_text="INTERNAL_ERROR - scripted")
        raise Lost
    connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)


@pytest.mark.provokes("client_refused")
def test_message_that_ends_every_connection(broker, make_proxy):
    """RabbitMQ names no cause: the shared connection is lost once. What was under way is replayed on
    connections that carry nothing else, until the message is found and set aside."""
    proxy = make_proxy(broker.url, {"drain.nack_limit": 2})
    witness = Witness(proxy.port)
    witness.publishes()
    broker.on_message = end_over_poison
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    for body in (b"a", b"poison", b"b"):
        client.publish(body, "q")
    client.acked_up_to(3)
    proxy.wait_event("message_rejected")
    proxy.wait_empty()
    for _ in range(3):
        witness.publishes()
    drains = {event["upstream"] for event in proxy.events("drain_started")}
    lost = [event["upstream"] for event in proxy.events("upstream_lost")]
    assert len(lost) > 1 and len([number for number in lost if number not in drains]) == 1
    assert [found["body"] for found in proxy.dump("--rejected")] == ["poison"]

    # The client that sent it has a connection of its own: the next one ends that alone.
    before = len(proxy.events("upstream_lost"))
    client.publish(b"poison", "q")
    proxy.wait_event("upstream_lost", before + 1)
    proxy.wait_event("message_rejected", 2)
    expected = witness.ends()
    drains = {event["upstream"] for event in proxy.events("drain_started")}
    lost = [event["upstream"] for event in proxy.events("upstream_lost")][before + 1:]
    assert set(lost) <= drains
    proxy.wait_empty()
    assert set(bodies(broker)) == {b"a", b"b", b"poison", *expected}


def test_connections_for_a_drain_alone_wait_for_each_other(broker, make_proxy):
    """Each is ended by what waits. The next one is dialled when a tick finds that its time has come,
    and there is none here: the second one is never dialled."""
    proxy = make_proxy(broker.url, {"upstream.reconnect_min": "10s", "upstream.reconnect_max": "10s"},
                       environment={"AMQPBUF_TEST_TICK_MS": "3600000"})
    witness = Witness(proxy.port)
    witness.publishes()
    broker.on_message = end_over_poison
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for body in (b"a", b"poison", b"b"):
            client.publish(body, "q")
        client.acked_up_to(3)
        client.die()
    proxy.wait_event("upstream_lost", 1)
    proxy.wait_event("upstream_connected", 3)  # for all, and for the drain
    proxy.wait_event("upstream_lost", 2)
    for _ in range(50):
        witness.publishes()
    assert len(proxy.events("upstream_connected")) == 3
    witness.ends()


@pytest.mark.parametrize("size", [0, 1000])
@pytest.mark.parametrize("method, args, code", [
    ("exchange.declare", {"exchange": "e", "type": "no-such-type"}, 503),
    ("channel.flow", {"active": False}, 540),
    ("basic.recover", {"requeue": False}, 540),
])
def test_its_own_error_on_its_own_connection(rabbit, make_proxy, size, method, args, code):
    """With a buffer or without one."""
    proxy = make_proxy(url_of(rabbit), {"pool.publish_buffer_size": size})
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, method, **args)
        client.expect_close(code)
