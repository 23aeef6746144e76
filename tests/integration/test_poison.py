"""Messages that RabbitMQ cannot stand, among those that it takes: only the bad ones are rejected."""

import collections

import pytest

from conftest import url_of
from support import amqp
from support.rabbit import Rabbit
from support.raw import RawClient

LARGEST = 100000
BATCH = 500

# Property flags with delivery-mode and user-id, and their values.
FOREIGN = b"\x10\x10\x02" + b"\x07mallory"

# What makes a message bad, and the reply code that RabbitMQ has for it.
KINDS = {
    "missing": (404, {"exchange": "missing"}, b""),
    "forbidden": (403, {"exchange": "forbidden"}, b""),
    "foreign": (406, {"properties": FOREIGN}, b""),
    "large": (406, {}, b"x" * LARGEST),
}


@pytest.fixture(scope="module")
def shared_rabbit():
    with Rabbit(max_message_size=LARGEST) as rabbit:
        rabbit.ctl("add_user", "limited", "secret")
        rabbit.ctl("set_permissions", "limited", ".*", "^(?!forbidden).*", ".*")
        with rabbit.connect() as connection:
            connection.channel().exchange_declare("forbidden", "direct", durable=True)
        yield rabbit


def spool(rabbit, make_proxy, queue, kinds):
    """A proxy in whose spool they wait: a message for each, None for a good one; bodies start with
    their number."""
    proxy = make_proxy(url_of(rabbit))
    with RawClient(proxy.port, user="limited", password="secret") as client:
        client.open_channel(confirms=True)
        rabbit.stop()
        proxy.wait_event("buffering_started")
        for number, kind in enumerate(kinds, 1):
            _, changes, more = KINDS.get(kind, (0, {}, b""))
            client.publish(b"%d " % number + more, queue, **changes)
            if number % BATCH == 0 or number == len(kinds):
                client.acked_up_to_tags(set(range((number - 1) // BATCH * BATCH + 1, number + 1)))
        client.close()
    return proxy


def check(rabbit, proxy, queue, kinds):
    good = [number for number, kind in enumerate(kinds, 1) if not kind]
    bodies = rabbit.wait_for(queue, len(good))
    proxy.wait_event("drain_finished", progress="drain_sent")
    bodies += [body for *_, body in rabbit.take(queue)]
    arrived = [int(body.split()[0]) for body in bodies]
    assert list(dict.fromkeys(arrived)) == good
    rejected = {record["seq"]: record["rejected"] for record in proxy.dump("--rejected")}
    bad = {number: KINDS[kind][0] for number, kind in enumerate(kinds, 1) if kind}
    assert {seq: refused["code"] for seq, refused in rejected.items()} == bad
    assert all(refused["text"] for refused in rejected.values())
    return len(arrived) - len(good)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_head_in_the_middle_and_at_the_tail(rabbit, make_proxy, queue, kind):
    kinds = [None] * 1000
    kinds[0] = kinds[500] = kinds[999] = kind
    proxy = spool(rabbit, make_proxy, queue, kinds)
    rabbit.start()
    check(rabbit, proxy, queue, kinds)


def test_every_tenth_of_ten_thousand(rabbit, make_proxy, queue):
    several = list(KINDS)
    kinds = [several[n // 10 % len(several)] if n % 10 == 3 else None for n in range(10000)]
    proxy = spool(rabbit, make_proxy, queue, kinds)
    rabbit.start()
    duplicates = check(rabbit, proxy, queue, kinds)
    # A lost channel can duplicate a window, which narrows to what went well before it.
    assert duplicates <= 2 * 16 * collections.Counter(bool(kind) for kind in kinds)[True]


def test_all_are_bad(rabbit, make_proxy, queue):
    kinds = ["missing"] * 300
    proxy = spool(rabbit, make_proxy, queue, kinds)
    rabbit.start()
    check(rabbit, proxy, queue, kinds)


def test_words_that_point_at_nobody(broker, make_proxy):
    """The one bad message among many is found all the same, by smaller and smaller windows."""
    proxy = make_proxy(broker.url, {"drain.nack_limit": 1})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        for number in range(1, 201):
            client.publish(b"%d" % number, "q")
        client.acked_up_to(200)
        client.close()

    def refuse(connection, frame):
        if frame.type == amqp.BODY and frame.payload == b"150":
            connection.send_method(1, "channel.close", reply_code=541,
                                   reply_text="INTERNAL_ERROR", class_id=60, method_id=40)
            connection._partial.clear()
            return True
        return False

    broker.on_frame = refuse
    broker.up()
    proxy.wait_event("drain_finished")
    arrived = [int(message.body) for message in broker.messages]
    assert list(dict.fromkeys(arrived)) == [n for n in range(1, 201) if n != 150]
    assert [record["rejected"]["code"] for record in proxy.dump("--rejected")] == [541]


def test_keys_of_one_exchange(rabbit, make_proxy, queue):
    """A topic that the user may not publish to is told from the others by its key."""
    rabbit.ctl("set_topic_permissions", "limited", "amq.topic", "^good", ".*")
    with rabbit.connect() as connection:
        connection.channel().queue_bind(queue, "amq.topic", "good")
    count, bad = 200, 150
    proxy = make_proxy(url_of(rabbit))
    with RawClient(proxy.port, user="limited", password="secret") as client:
        client.open_channel(confirms=True)
        rabbit.stop()
        proxy.wait_event("buffering_started")
        for number in range(1, count + 1):
            key = "bad" if number == bad else "good"
            client.publish(b"%d" % number, key, exchange="amq.topic")
        client.acked_up_to_tags(set(range(1, count + 1)))
        client.close()
    rabbit.start()
    good = [number for number in range(1, count + 1) if number != bad]
    bodies = rabbit.wait_for(queue, len(good))
    proxy.wait_event("drain_finished", progress="drain_sent")
    arrived = [int(body) for body in bodies + [body for *_, body in rabbit.take(queue)]]
    assert list(dict.fromkeys(arrived)) == good
    assert [record["seq"] for record in proxy.dump("--rejected")] == [bad]
    # One window, and what stands behind the one that is sent alone.
    assert len(arrived) - len(good) <= count
