"""Who may go on goes on at once. The proxy looks around four times a second as well, which hides a
wake-up that was lost; here it does so once an hour."""

import threading

import pytest

from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.tokens import token
from support.wait import wait_until

RARELY = {"AMQPBUF_TEST_TICK_MS": "3600000"}
BODY = b"x" * 100000
COUNT = 300


def arrives(broker):
    """Much sooner than other events of that hour would bring it on."""
    wait_until(lambda: len(broker.messages) >= COUNT,
               lambda: f"{COUNT} messages, got {len(broker.messages)}", timeout=25)


def publishes(client, channel=1):
    return amqp.publish_frames(channel, BODY, routing_key="q", frame_max=client.frame_max) * COUNT


def test_transaction_larger_than_the_buffers(broker, make_proxy):
    """Its connection to RabbitMQ is full again and again, and no confirm makes an event."""
    proxy = make_proxy(broker.url, environment=RARELY)
    client = RawClient(proxy.port)
    client.open_channel()
    client.call(1, "tx.select")
    threading.Thread(target=client.send, args=(publishes(client),), daemon=True).start()
    arrives(broker)
    client.call(1, "tx.commit")
    client.close()


def test_publishes_to_a_broker_without_confirms(make_proxy):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url, environment=RARELY)
        client = RawClient(proxy.port)
        client.open_channel()
        threading.Thread(target=client.send, args=(publishes(client),), daemon=True).start()
        arrives(broker)
        client.close()


def test_answers_larger_than_the_buffers(broker, make_proxy):
    """A client gets more than it reads, while it publishes: it is held, and goes on by reading."""
    proxy = make_proxy(broker.url, environment=RARELY)
    client = RawClient(proxy.port, receive_buffer=4096)
    client.open_channel(confirms=True)
    count = 20000
    for name in ("a", "b"):
        client.call(1, "queue.declare", queue=name)
    client.socket.settimeout(0.2)
    data = amqp.method_frame(1, "queue.declare", queue="n" * 200, passive=True) * count
    try:
        client.send(data)
    except TimeoutError:
        pass  # nobody reads the answers: at some point nothing more is taken
    client.socket.settimeout(60)
    answered = client.expect("queue.declare-ok")
    assert answered.args["queue"] == "n" * 200


@pytest.mark.parametrize("size", [1, 200000])
def test_outage_and_back(broker, make_proxy, size):
    """Into the spool and out of it, with publishers that are held at either switch."""
    proxy = make_proxy(broker.url, {"pool.window": 8, "drain.window": 8}, environment=RARELY)
    clients = [RawClient(proxy.port) for _ in range(3)]
    for client in clients:
        client.open_channel(confirms=True)
    tags = 0
    for turn in range(3):
        for client in clients:
            for _ in range(20):
                client.publish(b"x" * size, "q")
        tags += 20
        if turn == 0:
            broker.down()
            proxy.wait_event("buffering_started")
        elif turn == 1:
            broker.up()
        for client in clients:
            client.acked_up_to_tags(set(range(tags - 19, tags + 1)))
    proxy.wait_empty()
    wait_until(lambda: len(proxy.events("drain_finished")) >= 1, "the drain ends")
    for client in clients:
        client.close()


def test_a_place_of_another_pool_of_the_queue(broker, make_proxy):
    """Two tokens with other permissions: two pools, one queue."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 1})
    broker.acks = False
    clients = [RawClient(proxy.port, user="", password=token("shop", scope=[scope]))
               for scope in ("a", "b")]
    for client in clients:
        client.open_channel(confirms=True)
    clients[0].publish(b"a", "q")
    broker.wait_messages(1)
    clients[1].publish(b"b", "q")
    broker.acks = True
    for connection in broker.open_connections():
        for message in connection.messages:
            connection.ack(message)
    clients[0].acked_up_to(1)
    clients[1].acked_up_to(1)
    for client in clients:
        client.close()
