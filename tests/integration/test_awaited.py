"""Everything that is sent to RabbitMQ is awaited: also what its client did not want an answer to, and
what a client that is gone has sent. Answers come in the order of what they answer."""

import pytest

from support import amqp
from support.broker import ANSWERS
from support.raw import RawClient
from support.wait import wait_until

CALLS_MAX = 256

NOWAIT = {
    "exchange.declare": {"exchange": "e", "type": "direct"},
    "exchange.delete": {"exchange": "e"},
    "queue.declare": {"queue": "q"},
    "queue.bind": {"queue": "q", "exchange": "e"},
    "queue.delete": {"queue": "q"},
    "basic.consume": {"queue": "q", "consumer_tag": "consumer"},
}


class Holding:
    """Keeps the calls that come to the broker, answers them when told."""

    def __init__(self, broker, *names):
        self.names, self.calls = names, []
        broker.on_frame = self

    def __call__(self, connection, frame):
        if frame.name not in self.names:
            return False
        self.calls.append((connection, frame))
        return True

    def wait(self, count=1):
        wait_until(lambda: len(self.calls) >= count,
                   lambda: f"{count} calls at the broker, got {len(self.calls)}")

    def answer(self):
        connection, frame = self.calls.pop(0)
        if frame.name == "queue.declare":
            connection.send_method(frame.channel, "queue.declare-ok", queue=frame.args["queue"])
        else:
            connection.send_method(frame.channel, f"{frame.name}-ok",
                                   **ANSWERS.get(frame.name, ("", {}))[1])

    def refuse(self):
        connection, frame = self.calls.pop(0)
        connection.close_channel(frame.channel, 404, "NOT_FOUND - scripted")


def round_trip(proxy):
    """The proxy has read everything that was sent to it before."""
    with RawClient(proxy.port) as other:
        other.close()


def send_close(client):
    client.send_method(1, "channel.close", reply_code=200)


@pytest.mark.parametrize("name", NOWAIT)
def test_no_wait_is_asked_for_and_its_answer_swallowed(broker, make_proxy, name):
    proxy = make_proxy(broker.url)
    holding = Holding(broker, name)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, name, no_wait=True, **NOWAIT[name])
        client.send_method(1, name, **NOWAIT[name])  # and this one's is not
        holding.wait(2)
        assert [frame.args["no_wait"] for _, frame in holding.calls] == [False, False]
        holding.answer()
        holding.answer()
        client.expect(f"{name}-ok", 1)
        other = next(other for other in NOWAIT if other != name)
        client.call(1, other, **NOWAIT[other])
        client.close()


@pytest.mark.parametrize("end", ["close", "die"])
def test_error_of_a_no_wait_is_its_senders(broker, make_proxy, end):
    proxy = make_proxy(broker.url, {"pool.upstreams": 1})
    holding = Holding(broker, "queue.bind")
    client = RawClient(proxy.port)
    client.open_channel()
    client.send_method(1, "queue.bind", queue="q", exchange="nowhere", no_wait=True)
    holding.wait()
    if end == "close":
        send_close(client)
        round_trip(proxy)
    else:
        client.die()
        proxy.wait_event("client_closed")
    broker.acks = False
    with RawClient(proxy.port) as other:
        other.open_channel(confirms=True)
        other.publish(b"innocent", "q")
        broker.wait_messages(1)
        connection, channel = broker.connections[0], broker.messages[0].channel
        assert holding.calls[0][1].channel != channel
        holding.refuse()
        if end == "close":
            assert client.expect("channel.close", 1).args["reply_code"] == 404
            client.expect("channel.close-ok", 1)
            client.send_method(1, "channel.close-ok")
            client.close()
        connection.send_method(channel, "basic.ack", delivery_tag=1)
        other.acked_up_to(1)
        other.close()


@pytest.mark.parametrize("no_wait", [False, True])
@pytest.mark.parametrize("state", ["open", "closing", "gone"])
def test_unanswered_declaration_is_kept_in_its_place(broker, make_proxy, no_wait, state):
    """RabbitMQ goes away before it has read any of it: what was published behind the declaration is
    replayed behind it, whatever has become of the client."""
    proxy = make_proxy(broker.url)
    broker.on_frame = lambda _, f: f.channel and f.name not in ("channel.open", "confirm.select")
    client = RawClient(proxy.port)
    client.open_channel()
    client.send_method(1, "queue.declare", queue="orders", durable=True, no_wait=no_wait)
    client.publish(b"order", "orders")
    if state == "closing":
        send_close(client)
    wait_until(lambda: any(f.type == amqp.BODY for c in broker.connections for f in c.frames),
               "all of it at the broker")
    round_trip(proxy)
    if state == "gone":
        client.die()
        proxy.wait_event("client_closed")
    broker.down()
    proxy.wait_event("upstream_lost")
    if state != "gone":
        if not no_wait:
            client.expect("queue.declare-ok", 1)
        if state == "open":
            send_close(client)
        client.expect("channel.close-ok", 1)
        client.close()
    wait_until(lambda: proxy.waiting() == 2, "both in the spool")
    assert [r.get("kind", "publish") for r in proxy.dump()] == ["declare", "publish"]
    broker.on_frame = None
    broker.up()
    proxy.wait_event("drain_finished")
    replayed = [f for f in broker.connections[-1].frames if f.type == amqp.METHOD]
    declare = next(f for f in replayed if f.name == "queue.declare")
    assert not declare.args["no_wait"] and declare.args["queue"] == "orders"
    assert replayed.index(declare) < [f.name for f in replayed].index("basic.publish")


