"""Who waits, and for whom: one destination that RabbitMQ does not confirm, one client that does not
go on, hold nobody else."""

import subprocess
import threading

import pytest

from conftest import url_of
from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until


def confirm_all_but(*stuck):
    """An `on_message` of a broker that never confirms what has one of these routing keys."""

    def on_message(connection, message):
        if message.args["routing_key"] not in stuck and message.tag:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)
    return on_message


def count(broker, key):
    return sum(message.args["routing_key"] == key for message in broker.messages)


def flood(proxy, key, messages):
    """A publisher with more for that destination than may be under way."""
    client = RawClient(proxy.port)
    client.open_channel()
    for i in range(messages):
        client.publish(b"%d" % i, key)
    return client


def test_a_destination_that_confirms_nothing_leaves_room_for_others(broker, make_proxy):
    broker.on_message = confirm_all_but("stuck")
    proxy = make_proxy(broker.url, {"pool.window": 8, "drain.window": 8, "pool.upstreams": 1})
    with RawClient(proxy.port) as before:
        before.open_channel(confirms=True)
        before.publish(b"1", "fine")
        before.acked_up_to(1)
        floods = [flood(proxy, "stuck", 20) for _ in range(3)]
        wait_until(lambda: count(broker, "stuck") == 8, "the window is full of it")
        for i in range(2, 30):
            before.publish(b"%d" % i, "fine")
            before.acked_up_to_tags({i})
        with RawClient(proxy.port) as after:
            after.open_channel(confirms=True)
            after.publish(b"after", "also fine")
            after.acked_up_to(1)
            after.publish(b"after", "stuck")  # and this one waits its turn
            assert count(broker, "stuck") == 8
            assert proxy.waiting() == 0
            assert not proxy.events("upstream_lost")
        broker.on_message = None
        stuck = [m for m in broker.messages if m.args["routing_key"] == "stuck"]
        for message in stuck:
            broker.connections[0].send_method(message.channel, "basic.ack",
                                              delivery_tag=message.tag)
        wait_until(lambda: count(broker, "stuck") >= 60, "what was held goes out in its turn")
        for client in floods:
            client.socket.close()


def test_a_drain_begins_beside_a_live_publish_without_a_confirm(broker, make_proxy):
    """On an upstream that lives on, as that of a client that has one of its own."""
    broker.on_message = confirm_all_but("stuck")
    broker.on_frame = lambda connection, frame: frame.name == "basic.get" and (
        connection.send_method(frame.channel, "basic.get-empty") or True)
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as own, RawClient(proxy.port) as shared:
        own.open_channel()
        own.call(1, "basic.get", answer="basic.get-empty", queue="q")
        own.publish(b"one", "stuck")
        wait_until(lambda: count(broker, "stuck") == 1, "it is under way")
        shared.open_channel(confirms=True)
        shared.publish(b"1", "fine")
        shared.acked_up_to(1)
        next(c for c in broker.open_connections()
             if any(m.args["routing_key"] == "fine" for m in c.messages)).die()
        proxy.wait_event("upstream_lost")
        for i in range(2, 12):
            shared.publish(b"%d" % i, "fine")
            shared.acked_up_to_tags({i})
        wait_until(lambda: count(broker, "fine") == 11, "everything else is drained")
        proxy.wait_empty()
        assert count(broker, "stuck") == 1


# ---- places in the queue ----

BODY_FRAME = 7 + 2 + 1  # bytes of one with a body of two


@pytest.mark.parametrize("offline", [False, True])
def test_publishes_that_do_not_go_on_take_no_place(broker, make_proxy, offline):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 20})
    with RawClient(proxy.port) as idle, RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"1", "q")
        client.acked_up_to(1)
        for channel in range(1, 41):
            idle.open_channel(channel)
        if offline:
            broker.down()
            proxy.wait_event("upstream_lost")
        for channel in range(1, 41):
            idle.send_method(channel, "basic.publish", routing_key="q")
        idle.call(41, "channel.open")  # all of that was read
        for tag in range(2, 22):
            client.publish(b"%d" % tag, "q")
            client.acked_up_to_tags({tag})
        assert proxy.waiting() == (20 if offline else 0)


