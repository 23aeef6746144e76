"""pool.confirm_transient = no: what is transient, and of a publisher that asks for no answer, is forgotten
once it is sent; all else is RabbitMQ's to confirm, as before."""

import select
import threading

import pytest

from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until

TRANSIENT, PERSISTENT = b"\x10\x00\x01", amqp.PERSISTENT
FORGETS = {"pool.confirm_transient": "no", "pool.window": 4, "pool.upstreams": 1}


def publish(client, body, properties, **args):
    client.send(amqp.publish_frames(1, body, routing_key="q", properties=properties, **args))


def methods(broker, channel):
    """Names of the methods that came on a channel of the only connection, but publishes."""
    return [name.split(":")[1] for name in broker.connections[0].sequence()
            if name.startswith(f"{channel}:") and "basic.publish" not in name and "header" not in name
            and "body" not in name]


def numbers(*which):
    return [b"%d" % number for number in which]


def bodies(broker):
    return [message.body for message in broker.messages]


def test_forgotten_once_sent(broker, make_proxy):
    broker.acks = False
    proxy = make_proxy(broker.url, FORGETS)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for number in range(50):
            publish(client, b"%d" % number, TRANSIENT)
        broker.wait_messages(50)
        channel = broker.messages[0].channel
        assert methods(broker, channel) == ["channel.open"]
        broker.down()
        proxy.wait_event("buffering_started")
        publish(client, b"50", TRANSIENT)
        wait_until(lambda: proxy.waiting() == 1, "it is stored in the outage")
        broker.acks = True
        broker.up()
        broker.wait_messages(51)
        proxy.wait_empty()
        client.close()
    assert bodies(broker) == numbers(*range(51))


def test_a_close_waits_for_rabbitmq(broker, make_proxy):
    proxy = make_proxy(broker.url, FORGETS)
    broker.silent_on = {"channel.close"}
    with RawClient(proxy.port) as client:
        client.open_channel()
        publish(client, b"0", TRANSIENT)
        client.send_method(1, "channel.close", reply_code=200, reply_text="")
        connection = broker.connections[0]
        broker.wait_messages(1)
        wait_until(lambda: f"{broker.messages[0].channel}:channel.close" in connection.sequence(),
                   "channel.close at the broker")
        assert select.select([client.socket], [], [], 0.2) == ([], [], [])
        connection.send_method(broker.messages[0].channel, "channel.close-ok")
        client.expect("channel.close-ok")
        client.close()


@pytest.mark.parametrize("kept", [{"properties": PERSISTENT},
                                  {"properties": TRANSIENT, "mandatory": True}])
def test_from_the_first_that_must_be_confirmed_on_all_are(broker, make_proxy, kept):
    broker.acks = False
    proxy = make_proxy(broker.url, FORGETS)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for number in range(3):
            publish(client, b"%d" % number, TRANSIENT)
        publish(client, b"3", **kept)
        publish(client, b"4", TRANSIENT)
        broker.wait_messages(5)
        assert methods(broker, broker.messages[0].channel) == ["channel.open", "confirm.select"]
        broker.acks = True
        broker.down()
        wait_until(lambda: proxy.waiting() == 2, "those are stored")
        broker.up()
        broker.wait_messages(7)
        proxy.wait_empty()
        client.close()
    assert bodies(broker) == numbers(0, 1, 2, 3, 4, 3, 4)


@pytest.mark.parametrize("options,confirms", [({"pool.confirm_transient": "yes"}, False),
                                              (FORGETS, True)])
def test_otherwise_transient_ones_are_kept(broker, make_proxy, options, confirms):
    broker.acks = False
    proxy = make_proxy(broker.url, options)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=confirms)
        for number in range(4):
            publish(client, b"%d" % number, TRANSIENT)
        broker.wait_messages(4)
        broker.acks = True
        broker.down()
        wait_until(lambda: proxy.waiting() == 4, "they are stored")
        broker.up()
        broker.wait_messages(8)
        proxy.wait_empty()
        client.die()
    assert bodies(broker) == numbers(*range(4)) * 2


