"""kill -9 of the proxy at every step of a drain, against a scripted broker: what was accepted goes
out all the same, in order, and again only if its confirm had not arrived."""

import pytest

from support.broker import FakeBroker
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until

BODIES = [b"one", b"two"]


def taken(broker):
    return [message.body for message in broker.messages]


def go_deaf_at(broker, number):
    """From its number-th frame on, a connection gets no answer and its messages are not taken."""
    broker.on_frame = lambda connection, _frame: len(connection.frames) >= number


STEPS = [(True, number) for number in range(1, 10)] + [(False, number) for number in range(1, 9)]


@pytest.mark.parametrize("confirms,number", STEPS)
def test_kill_the_proxy_at_each_frame(make_proxy, confirms, number):
    """open, (select,) method, header, body, method, header, body, close."""
    with FakeBroker(confirms=confirms) as broker:
        proxy = make_proxy(broker.url)
        spool(broker, proxy, BODIES)
        go_deaf_at(broker, number)
        broker.up()
        connection = broker.wait_connection(2)
        wait_until(lambda: len(connection.frames) >= number,
                   lambda: f"frame {number}, got {connection.sequence()}")
        before = taken(broker)
        proxy.kill9()
        proxy.inspect("verify")
        left = proxy.bodies()
        if not confirms:
            assert left == ["one", "two"], "deleted before close-ok"
        broker.on_frame = None
        proxy.start()
        proxy.wait_empty()
        # What was left went out, all of it and in order; nothing of it was lost with the process.
        assert taken(broker) == before + [body.encode() for body in left]
        assert list(dict.fromkeys(taken(broker))) == BODIES


def test_deleted_after_its_confirm_stays_deleted(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, BODIES)
    broker.acks = False
    broker.up()
    broker.wait_messages(2)
    broker.connections[1].send_method(1, "basic.ack", delivery_tag=1)
    wait_until(lambda: proxy.bodies() == ["two"], "the first is deleted")
    proxy.kill9()
    assert proxy.bodies() == ["two"]
    broker.acks = True
    proxy.start()
    proxy.wait_empty()
    assert taken(broker) == [b"one", b"two", b"two"]


def test_nothing_is_sent_again_after_the_drain(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, BODIES)
    broker.up()
    proxy.wait_event("drain_finished")
    proxy.crash_and_start()
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"live", "q")
        client.acked_up_to(1)
        client.close()
    assert taken(broker) == [*BODIES, b"live"]


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("side", ["before", "after"])
def test_broker_without_confirms_dies(make_proxy, number, side):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        spool(broker, proxy, BODIES)
        broker.death = (number, side)
        broker.up()
        wait_until(lambda: broker.death is None, "the broker has died")
        proxy.wait_empty()
        assert list(dict.fromkeys(taken(broker))) == BODIES
        assert taken(broker)[-2:] == BODIES, "the connection that brought close-ok had both"


def test_rejected_survive_a_kill(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, BODIES)

    def refuse(connection, frame):
        if frame.payload != b"one":
            return False
        connection._partial.clear()
        connection.send_method(1, "channel.close", reply_code=404, class_id=60, method_id=40,
                               reply_text="NOT_FOUND - scripted")
        return True

    broker.on_frame = refuse
    broker.up()
    wait_until(lambda: [record["body"] for record in proxy.dump("--rejected")] == ["one"],
               "the refused message is in the rejected list")
    proxy.kill9()
    rejected = proxy.dump("--rejected")
    assert [(record["body"], record["rejected"]["code"]) for record in rejected] == [("one", 404)]
    proxy.start()
    proxy.wait_empty()
    assert b"two" in taken(broker) and b"one" not in taken(broker)
