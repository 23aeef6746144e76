"""P2 and P3 where publishes cross the switch into the spool from several channels and connections at
once, and where RabbitMQ confirms out of turn."""

import select

import pytest

from support import amqp
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until

AT_ONCE = {"drain.unroutable_wait": "0s"}  # what RabbitMQ returns is rejected, not tried again


def ack(broker, message, tag, multiple=False, name="basic.ack"):
    connection = next(c for c in broker.connections if message in c.messages)
    connection.send_method(message.channel, name, delivery_tag=tag, multiple=multiple)


def test_failover_keeps_the_order_of_channels_and_declarations(broker, make_proxy):
    proxy = make_proxy(broker.url)
    broker.acks = False
    broker.silent_on = {"queue.declare"}
    client = RawClient(proxy.port)
    client.open_channel(1, confirms=True)
    client.open_channel(2, confirms=True)
    for number in range(6):
        client.publish(b"%d" % number, "q", channel=1 + number % 2)
        broker.wait_messages(number + 1)
    client.send_method(1, "queue.declare", queue="later", durable=True)
    wait_until(lambda: any(f.name == "queue.declare" for c in broker.connections for f in c.frames),
               "the declaration")
    client.publish(b"6", "later", channel=2)
    broker.wait_messages(7)
    broker.down()
    proxy.wait_event("buffering_started")
    wait_until(lambda: proxy.waiting() == 8, lambda: f"all in the spool, {proxy.waiting()} are")
    kinds = [record.get("kind") or record["body"] for record in proxy.dump()]
    assert kinds == ["0", "1", "2", "3", "4", "5", "declare", "6"]
    client.die()
    broker.silent_on = set()
    broker.acks = True
    broker.up()
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(14)[7:] == [b"%d" % n for n in range(7)]


@pytest.mark.parametrize("first", [[2], [3, 2], [1, 3]])
def test_what_was_confirmed_out_of_turn_is_not_sent_again(broker, make_proxy, first):
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number in range(1, 5):
            client.publish(b"%d" % number, "q")
        broker.wait_messages(4)
        for tag in first:
            ack(broker, broker.messages[0], tag)
        client.acked_up_to_tags(set(first))
        broker.down()
        client.acked_up_to_tags({1, 2, 3, 4} - set(first))
        client.close()
    assert proxy.bodies() == [str(n) for n in range(1, 5) if n not in first]


def test_single_ack_behind_a_nack(broker, make_proxy):
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"1", "q")
        client.publish(b"2", "q")
        broker.wait_messages(2)
        ack(broker, broker.messages[0], 1, name="basic.nack")
        client.expect("basic.nack")
        ack(broker, broker.messages[0], 2)
        assert not client.expect("basic.ack").args["multiple"]
        client.close()


