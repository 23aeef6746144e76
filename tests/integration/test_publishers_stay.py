"""Publishing connections stay open over an outage, whatever they have done before; who would lose
something with RabbitMQ (consumers, deliveries that are not settled, queues of its own) hears 320."""

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until


def consume(client, channel=1, **args):
    return client.call(channel, "basic.consume", queue="q", **args).args["consumer_tag"]


def deliver(broker, channel, kind="basic.deliver", **args):
    """As from RabbitMQ, on the connection that the client has of its own; and it has arrived."""
    own = broker.connections[-1]
    own.send(amqp.method_frame(channel, kind, delivery_tag=1, routing_key="q", **args) +
             amqp.content_frames(channel, b"delivered"))


def read_message(client, kind="basic.deliver"):
    client.expect(kind)
    assert client.read().type == amqp.HEADER and client.read().payload == b"delivered"


def get(client, broker, answer="basic.get-ok", channel=1, **args):
    broker.silent_on.add("basic.get")
    client.send_method(channel, "basic.get", queue="q", **args)
    wait_until(lambda: any("1:basic.get" in c.sequence() for c in broker.connections), "get")
    if answer == "basic.get-empty":
        broker.connections[-1].send_method(1, "basic.get-empty")
        client.expect("basic.get-empty")
    else:
        deliver(broker, 1, "basic.get-ok")
        read_message(client, "basic.get-ok")


def cancel(client, tag="consumer"):
    client.call(1, "basic.cancel", consumer_tag=tag)


def nothing_was_there(client, broker):
    get(client, broker, "basic.get-empty")


def got_without_ack(client, broker):
    get(client, broker, no_ack=True)


def got_and_settled(client, broker):
    get(client, broker)
    client.send_method(1, "basic.ack", delivery_tag=1)


def cancelled(client, broker):
    consume(client)
    cancel(client)


def cancelled_and_settled(client, broker):
    consume(client)
    deliver(broker, 1, consumer_tag="consumer")
    read_message(client)
    cancel(client)
    client.send_method(1, "basic.nack", delivery_tag=0, multiple=True)


def cancelled_by_rabbitmq(client, broker):
    consume(client)
    broker.connections[-1].send_method(1, "basic.cancel", consumer_tag="consumer")
    client.expect("basic.cancel")


def channel_closed(client, broker):
    consume(client)
    deliver(broker, 1, consumer_tag="consumer")
    read_message(client)
    client.call(1, "channel.close", reply_code=200)
    client.open_channel()


def queue_named_by_rabbitmq(client, broker):
    client.call(1, "queue.declare")


def prefetch_set(client, broker):
    client.call(1, "basic.qos", prefetch_count=10)


def asked_for_a_queue(client, broker):
    """Libraries send what a queue is declared with also to ask whether it is there."""
    client.call(1, "queue.declare", queue="q", passive=True, exclusive=True)


def got_in_a_transaction(client, broker):
    """On a channel beside the one that publishes; it has been acked, and no more."""
    client.open_channel(2)
    client.call(2, "tx.select")
    get(client, broker, channel=2)
    client.send_method(2, "basic.ack", delivery_tag=1)


def settled_in_a_transaction(client, broker):
    got_in_a_transaction(client, broker)
    client.call(2, "tx.commit")


STAY = [nothing_was_there, got_without_ack, got_and_settled, cancelled, cancelled_and_settled,
        cancelled_by_rabbitmq, channel_closed, queue_named_by_rabbitmq, prefetch_set,
        settled_in_a_transaction, asked_for_a_queue]


def still_consuming(client, broker):
    consume(client)


def another_was_cancelled(client, broker):
    consume(client)
    cancel(client, "no such")


def consuming_elsewhere(client, broker):
    client.open_channel(2)
    consume(client, 2)


def not_settled(client, broker):
    get(client, broker)


def cancelled_and_not_settled(client, broker):
    consume(client)
    deliver(broker, 1, consumer_tag="consumer")
    read_message(client)
    cancel(client)


def exclusive_queue(client, broker):
    client.call(1, "queue.declare", queue="mine", exclusive=True)


def rolled_back(client, broker):
    got_in_a_transaction(client, broker)
    client.call(2, "tx.rollback")
    client.call(2, "tx.commit")


GO = [still_consuming, another_was_cancelled, consuming_elsewhere, not_settled,
      cancelled_and_not_settled, exclusive_queue, got_in_a_transaction, rolled_back]


@pytest.fixture
def proxy(broker, make_proxy):
    return make_proxy(broker.url)


@pytest.mark.parametrize("before", STAY)
def test_publishes_on(broker, proxy, before):
    with RawClient(proxy.port) as client:
        client.open_channel()
        before(client, broker)
        client.call(1, "confirm.select")
        client.publish(b"before", "q")
        client.acked_up_to(1)
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"in the outage", "q")
        client.acked_up_to_tags({2})
        broker.up()
        proxy.wait_event("drain_finished")
        client.publish(b"behind it", "q")
        client.acked_up_to_tags({3})
        client.close()
    assert [m.body for m in broker.messages] == [b"before", b"in the outage", b"behind it"]


@pytest.mark.parametrize("before", GO)
def test_is_told(broker, proxy, before):
    with RawClient(proxy.port) as client:
        client.open_channel()
        before(client, broker)
        broker.down()
        assert "Lost connection" in client.expect_close(320)


def test_a_channel_that_is_being_closed(broker, proxy):
    """RabbitMQ has not answered when it is lost; its consumer was given up before."""
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.open_channel(2)
        consume(client, 2)
        broker.silent_on.add("channel.close")
        client.send_method(2, "channel.close", reply_code=200)
        wait_until(lambda: "1:channel.close" in broker.connections[-1].sequence(), "close")
        broker.down()
        broker.silent_on.clear()
        client.expect("channel.close-ok", 2)
        client.publish(b"in the outage", "q")
        client.acked_up_to(1)
        client.close()
    broker.up()
    proxy.wait_event("drain_finished")
    assert [m.body for m in broker.messages] == [b"in the outage"]


def test_its_own_connection_alone_is_lost(broker, proxy):
    """RabbitMQ is there: what was not confirmed arrives, and publishing goes on."""
    with RawClient(proxy.port) as client:
        client.open_channel()
        cancelled(client, broker)
        client.call(1, "confirm.select")
        broker.acks = False
        client.publish(b"first", "q")
        wait_until(lambda: len(broker.messages) == 1, "it is under way")
        broker.acks = True
        broker.connections[-1].die()
        client.acked_up_to(1)
        client.publish(b"second", "q")
        client.acked_up_to_tags({2})
        wait_until(lambda: broker.messages[-1].body == b"second", "both arrive")
        client.close()
    assert [m.body for m in broker.messages] == [b"first", b"first", b"second"]
