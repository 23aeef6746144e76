"""A destination that RabbitMQ does not confirm in time: its publishes go to the spool, their order
is kept, nothing is sent twice, and nobody else waits."""

import select
import threading

import pytest

from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until

SOON = {"pool.confirm_timeout": "300ms"}


class Stuck:
    """Makes a broker confirm all but one routing key, until it is let go."""

    def __init__(self, broker, key="stuck"):
        self.broker, self.key, self.owed = broker, key, []
        broker.on_message = self.on_message

    def on_message(self, connection, message):
        if message.args["routing_key"] == self.key and self.owed is not None:
            self.owed.append((connection, message))
        elif message.tag:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)

    def bodies(self):
        return [message.body for message in self.broker.messages
                if message.args["routing_key"] == self.key]

    def let_go(self, answer="basic.ack"):
        owed, self.owed = self.owed, None
        for connection, message in owed:
            connection.send_method(message.channel, answer, delivery_tag=message.tag)


@pytest.fixture
def stuck(broker):
    return Stuck(broker)


def confirming(proxy):
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    return client


def names(*numbers):
    return [b"%d" % number for number in numbers]


def publish(client, numbers, key):
    for number in numbers:
        client.publish(b"%d" % number, key)


def test_others_pass_through_and_order_is_kept(broker, make_proxy, stuck):
    proxy = make_proxy(broker.url, SOON)
    with confirming(proxy) as client, confirming(proxy) as other:
        publish(client, range(5), "stuck")
        wait_until(lambda: len(stuck.bodies()) == 5, "they are at the broker")
        client.acked_up_to(5)  # stored
        event = proxy.wait_event("confirms_stalled")
        assert (event["exchange"], event["routing_key"]) == ("", "stuck")
        publish(client, range(5, 10), "stuck")
        client.acked_up_to_tags({6, 7, 8, 9, 10})
        for number in range(20):
            other.publish(b"%d" % number, "fine")
            other.acked_up_to_tags({number + 1})
            client.publish(b"%d" % number, "fine")  # on the same channel too
            client.acked_up_to_tags({number + 11})
        assert proxy.bodies() == [str(number) for number in range(10)]
        assert stuck.bodies() == names(*range(5))
        assert not proxy.events("drain_started") and not proxy.events("upstream_lost")
        stuck.let_go()
        proxy.wait_empty()
        wait_until(lambda: len(stuck.bodies()) == 10, "what was spooled")
        assert stuck.bodies() == names(*range(10))
        publish(client, range(10, 13), "stuck")
        client.acked_up_to_tags({31, 32, 33})
        assert stuck.bodies() == names(*range(13))
    assert len(proxy.events("confirms_stalled")) == 1


@pytest.mark.parametrize("close", ["channel.close", "connection.close"])
def test_close_comes_back(broker, make_proxy, stuck, close):
    proxy = make_proxy(broker.url, SOON)
    client = RawClient(proxy.port)
    client.open_channel()
    publish(client, range(3), "stuck")
    client.call(1 if close == "channel.close" else 0, close, reply_code=200, reply_text="bye")
    assert proxy.bodies() == ["0", "1", "2"]
    client.socket.close()
    stuck.let_go()
    proxy.wait_empty()
    assert stuck.bodies() == names(0, 1, 2)


def test_a_mandatory_one_holds_up_no_answer(broker, make_proxy, stuck):
    """It may still be returned, but that is not waited for when it is not confirmed in time."""
    proxy = make_proxy(broker.url, SOON)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"0", "stuck", mandatory=True)
        client.call(1, "confirm.select")
        client.call(1, "channel.close", reply_code=200)
        stuck.let_go()
        proxy.wait_empty()
        assert stuck.bodies() == names(0)


def test_more_than_the_window_holds(broker, make_proxy, stuck):
    """Publishers that were held for the window go on behind what was spooled."""
    proxy = make_proxy(broker.url, {**SOON, "pool.window": 4, "drain.window": 4})
    with confirming(proxy) as client:
        publish(client, range(40), "stuck")
        client.acked_up_to(40)
        assert stuck.bodies() == names(0, 1, 2, 3)
        stuck.let_go()
        proxy.wait_empty()
        assert stuck.bodies() == names(*range(40))


