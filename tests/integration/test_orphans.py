"""Who is killed with a publish that RabbitMQ has not confirmed is no consumer any more, and owns nothing."""

import time

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until

PATIENT = {"pool.confirm_timeout": "1h"}


def consumes(client):
    client.call(1, "basic.consume", queue="work", consumer_tag="worker")


def has_a_queue_of_its_own(client):
    client.call(1, "queue.declare", queue="mine", exclusive=True)


def is_about_to_consume(client):
    client.send_method(1, "basic.consume", queue="silent", consumer_tag="worker")


def has_a_queue_without_a_name(client):
    client.call(1, "queue.declare")


@pytest.fixture
def broker(broker):
    broker.on_frame = lambda _, frame: (frame.name, frame.args.get("queue")) == ("basic.consume", "silent")
    return broker


def worker(broker, proxy, begins):
    """A client that begins so, and publishes what is not confirmed; the connection that it has to itself."""
    client = RawClient(proxy.port)
    client.open_channel()
    begins(client)
    broker.acks = False
    client.publish(b"result", "stuck")
    broker.wait_messages(1)
    [own] = [c for c in broker.connections if any(f.name == "basic.publish" for f in c.frames)]
    return client, own


def is_closed(own):
    return not own.is_open


@pytest.mark.parametrize("begins", [consumes, has_a_queue_of_its_own, is_about_to_consume])
def test_a_killed_worker_keeps_nothing(broker, make_proxy, begins):
    proxy = make_proxy(broker.url, PATIENT)
    client, own = worker(broker, proxy, begins)
    client.die()
    wait_until(lambda: is_closed(own), "its connection to RabbitMQ is closed")
    assert own.sequence()[-2:] == ["1:channel.close", "0:connection.close"]
    broker.ack_all()
    proxy.wait_empty()
    assert [m.body for m in broker.messages] == [b"result", b"result"]


def test_it_keeps_a_connection_no_longer_than_for_a_confirm(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "1s"})
    client, own = worker(broker, proxy, has_a_queue_without_a_name)
    client.die()
    wait_until(lambda: is_closed(own), "its connection to RabbitMQ is closed")
    assert proxy.bodies() == ["result"]


def test_it_is_waited_for_what_is_about_to_be_confirmed(broker, make_proxy):
    proxy = make_proxy(broker.url, PATIENT)
    client, own = worker(broker, proxy, consumes)
    client.die()
    proxy.wait_event("client_closed")
    broker.ack_all()
    wait_until(lambda: is_closed(own), "its connection to RabbitMQ is closed")
    assert proxy.waiting() == 0 and len(broker.messages) == 1


def test_in_an_alarm_it_is_waited_for_the_end(broker, make_proxy):
    """Until then RabbitMQ reads no close, and then it answers: nothing is sent twice."""
    proxy = make_proxy(broker.url, PATIENT)
    client, own = worker(broker, proxy, consumes)
    broker.everywhere("connection.blocked", reason="scripted")
    proxy.wait_event("upstream_blocked", 2)
    client.die()
    wait_until(lambda: proxy.waiting() == 1, "a copy is stored")
    time.sleep(1.5)  # longer than it is waited for without an alarm
    assert "1:channel.close" not in own.sequence()
    broker.everywhere("connection.unblocked")
    broker.ack_all()
    wait_until(lambda: is_closed(own), "its connection to RabbitMQ is closed")
    proxy.wait_empty()
    assert len(broker.messages) == 1


def test_without_a_spool_it_keeps_nothing_either(broker, make_proxy):
    proxy = make_proxy(broker.url, PATIENT | {"pool.publish_buffer_size": 0})
    client, own = worker(broker, proxy, consumes)
    client.die()
    wait_until(lambda: is_closed(own), "its connection to RabbitMQ is closed")


def be_refused(client):
    client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                amqp.frame(amqp.HEADER, 1, amqp.header(1 << 40)))
    client.expect("channel.close", 1)
    client.send_method(1, "channel.close-ok")


def test_a_queue_of_its_own_stays_while_its_client_does(broker, make_proxy):
    """What it published on a channel that was refused is RabbitMQ's to confirm until it goes."""
    proxy = make_proxy(broker.url, PATIENT)
    client, own = worker(broker, proxy, has_a_queue_of_its_own)
    be_refused(client)
    time.sleep(1.5)  # longer than it is waited for when its client is gone
    assert "1:channel.close" not in own.sequence() and proxy.waiting() == 0
    client.die()
    wait_until(lambda: is_closed(own), "its connection to RabbitMQ is closed")


def test_a_channel_that_is_refused_consumes_no_more(broker, make_proxy):
    """Its client is still there, and hears that what it published is safe."""
    proxy = make_proxy(broker.url, PATIENT)
    client, own = worker(broker, proxy, consumes)
    be_refused(client)
    client.send_method(0, "connection.close", reply_code=200)
    wait_until(lambda: "1:channel.close" in own.sequence(), "its channel is closed at RabbitMQ")
    client.expect("connection.close-ok", 0)
    assert proxy.bodies() == ["result"]
    client.socket.close()
