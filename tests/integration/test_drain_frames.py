"""The drain, frame by frame, against a scripted broker."""

import pytest

from support import amqp
from support.broker import FakeBroker
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until


def learn_login(proxy):
    """The proxy lets a login in during an outage only if it was accepted before."""
    RawClient(proxy.port).close()


def spool_messages(broker, proxy, *bodies):
    """Leaves the broker down and the bodies in the spool."""
    spool(broker, proxy, bodies)
    assert proxy.bodies() == [body.decode() for body in bodies]


def drained(broker, number):
    connection = broker.wait_connection(number)
    wait_until(lambda: "1:channel.close" in connection.sequence(),
               lambda: f"channel.close, got {connection.sequence()}")
    return connection


def message_frames(*bodies):
    frames = []
    for body in bodies:
        frames += ["1:basic.publish", f"1:header({len(body)})"]
        if body:
            frames.append(f"1:body({len(body)})")
    return frames


def test_empty_queue_sends_nothing(broker, make_proxy):
    proxy = make_proxy(broker.url)
    learn_login(proxy)
    broker.down()
    proxy.wait_event("upstream_lost")
    proxy.restart()
    broker.up()
    learn_login(proxy)
    for connection in broker.connections:
        assert connection.sequence() == []


def test_two_messages_with_confirms(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool_messages(broker, proxy, b"one", b"")
    broker.up()
    connection = drained(broker, 2)
    proxy.wait_event("drain_finished")
    assert connection.sequence() == ["1:channel.open", "1:confirm.select",
                                     *message_frames(b"one", b""), "1:channel.close"]
    assert proxy.waiting() == 0
    with RawClient(proxy.port) as client:  # the channel number is free again
        client.open_channel(confirms=True)
        client.publish(b"live", "q")
        client.acked_up_to(1)
        client.close()
    assert connection.sequence()[-5:] == ["1:channel.open", "1:confirm.select",
                                          *message_frames(b"live")]


def test_two_messages_without_confirms(make_proxy):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        spool_messages(broker, proxy, b"one", b"two")
        broker.up()
        connection = drained(broker, 2)
        proxy.wait_event("drain_finished")
        assert connection.sequence() == ["1:channel.open", *message_frames(b"one", b"two"),
                                         "1:channel.close"]
        assert proxy.waiting() == 0


def test_confirms_can_be_turned_off(broker, make_proxy):
    proxy = make_proxy(broker.url, {"drain.confirms": "off"})
    spool_messages(broker, proxy, b"one", b"two")
    broker.up()
    proxy.wait_event("drain_finished")
    assert broker.connections[1].sequence() == [
        "1:channel.open", *message_frames(b"one", b"two"), "1:channel.close"]


def test_without_confirms_a_window_at_a_time(make_proxy):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url, {"pool.window": 2, "drain.window": 2})
        spool_messages(broker, proxy, b"1", b"2", b"3")
        broker.up()
        proxy.wait_event("drain_finished")
        assert broker.connections[1].sequence() == [
            "1:channel.open", *message_frames(b"1", b"2"), "1:channel.close",
            "1:channel.open", *message_frames(b"3"), "1:channel.close"]


def test_messages_are_kept_until_close_ok_without_confirms(make_proxy):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        spool_messages(broker, proxy, b"one", b"two")
        broker.silent_on = {"channel.close"}
        broker.up()
        drained(broker, 2)
        assert proxy.bodies() == ["one", "two"]
        broker.silent_on = set()
        broker.connections[1].die()
        proxy.wait_event("drain_finished")
        assert [message.body for message in broker.messages] == [b"one", b"two"] * 2


DEATHS = [(number, side) for number in range(1, 10) for side in ("before", "after")]


@pytest.mark.parametrize("number,side", DEATHS)
def test_broker_dies_in_the_drain(broker, make_proxy, number, side):
    """Frames: open, select, (publish, header, body) twice, close: 9 in all."""
    proxy = make_proxy(broker.url)
    spool_messages(broker, proxy, b"one", b"two")
    broker.death = (number, side)
    broker.up()
    wait_until(lambda: broker.death is None, "the broker has died")
    proxy.wait_empty()
    bodies = [message.body for message in broker.messages]
    first = list(dict.fromkeys(bodies))
    assert first == [b"one", b"two"], bodies
    assert len(bodies) <= 4


def test_confirmed_messages_are_not_sent_again(broker, make_proxy):
    """The second is not confirmed when the broker dies: it alone goes out again."""
    proxy = make_proxy(broker.url)
    spool_messages(broker, proxy, b"one", b"two")
    broker.acks = False
    broker.up()
    connection = broker.wait_connection(2)
    broker.wait_messages(2)
    connection.send_method(1, "basic.ack", delivery_tag=1)
    wait_until(lambda: proxy.bodies() == ["two"], "the first is deleted")
    broker.acks = True
    connection.die()
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(3) == [b"one", b"two", b"two"]