def test_a_channel_with_confirms_is_left_for_one_without(broker, make_proxy):
    proxy = make_proxy(broker.url, FORGETS)
    with RawClient(proxy.port) as job:
        job.open_channel()
        publish(job, b"0", PERSISTENT)
        job.close()
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="q", durable=True)  # on the one that the job has left
        for number in range(1, 20):
            publish(client, b"%d" % number, TRANSIENT)
        broker.wait_messages(20)
        first, stream = broker.messages[0].channel, broker.messages[-1].channel
        assert first != stream
        assert methods(broker, first) == ["channel.open", "confirm.select", "queue.declare"]
        assert methods(broker, stream) == ["channel.open"]
        assert {message.channel for message in broker.messages[1:]} == {stream}
        client.close()


def test_a_refusal_is_heard(broker, make_proxy):
    proxy = make_proxy(broker.url, FORGETS)
    broker.on_message = lambda connection, message: connection.close_channel(
        message.channel, 404, "NOT_FOUND - no exchange 'x' in vhost '/'")
    with RawClient(proxy.port) as client:
        client.open_channel()
        publish(client, b"0", TRANSIENT)
        assert client.expect("channel.close").args["reply_code"] == 404
        client.send_method(1, "channel.close-ok")
        client.open_channel()
        broker.on_message = None
        publish(client, b"1", TRANSIENT)
        broker.wait_messages(2)
        client.close()


class Stuck:
    """A broker whose first connection reads nothing more, until it is let go."""

    def __init__(self, broker, name):
        self.order, self.gate = [], threading.Event()

        def on_frame(connection, frame):
            if connection is broker.connections[0] and frame.name == name:
                self.gate.wait(60)
            return False

        def on_message(connection, message):
            self.order.append(message.body[:8])
            if message.tag:
                connection.ack(message)
        broker.on_frame, broker.on_message = on_frame, on_message


@pytest.mark.parametrize("kind", ["forgotten", "no confirms", "confirmed"])
def test_order_when_a_client_gets_an_upstream_of_its_own(make_proxy, kind):
    with FakeBroker(confirms=kind != "no confirms") as broker:
        proxy = make_proxy(broker.url, {"pool.confirm_transient": "no" if kind == "forgotten" else "yes"})
        stuck = Stuck(broker, "basic.publish")
        with RawClient(proxy.port) as client:
            client.open_channel()
            properties = TRANSIENT if kind == "forgotten" else PERSISTENT
            for number in range(3):
                publish(client, b"%d" % number, properties)
            client.send_method(1, "basic.consume", queue="q", consumer_tag="t")
            for number in range(3, 6):
                publish(client, b"%d" % number, properties)
            wait_until(lambda: len(broker.connections) == 2, "its own upstream")
            stuck.gate.set()
            wait_until(lambda: len(stuck.order) == 6, "all of them")
            client.die()
        assert stuck.order == numbers(*range(6))


def test_what_is_forgotten_stays_on_its_upstream(broker, make_proxy):
    """That one is full, and two others have something under way there."""
    proxy = make_proxy(broker.url, FORGETS | {"pool.upstreams": 2, "pool.window": 100})
    broker.acks = False
    others = [RawClient(proxy.port) for _ in range(2)]
    for who, other in enumerate(others):
        other.open_channel(confirms=True)
        other.publish(b"x", f"other{who}")
    broker.wait_messages(2)
    stuck = Stuck(broker, "basic.publish")
    count = 400
    with RawClient(proxy.port) as client:
        client.open_channel()
        sender = threading.Thread(daemon=True, target=lambda: [
            publish(client, b"%08d" % number + bytes(30000), TRANSIENT) for number in range(count)])
        sender.start()
        sender.join(2)  # for as long as its socket takes something
        stuck.gate.set()
        sender.join(60)
        wait_until(lambda: len(stuck.order) == count, "all of them")
        client.close()
    assert stuck.order == [b"%08d" % number for number in range(count)]
    for other in others:
        other.die()


def test_order_when_publishes_are_stored_first_from_now_on(broker, make_proxy):
    """What was forgotten is not read yet; RabbitMQ would get what follows on another connection."""
    proxy = make_proxy(broker.url, FORGETS | {"pool.upstreams": 2})
    stuck = Stuck(broker, "basic.publish")
    with RawClient(proxy.port) as client:
        client.open_channel()
        publish(client, b"0", TRANSIENT)
        publish(client, b"1", TRANSIENT)
        proxy.options["spool.mode"] = "always"
        proxy.reload()
        for number in range(2, 6):
            publish(client, b"%d" % number, TRANSIENT)
        proxy.wait_event("drain_started")
        stuck.gate.set()
        wait_until(lambda: len(stuck.order) == 6, "all of them")
        client.close()
    assert stuck.order == numbers(*range(6))