def test_the_channel_of_them_is_lost(broker, make_proxy, stuck):
    """Then the copies are what is left."""
    proxy = make_proxy(broker.url, SOON)
    with confirming(proxy) as client:
        publish(client, range(3), "stuck")
        client.acked_up_to(3)
        publish(client, range(3, 5), "stuck")
        client.acked_up_to_tags({4, 5})
        stuck.owed = None
        broker.open_connections()[0].die()
        proxy.wait_empty()
        assert stuck.bodies() == names(0, 1, 2) + names(*range(5))


def test_refused_after_all(broker, make_proxy, stuck):
    """A late nack: the copy is drained, and what waits goes behind it."""
    proxy = make_proxy(broker.url, SOON)
    with confirming(proxy) as client:
        publish(client, range(2), "stuck")
        client.acked_up_to(2)
        client.publish(b"2", "stuck")
        client.acked_up_to_tags({3})
        stuck.let_go("basic.nack")
        proxy.wait_empty()
        assert stuck.bodies() == names(0, 1) + names(0, 1, 2)


def test_restart_while_it_is_set_aside(broker, make_proxy, stuck):
    proxy = make_proxy(broker.url, SOON)
    with confirming(proxy) as client:
        publish(client, range(3), "stuck")
        client.acked_up_to(3)
        proxy.kill9()
    stuck.owed = None
    proxy.start()
    proxy.wait_empty()
    assert stuck.bodies() == names(0, 1, 2) + names(0, 1, 2)


def test_a_backlog_beside_it(broker, make_proxy, stuck):
    """An outage of another upstream while the destination is set aside."""
    proxy = make_proxy(broker.url, SOON)
    broker.on_frame = lambda connection, frame: frame.name == "basic.get" and (
        connection.send_method(frame.channel, "basic.get-empty") or True)
    with confirming(proxy) as own, confirming(proxy) as shared:
        own.call(1, "basic.get", answer="basic.get-empty", queue="q")
        publish(own, range(2), "stuck")
        own.acked_up_to(2)
        shared.publish(b"live", "fine")
        shared.acked_up_to(1)
        next(c for c in broker.open_connections()
             if any(m.args["routing_key"] == "fine" for m in c.messages)).die()
        proxy.wait_event("upstream_lost")
        publish(shared, range(10), "fine")
        publish(shared, range(2, 4), "stuck")
        shared.acked_up_to_tags(set(range(2, 14)))
        wait_until(lambda: proxy.waiting() == 4, "all others are drained")
        shared.publish(b"live", "fine")
        shared.acked_up_to_tags({14})
        assert stuck.bodies() == names(0, 1)
        stuck.let_go()
        proxy.wait_empty()
        assert stuck.bodies() == names(*range(4))


def test_refusals_in_a_backlog_beside_it(broker, make_proxy, stuck):
    """A drain that goes back over a refusal passes over the same ones again, and still sees what is left."""
    proxy = make_proxy(broker.url, SOON)
    broker.on_frame = lambda connection, frame: frame.name == "basic.get" and (
        connection.send_method(frame.channel, "basic.get-empty") or True)
    refused = []

    def on_message(connection, message):
        if message.args["exchange"] == "missing":
            refused.append(message.body)
            connection.close_channel(message.channel, 404, "NOT_FOUND - no exchange 'missing' in vhost '/'")
        else:
            stuck.on_message(connection, message)
    broker.on_message = on_message
    with confirming(proxy) as own, confirming(proxy) as shared:
        own.call(1, "basic.get", answer="basic.get-empty", queue="q")
        publish(own, range(2), "stuck")
        own.acked_up_to(2)
        shared.publish(b"live", "fine")
        shared.acked_up_to(1)
        next(c for c in broker.open_connections()
             if any(m.args["routing_key"] == "fine" for m in c.messages)).die()
        proxy.wait_event("upstream_lost")
        for number in range(3):
            shared.publish(b"refused", "k", exchange="missing")
        publish(shared, range(200), "fine")  # behind which more than one goes at a time again
        publish(shared, range(2, 20), "stuck")
        shared.publish(b"refused", "k", exchange="missing")
        publish(shared, range(200, 205), "fine")
        shared.acked_up_to_tags(set(range(2, 229)))
        wait_until(lambda: proxy.waiting() == 20, lambda: proxy.failure("all others are drained"))
        assert len(proxy.events("message_rejected")) == 4
        stuck.let_go()
        proxy.wait_empty()
        assert stuck.bodies() == names(*range(20))