@pytest.mark.parametrize("refusal", ["channel.close", "connection.close"])
def test_refused_channel_open(broker, make_proxy, refusal):
    proxy = make_proxy(broker.url)
    spool_messages(broker, proxy, b"one", b"two")

    def refuse(connection, frame):
        if frame.name != "channel.open":
            return False
        connection.send_method(0 if refusal == "connection.close" else 1, refusal,
                               reply_code=504, reply_text="CHANNEL_ERROR - scripted")
        return True

    broker.on_frame = refuse
    broker.up()
    wait_until(lambda: len(broker.connections) >= 4, "tries again")
    assert proxy.bodies() == ["one", "two"]
    broker.on_frame = None
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(2) == [b"one", b"two"]


def test_silent_channel_open(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "200ms"})
    spool_messages(broker, proxy, b"one")
    broker.silent_on = {"channel.open"}
    broker.up()
    broker.wait_connection(3)  # given up, tried again
    assert proxy.bodies() == ["one"]
    broker.silent_on = set()
    proxy.wait_event("drain_finished")
    assert b"one" in broker.wait_messages(1)


def test_new_publishes_go_behind_the_backlog(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1})
    spool_messages(broker, proxy, b"1", b"2", b"3")
    broker.acks = False
    broker.up()
    broker.wait_messages(1)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"4", "q")
        client.acked_up_to(1)  # it is in the spool
        assert proxy.bodies() == ["1", "2", "3", "4"]
        broker.acks = True
        broker.connections[1].send_method(1, "basic.ack", delivery_tag=1)
        proxy.wait_event("drain_finished")
        client.publish(b"5", "q")
        client.acked_up_to_tags({2})
        client.close()
    assert broker.wait_messages(5) == [b"1", b"2", b"3", b"4", b"5"]


def test_bad_message_is_rejected_and_the_others_go_out(broker, make_proxy):
    proxy = make_proxy(broker.url)
    bodies = [b"m%d" % number for number in range(20)]
    spool_messages(broker, proxy, *bodies)

    def refuse(connection, frame):
        if frame.type == 3 and frame.payload == b"m7":
            connection.send_method(1, "channel.close", reply_code=404,
                                   reply_text="NOT_FOUND - scripted", class_id=60, method_id=40)
            connection._partial.clear()
            return True
        return False

    broker.on_frame = refuse
    broker.up()
    proxy.wait_event("drain_finished")
    delivered = list(dict.fromkeys(message.body for message in broker.messages))
    assert delivered == [body for body in bodies if body != b"m7"]
    rejected = proxy.dump("--rejected")
    assert [message["body"] for message in rejected] == ["m7"]
    assert rejected[0]["rejected"]["code"] == 404
    assert rejected[0]["rejected"]["text"] == "NOT_FOUND - scripted"
    proxy.restart()
    assert [message["body"] for message in proxy.dump("--rejected")] == ["m7"]


def test_starts_without_any_client(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool_messages(broker, proxy, b"one", b"two")
    proxy.crash_and_start()
    broker.up()
    assert broker.wait_messages(2) == [b"one", b"two"]
    proxy.wait_empty()
    assert broker.connections[-1].login == ("PLAIN", "guest", "guest", "/")


def test_without_confirms_large_messages_and_declarations(make_proxy):
    """What is read at once ends before the window is full: at its bytes, and at a declaration."""
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        learn_login(proxy)
        broker.down()
        proxy.wait_event("upstream_lost")
        bodies = [b"%d " % n + b"x" * 20000 for n in range(100)]
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            for number, body in enumerate(bodies):
                if number == 70:
                    client.acked_up_to(70)
                    client.call(1, "queue.declare", queue="q", durable=True)
                client.publish(body, "q")
            client.acked_up_to_tags(set(range(71, 101)))
            client.close()
        broker.up()
        proxy.wait_event("drain_finished")
        assert [message.body for message in broker.messages] == bodies


def test_without_confirms_a_returned_message_is_rejected(make_proxy):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        learn_login(proxy)
        broker.down()
        proxy.wait_event("upstream_lost")
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            for body in (b"1", b"2", b"3"):
                client.publish(body, "q" if body != b"2" else "nowhere", mandatory=True)
            client.acked_up_to(3)
            client.close()

        def give_back(connection, frame):
            if frame.type == amqp.BODY and frame.payload == b"2":
                message = connection._partial[frame.channel]
                connection.send_method(frame.channel, "basic.return", reply_code=312,
                                       reply_text="NO_ROUTE", exchange="", routing_key="nowhere")
                connection.send(amqp.frame(amqp.HEADER, frame.channel, message.header) +
                                amqp.frame(amqp.BODY, frame.channel, b"2"))
            return False

        broker.on_frame = give_back
        broker.up()
        proxy.wait_event("drain_finished")
        assert [record["body"] for record in proxy.dump("--rejected")] == ["2"]
