"""Publishers that are told to leave and do not listen: what they have sent is stored, or known to be
lost."""

import threading

import pytest

from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until


@pytest.fixture(params=["live", "outage"])
def away(broker, make_proxy, request):
    """(proxy, state): a proxy before RabbitMQ or one that buffers."""
    proxy = make_proxy(broker.url)
    return proxy, request.param


def begin(proxy, broker, state, confirms=False):
    client = RawClient(proxy.port)
    client.open_channel(confirms=confirms)
    if state == "outage":
        broker.down()
        proxy.wait_event("buffering_started")
    return client


def stop(proxy):
    """SIGTERM; returns when clients are told."""
    proxy.signal_term()
    proxy.wait_event("client_refused")


def restarted(proxy):
    proxy.wait_end()
    proxy.start()


def told(client):
    """It looks at last, and has been told; everything before it goes by."""
    while True:
        frame = client.read()
        assert frame is not None
        if frame.name == "connection.close":
            return frame.args["reply_code"]


def test_what_a_deaf_publisher_goes_on_sending_is_stored(broker, away):
    proxy, state = away
    client = begin(proxy, broker, state)
    stop(proxy)
    bodies = [b"%d" % number for number in range(500)]
    for body in bodies:
        client.publish(body, "q")
    assert told(client) == 320
    client.send_method(0, "connection.close-ok")
    assert client.read() is None
    broker.down()
    restarted(proxy)
    assert proxy.bodies() == [body.decode() for body in bodies]
    client.socket.close()


@pytest.mark.parametrize("cut", [3, 30, 60])
def test_a_publish_that_was_under_way_is_stored_whole(broker, away, cut):
    """One half before the end begins, the other behind it; and one that never gets its other half."""
    proxy, state = away
    client = begin(proxy, broker, state)
    frames = amqp.publish_frames(1, b"x" * 20, routing_key="q")
    assert len(frames) > cut
    client.send(frames[:cut])
    with RawClient(proxy.port) as other:  # a round trip: it was read
        other.close()
    stop(proxy)
    client.send(frames[cut:] + frames[:cut])
    assert told(client) == 320
    client.socket.close()
    broker.down()
    restarted(proxy)
    assert proxy.bodies() == ["x" * 20]


def test_a_close_that_crosses_is_answered_when_all_is_stored(broker, away):
    """A job ends just now, and has not seen that it shall leave."""
    proxy, state = away
    client = begin(proxy, broker, state)
    stop(proxy)
    client.publish(b"last", "q")
    client.send_method(0, "connection.close", reply_code=200)
    assert told(client) == 320
    client.expect("connection.close-ok", 0)
    broker.down()
    proxy.kill9()
    assert proxy.bodies() == ["last"]
    client.socket.close()


def test_publishers_that_hear_what_is_safe_send_the_rest_themselves(broker, away):
    """In confirm mode what was not acked is known to be open; storing it would make copies."""
    proxy, state = away
    client = begin(proxy, broker, state, confirms=True)
    stop(proxy)
    client.publish(b"not acked", "q")
    assert told(client) == 320
    client.send_method(0, "connection.close-ok")
    assert client.read() is None
    broker.down()
    restarted(proxy)
    assert proxy.bodies() == []
    client.socket.close()


def test_held_publishers_are_looked_at_as_well(broker, make_proxy):
    """The window is full: the rest waits in the proxy and in the socket when the end comes."""
    proxy = make_proxy(broker.url, {"pool.window": 4, "drain.window": 4, "listen.shutdown_timeout": "1s"})
    broker.acks = False
    client = RawClient(proxy.port)
    client.open_channel()
    bodies = [b"%d" % number for number in range(50)]
    for body in bodies:
        client.publish(body, "q")
    wait_until(lambda: len(broker.messages) >= 4, "a full window")
    stop(proxy)
    assert told(client) == 320
    client.send_method(0, "connection.close-ok")
    assert client.read() is None
    broker.down()
    restarted(proxy)
    assert proxy.bodies() == [body.decode() for body in bodies]
    client.socket.close()


def test_publishes_behind_a_call_that_waits_for_rabbitmq(broker, make_proxy):
    """RabbitMQ has gone over it, and is being dialled to be asked again when the end comes."""
    proxy = make_proxy(broker.url, {"upstream.connect_timeout": "60s"})
    broker.silent_on.add("queue.delete")
    client = RawClient(proxy.port)
    client.open_channel()
    client.send_method(1, "queue.delete", queue="old")
    wait_until(lambda: any("1:queue.delete" in c.sequence() for c in broker.connections), "it is asked")
    broker.gate = threading.Event()
    for connection in broker.open_connections():
        connection.die()
    proxy.wait_event("upstream_lost")
    bodies = [b"%d" % number for number in range(50)]
    for body in bodies:
        client.publish(body, "q")
    stop(proxy)
    assert told(client) == 320
    client.send_method(0, "connection.close-ok")
    assert client.read() is None
    broker.down()
    broker.gate.set()
    restarted(proxy)
    assert proxy.bodies() == [body.decode() for body in bodies]
    client.socket.close()


def test_a_full_queue_takes_what_finds_room_again(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 3})
    client = begin(proxy, broker, "outage")
    for number in range(5):
        client.publish(b"%d" % number, "q")
    proxy.wait_event("client_refused")
    broker.up()
    broker.wait_messages(3)
    proxy.wait_empty()
    client.publish(b"room again", "q")
    assert told(client) == 506
    client.send_method(0, "connection.close-ok")
    assert client.read() is None
    wait_until(lambda: [m.body for m in broker.messages] == [b"0", b"1", b"2", b"room again"],
               lambda: [m.body for m in broker.messages])
    client.socket.close()


def test_nonsense_ends_it(broker, away):
    proxy, state = away
    client = begin(proxy, broker, state)
    stop(proxy)
    client.publish(b"stored", "q")
    client.send(amqp.method_frame(1, "basic.publish", routing_key="q") * 2)
    client.publish(b"behind nonsense", "q")
    assert told(client) == 320
    client.send_method(0, "connection.close-ok")
    assert client.read() is None
    broker.down()
    restarted(proxy)
    assert proxy.bodies() == ["stored"]
    client.socket.close()


def test_without_a_spool_there_is_nowhere_to_store(make_proxy):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0})
        client = begin(proxy, broker, "live")
        stop(proxy)
        client.publish(b"lost", "q")
        assert told(client) == 320
        client.send_method(0, "connection.close-ok")
        assert client.read() is None
        client.socket.close()
        proxy.wait_end()


def test_a_job_that_ends_without_looking(broker, away):
    """It is gone when it is told: its socket is closed with our close unread in it."""
    proxy, state = away
    client = begin(proxy, broker, state)
    stop(proxy)
    bodies = [b"%d" % number for number in range(500)]
    client.send(b"".join(amqp.publish_frames(1, body, routing_key="q") for body in bodies))
    client.socket.close()
    broker.down()
    restarted(proxy)
    assert proxy.bodies() == [body.decode() for body in bodies]