def test_a_persistent_one_that_was_stored_counts(broker, make_proxy):
    proxy = make_proxy(broker.url, FORGETS | {"spool.mode": "always"})
    with RawClient(proxy.port) as client:
        client.open_channel()
        publish(client, b"0", PERSISTENT)
        broker.wait_messages(1)
        proxy.wait_empty()
        proxy.options["spool.mode"] = "outage"
        proxy.reload()
        proxy.wait_event("drain_finished")
        broker.acks = False
        publish(client, b"1", TRANSIENT)
        broker.wait_messages(2)
        broker.acks = True
        broker.down()
        wait_until(lambda: proxy.waiting() == 1, "it was retained")
        broker.up()
        broker.wait_messages(3)
        proxy.wait_empty()
        client.close()


class SlowClose:
    """A broker that does not answer the first channel.close until it is told to, and notes what comes
    behind it there."""

    def __init__(self, broker):
        self.asked, self.behind = None, []

        def on_frame(connection, frame):
            if self.asked == (connection, frame.channel):
                self.behind.append(frame.name)
                return True
            if frame.name == "channel.close" and not self.asked:
                self.asked = (connection, frame.channel)
                return True
            return False
        broker.on_frame = on_frame

    def wait(self):
        wait_until(lambda: self.asked, "channel.close")

    def answer(self):
        connection, channel = self.asked
        self.asked = (None, None)
        connection.send_method(channel, "channel.close-ok")


@pytest.mark.parametrize("properties", [TRANSIENT, PERSISTENT])
def test_nothing_is_sent_behind_the_close_that_proves(broker, make_proxy, properties):
    """It was to be stored, and may be sent again before RabbitMQ has answered the close."""
    close = SlowClose(broker)
    proxy = make_proxy(broker.url, FORGETS | {"pool.upstreams": 1})
    with RawClient(proxy.port) as client:
        client.open_channel()
        publish(client, b"0", TRANSIENT)
        broker.wait_messages(1)
        proxy.options["spool.mode"] = "always"
        proxy.reload()
        proxy.wait_event("drain_started")
        publish(client, b"1", properties)
        close.wait()
        proxy.options["spool.mode"] = "outage"
        proxy.reload()
        proxy.wait_event("drain_finished")
        client.send_method(1, "queue.declare", queue="q")
        with RawClient(proxy.port) as witness:  # the turns of the loop in which it might be sent
            witness.open_channel(confirms=True)
            witness.publish(b"w", "w")
            witness.acked_up_to(1)
            witness.close()
        assert close.behind == []
        close.answer()
        client.expect("queue.declare-ok")
        client.close()
    assert close.behind == []
    assert [message.body for message in broker.messages if message.body != b"w"] == numbers(0, 1)


def test_order_of_a_consumer_that_is_stored_first_from_now_on(broker, make_proxy):
    """Its channel cannot be closed to prove what was read: all that it publishes is confirmed."""
    proxy = make_proxy(broker.url, FORGETS)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "basic.consume", queue="q", consumer_tag="t")
        client.expect("basic.consume-ok")
        own = next(c for c in broker.connections if "1:basic.consume" in c.sequence())
        order, gate = [], threading.Event()

        def on_frame(connection, frame):
            if connection is own and frame.name == "basic.publish":
                gate.wait(60)
            return False

        def on_message(connection, message):
            order.append(message.body)
            if message.tag:
                connection.ack(message)
        broker.on_frame, broker.on_message = on_frame, on_message
        for number in range(3):
            publish(client, b"%d" % number, TRANSIENT)
        proxy.options["spool.mode"] = "always"
        proxy.reload()
        for number in range(3, 6):
            publish(client, b"%d" % number, TRANSIENT)
        with RawClient(proxy.port) as witness:
            witness.open_channel(confirms=True)
            witness.publish(b"w", "w")
            witness.acked_up_to(1)
            witness.close()
        gate.set()
        wait_until(lambda: len(order) == 7, "all of them")
        client.die()
    assert [body for body in order if body != b"w"] == numbers(*range(6))
