"""A pool's publishers are spread over pool.upstreams, also those that have begun on the same one."""

import threading

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