def test_confirms_of_pipelined_publishes_through_an_outage(broker, make_proxy):
    """A client that never waits: each tag is confirmed once, live, from the spool and behind it."""
    proxy = make_proxy(broker.url, {"pool.window": 16, "drain.window": 16})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        count = 0
        for step in range(6):
            client.send(b"".join(amqp.publish_frames(1, b"%d" % n, routing_key="q")
                                 for n in range(count, count + 50)))
            if step % 2:
                client.acked_up_to_tags(set(range(count + 1, count + 51)) | open_tags)
                broker.up()
                proxy.wait_event("drain_finished", (step + 1) // 2)
            else:
                open_tags = set(range(count + 1, count + 51))
                broker.down()
                proxy.wait_event("buffering_started", step // 2 + 1)
            count += 50
        client.close()
    proxy.wait_empty()
    bodies = list(dict.fromkeys(message.body for message in broker.messages))
    assert bodies == [b"%d" % n for n in range(300)]


def send_back(connection, message):
    """basic.return, for want of a queue."""
    connection.send(
        amqp.method_frame(message.channel, "basic.return", reply_code=312, reply_text="NO_ROUTE",
                          exchange="", routing_key=message.args["routing_key"]) +
        amqp.frame(amqp.HEADER, message.channel, message.header) +
        amqp.frame(amqp.BODY, message.channel, message.body))


def test_two_equal_messages_are_returned(broker, make_proxy):
    """Both are mandatory, go nowhere, and look alike but for their bodies; the returns come first."""
    proxy = make_proxy(broker.url, AT_ONCE)
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("buffering_started")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for body in (b"1", b"2"):
            client.publish(body, "nowhere", mandatory=True)
        client.acked_up_to(2)
        client.close()
    taken = []

    def take(connection, message):
        taken.append(message)
        if len(taken) < 2:
            return
        for m in taken:
            send_back(connection, m)
        connection.send_method(message.channel, "basic.ack", delivery_tag=2, multiple=True)

    broker.on_message = take
    broker.up()
    proxy.wait_event("drain_finished")
    assert [record["body"] for record in proxy.dump("--rejected")] == ["1", "2"]


@pytest.mark.tick_wakes("who is held for the end of a drain goes on with the tick")
def test_newer_publishes_wait_for_older_ones_of_another_connection(broker, make_proxy):
    """One of two connections is lost; a client of the other one publishes on, then that is lost too."""
    proxy = make_proxy(broker.url, {"pool.upstreams": 2, "pool.window": 4, "drain.window": 4})
    broker.acks = False
    one, two = RawClient(proxy.port), RawClient(proxy.port)
    one.open_channel(confirms=True)
    two.open_channel(confirms=True)
    for number in range(3):
        one.publish(b"one %d" % number, "q")
    broker.wait_messages(3)
    first = broker.connections[0]
    with RawClient(proxy.port) as third:  # asks for one more connection
        third.open_channel()
        third.publish(b"third", "q")
        broker.wait_messages(4)
        proxy.wait_event("upstream_connected", 2)
        second = broker.wait_connection(2)
        two.publish(b"two", "q")
        broker.wait_messages(5)
        assert second.messages[-1].body == b"two"
        second.die()
        for number in range(6):  # more than the drain's window: nobody is held for its end
            two.publish(b"two", "q")
        two.acked_up_to(7)  # from the spool
        one.publish(b"one 3", "q")
        with RawClient(proxy.port) as other:  # it was read
            other.close()
        broker.down()
        one.acked_up_to(4)
        assert first.messages[0].body == b"one 0"
        third.die()
    wait_until(lambda: proxy.waiting() == 12, lambda: f"all in the spool, {proxy.bodies()}")
    assert [body for body in proxy.bodies() if body.startswith("one")] == \
        [f"one {number}" for number in range(4)]
    one.close()
    two.close()


def answered(client):
    """Whether something can be read from it now."""
    return select.select([client.socket], [], [], 0)[0] != []


@pytest.mark.parametrize("what", ["channel", "connection"])
def test_close_is_answered_after_the_confirms(broker, make_proxy, what):
    """P1, for a publisher that asks for no confirms."""
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel()
        other.open_channel()
        for number in range(3):
            client.publish(b"%d" % number, "q")
        client.send_method(what == "channel", f"{what}.close", reply_code=200, reply_text="bye")
        broker.wait_messages(3)
        for upto in (1, 2):
            ack(broker, broker.messages[0], upto)
            # On the same connection, behind the confirm.
            other.call(1, "queue.declare", queue="q", durable=True)
            assert not answered(client), f"closed with {3 - upto} unconfirmed"
        ack(broker, broker.messages[0], 3)
        client.expect(f"{what}.close-ok", what == "channel")
        other.close()
        if what == "channel":
            client.close()


@pytest.mark.parametrize("returned", ["a", "b"])
def test_returns_find_their_message(broker, make_proxy, returned):
    """Two messages that differ by their routing key alone; RabbitMQ returns one of them."""
    proxy = make_proxy(broker.url, AT_ONCE)
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("buffering_started")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for key in ("a", "b"):
            client.publish(b"body", key, mandatory=True)
        client.acked_up_to(2)
        client.close()
    taken = []

    def take(connection, message):
        taken.append(message)
        if len(taken) < 2:
            return
        send_back(connection, next(m for m in taken if m.args["routing_key"] == returned))
        connection.send_method(message.channel, "basic.ack", delivery_tag=2, multiple=True)

    broker.on_message = take
    broker.up()
    proxy.wait_event("drain_finished")
    assert [record["routing_key"] for record in proxy.dump("--rejected")] == [returned]


def test_ack_does_not_stand_inside_a_delivery(broker, make_proxy):
    """A client that consumes and publishes on one channel; RabbitMQ's confirm, which it may send
    between the frames of another channel's content, waits at the proxy until the content is over."""
    proxy = make_proxy(broker.url)
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "basic.consume", queue="q", no_ack=True)
        own = next(connection for connection in broker.connections
                   if "1:basic.consume" in connection.sequence())
        client.call(1, "confirm.select")
        client.publish(b"x", "q")
        broker.wait_messages(1)
        begin = amqp.method_frame(1, "basic.deliver", consumer_tag="consumer", delivery_tag=1,
                                  exchange="", routing_key="q") + \
            amqp.frame(amqp.HEADER, 1, amqp.header(5))
        own.send(begin + amqp.method_frame(1, "basic.ack", delivery_tag=1))
        client.expect("basic.deliver", 1)
        assert client.read().type == amqp.HEADER
        with RawClient(proxy.port) as other:  # several turns of the loop
            other.close()
        own.send(amqp.frame(amqp.BODY, 1, b"12345"))
        assert client.read().type == amqp.BODY
        client.acked_up_to(1)
        client.close()