def test_an_alarm_makes_no_copies(broker, make_proxy):
    proxy = make_proxy(broker.url)
    broker.acks = False
    with confirming(proxy) as client:
        publish(client, range(50), "q")
        broker.wait_messages(50)
        broker.everywhere("connection.blocked", reason="scripted")
        proxy.wait_event("upstream_blocked")
        publish(client, range(50, 60), "q")
        client.acked_up_to(60)
        assert proxy.bodies() == [str(number) for number in range(60)]
        broker.acks = True
        broker.everywhere("connection.unblocked")
        client.publish(b"other", "another")
        client.acked_up_to_tags({61})
        wait_until(lambda: proxy.waiting() == 60, "all else has passed")
        assert broker.wait_messages(51) == names(*range(50)) + [b"other"]
        for message in broker.messages[:50]:
            broker.connections[0].send_method(message.channel, "basic.ack",
                                              delivery_tag=message.tag)
        proxy.wait_empty()
        client.publish(b"60", "q")
        client.acked_up_to_tags({62})
        assert broker.wait_messages(62)[51:] == names(*range(50, 61))
        assert not proxy.events("upstream_lost") and not proxy.events("confirms_stalled")


@pytest.mark.parametrize("how", ["channel", "connection"])
@pytest.mark.parametrize("first", ["alarm", "close"])
@pytest.mark.parametrize("asked", [False, True])
def test_a_worker_closes_in_an_alarm(broker, make_proxy, how, first, asked):
    """RabbitMQ reads nothing more from it, neither its close nor what it asked before."""
    proxy = make_proxy(broker.url)
    client = confirming(proxy)
    client.call(1, "basic.consume", queue="q")
    client.publish(b"0", "q")
    client.acked_up_to(1)
    broker.on_frame = lambda connection, frame: frame.type != amqp.HEARTBEAT
    if asked:
        client.send_method(1, "queue.declare", queue="q", passive=True)
    if first == "alarm":
        broker.everywhere("connection.blocked", reason="scripted")
        wait_until(lambda: len(proxy.events("upstream_blocked")) >= 1, "the alarm")
        client.publish(b"1", "q")
        client.acked_up_to_tags({2})
    number = 1 if how == "channel" else 0
    client.send_method(number, how + ".close", reply_code=200)
    if first == "close":
        wait_until(lambda: any(frame.name == "channel.close" for connection in broker.connections
                               for frame in connection.frames) or asked, "it is on its way")
        broker.everywhere("connection.blocked", reason="scripted")
    client.expect(how + ".close-ok", number)
    if how == "channel":
        client.open_channel(1, confirms=True)
        client.publish(b"2", "q")
        client.acked_up_to(1)
        client.close()


def test_a_close_is_the_only_answer_of_a_broker_without_confirms(make_proxy):
    """In an alarm as well: nobody knows what it has read."""
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.publish(b"0", "q")
            broker.wait_messages(1)
            broker.on_frame = lambda connection, frame: frame.type != amqp.HEARTBEAT
            broker.everywhere("connection.blocked", reason="scripted")
            proxy.wait_event("upstream_blocked")
            client.send_method(1, "channel.close", reply_code=200)
            with RawClient(proxy.port) as other:  # it was read
                other.close()
            assert select.select([client.socket], [], [], 0)[0] == []
            upstream = broker.connections[0]
            wait_until(lambda: "channel.close" in [frame.name for frame in upstream.frames],
                       lambda: proxy.failure("the close at the broker"))
            closed = next(frame for frame in upstream.frames if frame.name == "channel.close")
            upstream.send_method(closed.channel, "channel.close-ok")
            client.expect("channel.close-ok", 1)
            client.die()


def test_an_alarm_and_a_client_with_its_own_upstream(broker, make_proxy):
    """Its publishes are spooled like everybody's, and it can close."""
    broker.on_frame = lambda connection, frame: frame.name == "basic.get" and (
        connection.send_method(frame.channel, "basic.get-empty") or True)
    proxy = make_proxy(broker.url)
    client = confirming(proxy)
    client.call(1, "basic.get", answer="basic.get-empty", queue="q")
    broker.acks = False
    client.publish(b"0", "q")
    broker.wait_messages(1)
    broker.everywhere("connection.blocked", reason="scripted")
    proxy.wait_event("buffering_started")
    client.publish(b"1", "q")
    client.acked_up_to(2)
    broker.acks = True
    client.close()
    broker.everywhere("connection.unblocked")
    own = next(connection for connection in broker.connections if connection.messages)
    own.ack(own.messages[0])
    proxy.wait_empty()
    assert broker.wait_messages(2) == [b"0", b"1"]