def test_the_last_place_is_given_once(broker, make_proxy):
    """Two publishes begin while there is one place; the second to be complete is refused."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 1, "spool.overflow": "reject"})
    with RawClient(proxy.port) as first, RawClient(proxy.port) as second:
        for client in (first, second):
            client.open_channel(confirms=True)
            client.publish(b"live", "q")
            client.acked_up_to(1)
        broker.down()
        proxy.wait_event("upstream_lost")
        frames = amqp.publish_frames(1, b"12", routing_key="q")
        for client in (first, second):
            client.send(frames[:-BODY_FRAME])
            client.call(2, "channel.open")
        second.send(frames[-BODY_FRAME:])
        second.acked_up_to_tags({2})
        first.send(frames[-BODY_FRAME:])
        assert first.expect("basic.nack").args["delivery_tag"] == 2
        assert proxy.waiting() == 1


def test_a_destination_set_aside_leaves_places_for_others(broker, make_proxy):
    broker.on_message = confirm_all_but("stuck")
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 40, "pool.confirm_timeout": "200ms",
                                    "spool.overflow": "reject", "pool.window": 8, "drain.window": 8})
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel(confirms=True)
        other.open_channel(confirms=True)
        for i in range(50):
            client.publish(b"%d" % i, "stuck")
        taken = set()
        while len(taken) < 50:
            frame = client.read()
            tag = frame.args["delivery_tag"]
            taken |= set(range(1, tag + 1)) if frame.args["multiple"] else {tag}
        assert 30 <= proxy.waiting() < 40
        for tag in range(1, 100):
            other.publish(b"%d" % tag, "fine")
            other.acked_up_to_tags({tag})


# ---- clients that are held and end ----


@pytest.fixture
def full(broker, make_proxy):
    """A proxy whose queue is full and holds publishers."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 3, "spool.overflow": "block",
                                    "pool.confirm_timeout": "500ms"})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"live", "q")
        client.acked_up_to(1)
        broker.down()
        proxy.wait_event("upstream_lost")
        for i in range(3):
            client.publish(b"%d" % i, "q")
        client.acked_up_to_tags({2, 3, 4})
    wait_until(lambda: len(proxy.events("client_closed")) == 1, "the first client has gone")
    return proxy


@pytest.mark.parametrize("end", ["reset", "close"])
def test_the_end_of_a_held_client_is_seen(full, end):
    held = []
    for _ in range(10):
        client = RawClient(full.port)
        client.open_channel()
        client.publish(b"job", "q")
        held.append(client)
    for client in held:
        client.expect("connection.blocked")
        if end == "reset":
            client.die()
        else:
            client.socket.close()
    full.wait_event("client_closed", 11)
    assert full.waiting() == 3


def test_what_a_client_sent_before_its_end_is_taken(broker, make_proxy):
    """It was held for a moment, as by a busy RabbitMQ."""
    broker.acks = False
    proxy = make_proxy(broker.url, {"pool.window": 4, "drain.window": 4, "pool.upstreams": 1})
    client = RawClient(proxy.port)
    client.open_channel()
    for i in range(20):
        client.publish(b"%d" % i, "q")
    broker.wait_messages(4)
    client.socket.close()
    broker.acks = True
    for message in broker.messages[:4]:
        broker.connections[0].send_method(message.channel, "basic.ack", delivery_tag=message.tag)
    assert broker.wait_messages(20) == [b"%d" % i for i in range(20)]


def keepalive(port, side):
    """Whether each established connection of that port has the timer, as ss shows it."""
    shown = subprocess.run(["ss", "-tnoH", "state", "established", f"( {side} = :{port} )"],
                           stdout=subprocess.PIPE, check=True, text=True).stdout
    return ["keepalive" in line for line in shown.splitlines()]


def test_keepalive_on_both_sides(broker, make_proxy):
    proxy = make_proxy(broker.url, {"upstream.heartbeat": 0})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"1", "q")
        client.acked_up_to(1)
        for port, side in ((proxy.port, "sport"), (broker.port, "dport")):
            wait_until(lambda p=port, s=side: keepalive(p, s) == [True], f"keepalive on {side}")


# ---- channel numbers ----


def test_a_drain_finds_a_channel_number(make_proxy):
    """All others of the only upstream are taken by channels that wait for their next client."""
    with FakeBroker(channel_max=4) as broker:
        proxy = make_proxy(broker.url, {"pool.upstreams": 1})
        clients = [RawClient(proxy.port) for _ in range(3)]
        for client in clients:
            client.open_channel()
            client.publish(b"live", "q")
        broker.wait_messages(3)
        for client in clients:
            client.call(1, "channel.close", reply_code=200)
            client.close()
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            broker.everywhere("connection.blocked", reason="scripted")
            proxy.wait_event("upstream_blocked")
            client.publish(b"spooled", "q")
            client.acked_up_to(1)
            broker.everywhere("connection.unblocked")
            assert broker.wait_messages(4)[-1] == b"spooled"
            proxy.wait_empty()
            assert len(broker.connections) == 1


def test_a_drain_with_one_channel_number_in_all(make_proxy):
    with FakeBroker(channel_max=1) as broker:
        proxy = make_proxy(broker.url)
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(b"1", "q")
            client.acked_up_to(1)
            broker.everywhere("connection.blocked", reason="scripted")
            proxy.wait_event("upstream_blocked")
            client.publish(b"2", "q")
            client.acked_up_to_tags({2})
            broker.everywhere("connection.unblocked")
            assert broker.wait_messages(2) == [b"1", b"2"]
            proxy.wait_empty()