def test_a_client_has_no_more_than_so_many_calls_under_way(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.upstreams": 1})
    holding = Holding(broker, "queue.declare")
    count = 3 * CALLS_MAX
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel()
        client.send(b"".join(amqp.method_frame(1, "queue.declare", queue=f"q{n}", passive=True)
                             for n in range(count)))
        round_trip(proxy)
        other.open_channel(confirms=True)
        other.publish(b"x", "q")
        other.acked_up_to(1)
        assert CALLS_MAX - 2 <= len(holding.calls) <= CALLS_MAX
        for n in range(count):
            holding.wait()
            holding.answer()
            assert client.expect("queue.declare-ok", 1).args["queue"] == f"q{n}"
            assert len(holding.calls) <= CALLS_MAX
        client.close()
        other.close()


@pytest.mark.parametrize("answer", ["basic.qos", "confirm.select", "channel.close"])
@pytest.mark.parametrize("due", ["reply", "return"])
def test_the_proxys_own_answers_come_in_their_turn(broker, make_proxy, answer, due):
    proxy = make_proxy(broker.url)
    holding = Holding(broker, "queue.bind")
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel()
        if due == "reply":
            client.send_method(1, "queue.bind", queue="q", exchange="e")
            holding.wait()
        else:
            client.publish(b"x", "nowhere", mandatory=True)
            broker.wait_messages(1)
        client.send_method(1, answer)
        round_trip(proxy)
        if due == "reply":
            holding.answer()
            client.expect("queue.bind-ok", 1)
        else:
            connection, message = broker.connections[0], broker.messages[0]
            connection.send(amqp.method_frame(message.channel, "basic.return", reply_code=312) +
                            amqp.content_frames(message.channel, b"x"))
            connection.send_method(message.channel, "basic.ack", delivery_tag=1)
            client.expect("basic.return", 1)
            assert [str(client.read()) for _ in range(2)] == ["1:header(1)", "1:body(1)"]
        client.expect(f"{answer}-ok", 1)
        if answer != "channel.close":
            send_close(client)
            client.expect("channel.close-ok", 1)
        client.close()


def test_answers_of_an_outage_come_behind_those_of_rabbitmq(broker, make_proxy):
    """An alarm: the pool is offline, and RabbitMQ answers what it has read."""
    proxy = make_proxy(broker.url)
    holding = Holding(broker, "queue.bind")
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "queue.bind", queue="q", exchange="e")
        holding.wait()
        broker.everywhere("connection.blocked", reason="scripted")
        proxy.wait_event("upstream_blocked")
        client.send_method(1, "exchange.declare", exchange="e", type="direct", durable=True)
        round_trip(proxy)
        holding.answer()
        client.expect("queue.bind-ok", 1)
        client.expect("exchange.declare-ok", 1)
        send_close(client)
        client.expect("channel.close-ok", 1)
        client.close()
    broker.everywhere("connection.unblocked")
    proxy.wait_empty()


def test_answers_and_refusals_wait_for_the_end_of_a_message(broker, make_proxy):
    """What the proxy answers by itself would stand in the middle of the returned message."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"x", "q")
        broker.wait_messages(1)
        connection, channel = broker.connections[0], broker.messages[0].channel
        content = amqp.content_frames(channel, b"z" * 1000, frame_max=508)
        connection.send(amqp.method_frame(channel, "basic.return", reply_code=312) + content[:-508])
        client.expect("basic.return", 1)
        assert [str(client.read()) for _ in range(2)] == ["1:header(1000)", "1:body(500)"]
        for _ in range(300):  # more than is kept for later
            client.send_method(1, "basic.qos", prefetch_count=1)
        client.send_method(1, "confirm.select")
        client.publish(b"y", "q")
        round_trip(proxy)
        connection.send(content[-508:])
        assert str(client.read()) == "1:body(500)"
        for _ in range(300):
            client.expect("basic.qos-ok", 1)
        client.expect("confirm.select-ok", 1)
        client.acked_up_to(1)
        client.close()


def test_confirms_that_are_on_are_answered_at_once(broker, make_proxy):
    """RabbitMQ does not wait for its own confirms with that answer."""
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"x", "q")
        broker.wait_messages(1)
        client.call(1, "confirm.select")
        broker.ack_all()
        client.acked_up_to(1)
        client.close()


def test_an_empty_name_means_the_queue_declared_last_however_fast(broker, make_proxy):
    proxy = make_proxy(broker.url)
    holding = Holding(broker, "queue.declare", "queue.bind")
    with RawClient(proxy.port) as client:
        client.open_channel()
        for name in ("one", "two"):
            client.send_method(1, "queue.declare", queue=name)
        client.send_method(1, "queue.bind", exchange="e")
        holding.wait(2)
        round_trip(proxy)
        holding.answer()
        client.expect("queue.declare-ok", 1)
        client.send_method(1, "queue.bind", exchange="e")
        round_trip(proxy)
        assert len(holding.calls) == 1  # RabbitMQ is to say first which was the last
        for answer in ("queue.declare-ok", "queue.bind-ok", "queue.bind-ok"):
            holding.wait()
            holding.answer()
            client.expect(answer, 1)
        binds = [f for f in broker.connections[0].frames if f.name == "queue.bind"]
        assert [f.args["queue"] for f in binds] == ["two", "two"]
        client.close()