def test_an_alarm_is_heard_for_a_client_that_knows_of_none(broker, make_proxy):
    """RabbitMQ tells those alone who say that they understand it, on its own connection too."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, handshake=False) as client:
        client.begin("guest", "guest", properties={"product": "old"})
        client.tune_ok()
        client.call(0, "connection.open", vhost="/")
        client.open_channel(confirms=True)
        client.call(1, "basic.consume", queue="q")
        own = broker.connections[-1]
        assert own.client_properties == {"product": b"old", "capabilities": {
            "authentication_failure_close": True, "connection.blocked": True}}
        broker.on_frame = lambda connection, frame: frame.type != amqp.HEARTBEAT
        client.publish(b"0", "q")
        wait_until(lambda: "1:basic.publish" in own.sequence(), "it is sent")
        own.send_method(0, "connection.blocked", reason="scripted")
        client.acked_up_to(1)  # of the disk
        client.close()
    assert proxy.bodies() == ["0"]


@pytest.mark.parametrize("who", ["stays", "closes", "dies"])
def test_a_return_of_one_in_doubt_is_heard_or_kept(broker, make_proxy, who):
    proxy = make_proxy(broker.url, SOON)
    broker.acks = False
    client = confirming(proxy)
    client.publish(b"lost", "nowhere", mandatory=True)
    client.acked_up_to(1)  # of the disk
    if who == "closes":
        client.close()
    elif who == "dies":
        client.die()
        proxy.wait_event("client_closed")
    message = broker.messages[0]
    connection = broker.open_connections()[0]
    connection.give_back(message)
    connection.ack(message)
    if who == "stays":
        assert client.expect("basic.return").args["reply_code"] == 312
        client.die()
        proxy.wait_empty()
    else:
        proxy.wait_event("message_rejected")
        proxy.wait_empty()
        assert [record["body"] for record in proxy.dump("--rejected")] == ["lost"]
        assert proxy.summary()["queues"][0]["rejected"] == 1
    assert len(broker.messages) == 1


def test_silence_while_nothing_is_read_is_not_rabbitmqs(broker, stuck, make_proxy):
    """A consumer does not read, and so the proxy reads nothing from its connection: the confirm of what
    it has published lies behind its deliveries."""
    proxy = make_proxy(broker.url, SOON)
    with RawClient(proxy.port, receive_buffer=65536) as worker, RawClient(proxy.port) as other:
        other.open_channel(confirms=True)
        worker.open_channel()
        worker.send_method(1, "basic.consume", queue="in", consumer_tag="consumer")
        worker.expect("basic.consume-ok")
        own = next(c for c in broker.connections if "1:basic.consume" in c.sequence())
        count, size = 200, 100000
        delivery = amqp.method_frame(1, "basic.deliver", consumer_tag="consumer", delivery_tag=1,
                                     routing_key="in") + amqp.content_frames(1, bytes(size))
        sent = threading.Event()

        def on_message(connection, message):
            if connection is own:
                sent.wait(60)
            stuck.on_message(connection, message)
        broker.on_message = on_message

        def send():
            for _ in range(count):
                own.send(delivery)
            sent.set()
        worker.publish(b"result", "k")
        broker.wait_messages(1)
        threading.Thread(target=send, daemon=True).start()
        worker.expect("basic.deliver")
        other.publish(b"owed", "stuck")  # so long is long enough
        assert proxy.wait_event("confirms_stalled")["routing_key"] == "stuck"
        other.publish(b"others", "k")
        broker.wait_messages(3)
        other.acked_up_to_tags({1, 2})
        assert not sent.is_set() and len(proxy.events("confirms_stalled")) == 1
        read = 0
        while read < (count - 1) * 2:
            read += worker.read().type in (amqp.HEADER, amqp.BODY)
        stuck.let_go()
        proxy.wait_empty()
        worker.die()
        other.close()