def test_a_clients_own_upstream_has_the_channels_it_was_offered(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.max_channels": 2})
    with RawClient(proxy.port) as client:
        for channel in range(1, 6):
            client.open_channel(channel)
            client.call(channel, "basic.consume", queue="q")


def test_a_clients_own_upstream_without_a_number_left(make_proxy):
    """RabbitMQ allows fewer channels than it did when the client was tuned."""
    with FakeBroker(channel_max=4) as broker:
        proxy = make_proxy(broker.url)
        client = RawClient(proxy.port)
        broker.channel_max = 2
        for channel in (1, 2):
            client.open_channel(channel)
            client.call(channel, "basic.consume", queue="q")
        client.open_channel(3)
        client.send_method(3, "basic.consume", queue="q")
        assert "no more channels" in client.expect_close(530)


def test_more_channels_than_rabbitmq_has_numbers(make_proxy):
    """It allows no second connection: what finds no number goes through the spool."""
    with FakeBroker(channel_max=4) as broker:
        proxy = make_proxy(broker.url)
        clients = [RawClient(proxy.port) for _ in range(3)]
        for client in clients:
            client.open_channel(confirms=True)
            client.publish(b"live", "q")
            client.acked_up_to(1)
        broker.hangs_up = True
        with RawClient(proxy.port) as late:
            late.open_channel(confirms=True)
            for number in range(5):
                late.publish(b"%d" % number, "q")
            late.acked_up_to(5)
            proxy.wait_empty()
            assert broker.wait_messages(8)[3:] == [b"%d" % number for number in range(5)]
        for client in clients:
            client.publish(b"again", "q")
            client.acked_up_to_tags({2})
            client.socket.close()
        assert not proxy.events("upstream_lost")


def test_a_rabbitmq_that_reads_nothing(broker, make_proxy):
    """But sends heartbeats: its connection is given up, and what was on it is spooled."""
    stuck = threading.Event()

    def on_message(connection, message):
        if connection is broker.connections[0]:
            stuck.wait()
        else:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)
    broker.on_message = on_message
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "500ms", "upstream.heartbeat": 0,
                                    "pool.window": 1000, "pool.window_bytes": "64MiB"})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.wait_connection()
        for _ in range(12):
            client.publish(bytes(1 << 20), "q")
        assert "has read nothing" in proxy.wait_event("upstream_lost")["reason"]
        client.acked_up_to(12)
        proxy.wait_empty()
        stuck.set()


# ---- turns ----


def test_those_who_wait_get_their_turn(broker, make_proxy):
    """Each confirm lets one of those go on who wait for that destination, in their order."""
    broker.acks = False
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1, "pool.upstreams": 1})
    clients = [RawClient(proxy.port) for _ in range(20)]
    for number, client in enumerate(clients):
        client.open_channel()
        client.publish(b"%d" % number, "q")
        client.publish(b"%d" % (100 + number), "q")
        if number == 0:
            broker.wait_messages(1)
    answered = 0
    while answered < 40:
        broker.wait_messages(answered + 1)
        assert len(broker.messages) == answered + 1
        message = broker.messages[answered]
        broker.connections[0].send_method(message.channel, "basic.ack", delivery_tag=message.tag)
        answered += 1
    bodies = [int(message.body) for message in broker.messages]
    firsts = [body for body in bodies if body < 100]
    assert sorted(bodies) == [*range(20), *range(100, 120)]
    assert all(bodies.index(n) < bodies.index(100 + n) for n in range(20))
    assert max(bodies.index(n) for n in firsts) < 25, bodies  # nobody twice before all once
    for client in clients:
        client.socket.close()


# ---- who does not read ----


def consume_unread(port, queue, confirms):
    """A consumer to which more has been delivered than it has read."""
    client = RawClient(port, receive_buffer=64 * 1024)
    client.open_channel(confirms=confirms)
    client.call(1, "basic.consume", queue=queue, no_ack=True)
    return client


@pytest.mark.parametrize("confirms", [False, True])
def test_a_worker_that_publishes_before_it_reads(rabbit, make_proxy, queue, confirms):
    """As from RabbitMQ, which takes publishes of a client that does not read what it is sent: who
    publishes from a callback reads again only when all of that is written."""
    proxy = make_proxy(url_of(rabbit), {"pool.window": 16, "pool.window_bytes": "1MiB"})
    rabbit.delete("out")
    rabbit.declare("out")
    with proxy.connect() as connection:
        channel = connection.channel()
        for _ in range(300):
            channel.basic_publish("", queue, bytes(100_000))
    with consume_unread(proxy.port, queue, confirms) as client:
        wait_until(lambda: rabbit.count(queue) < 300, "something is delivered")
        for number in range(300):
            client.publish(b"%03d" % number + bytes(100_000), "out")
        delivered = confirmed = 0
        while delivered < 300 * 100_000 or (confirms and confirmed < 300):
            frame = client.read()
            if frame.type == amqp.BODY:
                delivered += len(frame.payload)
            elif frame.name == "basic.ack":
                confirmed = frame.args["delivery_tag"]
        client.close()
    assert [body[:3] for body in rabbit.wait_for("out", 300)] == [b"%03d" % n for n in range(300)]
