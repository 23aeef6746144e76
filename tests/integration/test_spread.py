"""A pool's publishers are spread over pool.upstreams, also those that have begun on the same one."""

import itertools
import queue
import threading
import time

import pytest

from conftest import url_of
from support import amqp
from support.raw import RawClient
from support.wait import wait_until


def confirm_all(broker, stop):
    """One message of each connection at a time, oldest first."""
    done = {}
    while not stop.wait(0.002):
        for connection in broker.open_connections():
            at = done.get(connection, 0)
            if at < len(connection.messages):
                connection.ack(connection.messages[at])
                done[connection] = at + 1


def test_who_waits_moves_to_a_lighter_one_in_order(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.upstreams": 2, "pool.window": 16})
    broker.acks = False
    clients = [RawClient(proxy.port) for _ in range(4)]
    for number, client in enumerate(clients):
        client.open_channel(confirms=True)
        client.publish(b"%d 0" % number, f"q{number}")
    broker.wait_messages(4)
    assert len(broker.open_connections()) == 1
    stop = threading.Event()
    confirming = threading.Thread(target=confirm_all, args=(broker, stop))
    for number, client in enumerate(clients):
        for n in range(1, 100):
            client.publish(b"%d %d" % (number, n), f"q{number}")
    wait_until(lambda: len(broker.open_connections()) == 2, "a second connection")
    confirming.start()
    try:
        for client in clients:
            client.acked_up_to(100)
    finally:
        stop.set()
        confirming.join()
    for number in range(4):
        own = [(connection, message.body) for connection in broker.connections
               for message in connection.messages if message.body.startswith(b"%d " % number)]
        assert sorted(body for _, body in own) == sorted(b"%d %d" % (number, n) for n in range(100))
        for connection in broker.connections:  # in order on each of them
            numbers = [int(body.split()[1]) for c, body in own if c is connection] or [0]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    loads = [len(connection.messages) for connection in broker.connections]
    assert len(loads) == 2 and all(100 <= load <= 300 for load in loads), loads
    for client in clients:
        client.close()


class Distant:
    """Confirms what a broker has taken so much later."""

    def __init__(self, broker, seconds):
        self.due = queue.Queue()
        broker.on_message = lambda connection, message: self.due.put(
            (time.monotonic() + seconds, connection, message))
        self.thread = threading.Thread(target=self.confirm)
        self.thread.start()

    def confirm(self):
        while (due := self.due.get()) is not None:
            at, connection, message = due
            time.sleep(max(0, at - time.monotonic()))
            connection.ack(message)

    def close(self):
        self.due.put(None)
        self.thread.join()


STREAMS = 4


@pytest.mark.parametrize("setting,most", [("auto", STREAMS), (2, 2)])
def test_streams_to_a_far_broker_have_a_connection_each(broker, make_proxy, setting, most):
    """Unless it is said how many there are."""
    proxy = make_proxy(broker.url, {"pool.upstreams": setting})
    distant = Distant(broker, 0.1)
    each, is_spread = 1000, threading.Event()

    def stream(number):
        with RawClient(proxy.port) as client:
            client.open_channel()
            for n in itertools.count():
                if n >= each and (most <= 2 or is_spread.is_set()):
                    break
                client.publish(b"%d %d " % (number, n) + bytes(16384), f"q{number}")
            client.close()
            sent[number] = n
    sent = {}
    streams = [threading.Thread(target=stream, args=(number,)) for number in range(STREAMS)]
    for thread in streams:
        thread.start()
    try:
        if most > 2:
            proxy.wait_event("upstream_connected", most)
    finally:
        is_spread.set()
        for thread in streams:
            thread.join()
        distant.close()
    assert len(proxy.events("upstream_connected")) <= most
    for number in range(STREAMS):
        came = [int(message.body.split(b" ", 2)[1]) for message in broker.messages
                if message.args["routing_key"] == f"q{number}"]
        assert came == list(range(sent[number]))


def test_one_alone_stays(broker, make_proxy):
    """It would leave one full window for another, and wait for all of its confirms each time."""
    proxy = make_proxy(broker.url, {"pool.upstreams": 2, "pool.window": 4})
    broker.acks = False
    stop = threading.Event()
    confirming = threading.Thread(target=confirm_all, args=(broker, stop))
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        confirming.start()
        try:
            for n in range(200):
                client.publish(b"%d" % n, "q")
            client.acked_up_to(200)
        finally:
            stop.set()
            confirming.join()
        client.close()
    assert sorted(len(connection.messages) for connection in broker.connections)[-1] == 200


class Keyed:
    """A broker that confirms nothing whose routing key begins like this."""

    def __init__(self, broker, silent):
        self.broker, self.gate = broker, None
        broker.on_message = lambda connection, message: (
            None if message.args["routing_key"].startswith(silent) else connection.ack(message))

    def came(self, key):
        return [message for message in list(self.broker.messages)
                if message.args["routing_key"] == key]


def confirming(proxy):
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    return client


@pytest.mark.parametrize("stallers", [1, 2])
@pytest.mark.parametrize("late", [False, True])
def test_who_has_nothing_under_way_moves_at_once(broker, make_proxy, stallers, late):
    """The window is full of what RabbitMQ does not confirm; also when the second connection opens later
    than the publisher begins to wait."""
    proxy = make_proxy(broker.url, {"pool.upstreams": 2, "pool.window": 8, "pool.confirm_timeout": "1h"})
    keyed = Keyed(broker, "dead")
    other = confirming(proxy)
    other.publish(b"bound", "alive")
    other.acked_up_to(1)
    gate = broker.gate = threading.Event()
    if not late:
        gate.set()
    dead = [confirming(proxy) for _ in range(stallers)]
    for number in range(15 // stallers + 1):
        for who, client in enumerate(dead):
            client.publish(b"x", f"dead{who}-{number}")
    broker.wait_messages(16)
    other.publish(b"now", "alive")
    if late:
        wait_until(lambda: len(broker.connections) == 2, "the second one is dialled")
        gate.set()
    wait_until(lambda: len(keyed.came("alive")) == 2, "it goes on")
    other.acked_up_to_tags({2})
    assert keyed.came("alive")[1] in broker.connections[1].messages
    for client in dead:
        client.die()
    other.close()


def test_one_large_silent_message_holds_nobody(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.upstreams": 2, "pool.window_bytes": "64KiB",
                                    "pool.confirm_timeout": "1h"})
    keyed = Keyed(broker, "dead")
    large, other = confirming(proxy), confirming(proxy)
    other.publish(b"x", "alive")
    other.acked_up_to(1)
    large.publish(bytes(70000), "dead")
    broker.wait_messages(2)
    other.publish(b"y", "alive")
    other.acked_up_to_tags({2})
    assert len(keyed.came("alive")) == 2
    large.die()
    other.close()


def test_one_that_cannot_move_goes_on_where_it_is(broker, make_proxy):
    """It has published to a destination that RabbitMQ does not confirm; its window has room again."""
    proxy = make_proxy(broker.url, {"pool.upstreams": 2, "pool.window": 4, "pool.confirm_timeout": "1h"})
    broker.acks = False
    clients = [confirming(proxy) for _ in range(3)]
    clients[0].publish(b"dead", "dead")
    for number in range(8):
        for who, client in enumerate(clients):
            client.publish(b"%d" % number, f"q{who}")
    stop, done = threading.Event(), {}

    def confirm_others():
        while not stop.wait(0.002):
            for connection in broker.open_connections():
                wanted = [m for m in list(connection.messages) if m.args["routing_key"] != "dead"]
                at = done.get(connection, 0)
                if at < len(wanted):
                    connection.ack(wanted[at])
                    done[connection] = at + 1
    confirming_thread = threading.Thread(target=confirm_others)
    confirming_thread.start()
    try:
        clients[0].acked_up_to_tags(set(range(2, 10)))
        for client in clients[1:]:
            client.acked_up_to(8)
    finally:
        stop.set()
        confirming_thread.join()
    for client in clients:
        client.die()


def test_a_limit_of_channels_closes_no_one_that_has_a_channel(rabbit, make_proxy):
    rabbit.ctl("set_user_limits", "guest", '{"max-channels": 4}')
    try:
        rabbit.declare("limited")
        proxy = make_proxy(url_of(rabbit), {"pool.upstreams": 2, "pool.window": 8},
                           provokes=("client_refused", "upstream_lost"))
        clients = [confirming(proxy) for _ in range(4)]
        for client in clients:
            client.publish(b"first", "limited")
            client.acked_up_to(1)
        with confirming(proxy) as fifth:
            fifth.publish(b"fifth", "limited")
            assert fifth.expect("connection.close").args["reply_code"] == 530
            fifth.die()
        for number in range(20):
            for client in clients:
                client.send(b"".join(amqp.publish_frames(1, b"%d" % n, routing_key="limited")
                                     for n in range(50)))
            for client in clients:
                first = 2 + 50 * number
                client.acked_up_to_tags(set(range(first, first + 50)))
        for client in clients:
            client.close()
    finally:
        rabbit.ctl("clear_user_limits", "guest", "all")
