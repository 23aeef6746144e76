"""What belongs to a client's connection as a whole, against a scripted broker."""

import select
import threading

import pytest

from support import amqp
from support.raw import RawClient
from support.tokens import token
from support.wait import wait_until


def logins(broker):
    return [connection.login[2] for connection in broker.connections if connection.login]


def test_updated_secret_is_used_from_then_on(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, password="old") as client:
        client.call(0, "connection.update-secret", new_secret="fresh", reason="rotation")
        wait_until(lambda: "fresh" in logins(broker), lambda: f"it is proven, got {logins(broker)}")
        broker.down()
        proxy.wait_event("upstream_lost")
        known = len(broker.connections)
        client.open_channel(confirms=True)
        client.publish(b"in the outage", "q")
        client.acked_up_to(1)
        with RawClient(proxy.port, password="fresh") as other:  # let in during the outage
            other.close()
        broker.up()
        wait_until(lambda: broker.messages, "the drain")
        assert set(logins(broker)[known:]) == {"fresh"}
        client.close()
    assert "fresh" not in proxy.log_text()


def test_updated_secret_is_passed_to_the_connections_that_are_there(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, password="old") as consumer:
        consumer.open_channel()
        consumer.call(1, "queue.declare", queue="q", exclusive=True)  # a connection of its own
        consumer.call(0, "connection.update-secret", new_secret="fresh", reason="rotation")

        def told():
            return [connection.login[2] for connection in broker.connections
                    if any("connection.update-secret" in frame
                           for frame in connection.sequence())]
        wait_until(lambda: told() == ["old", "old"], lambda: f"both are told, got {told()}")
        consumer.close()


def test_secret_that_is_no_login_is_answered_as_rabbitmq_does(broker, make_proxy):
    """Its own users keep their password whatever secret is brought: that is no error."""
    proxy = make_proxy(broker.url)
    broker.refused_passwords.add("wrong")
    with RawClient(proxy.port, password="old") as client:
        client.call(0, "connection.update-secret", new_secret="wrong", reason="rotation")
        client.open_channel(confirms=True)
        client.publish(b"goes on", "q")
        client.acked_up_to(1)
        broker.down()
        proxy.wait_event("upstream_lost")
        broker.up()
        wait_until(lambda: len(broker.open_connections()) == 1, "the old password is kept")
        assert broker.open_connections()[0].login[2] == "old"
        client.close()


@pytest.mark.parametrize("bad", ["not accepted", "of another", "no token"])
def test_refused_token_closes_the_client_that_brought_it(broker, make_proxy, bad):
    proxy = make_proxy(broker.url)
    old = token("A")
    new = {"not accepted": token("A"), "of another": token("B"), "no token": "garbage"}[bad]
    if bad == "not accepted":
        broker.refused_passwords.add(new)
    with RawClient(proxy.port, "svc", old) as publisher, RawClient(proxy.port, "svc", old) as client:
        publisher.open_channel(confirms=True)
        client.send_method(0, "connection.update-secret", new_secret=new, reason="rotation")
        refused = client.expect("connection.close", 0).args
        assert (refused["reply_code"], refused["class_id"], refused["method_id"]) == (530, 10, 70)
        publisher.publish(b"still welcome", "q")
        publisher.acked_up_to(1)
        publisher.close()
    assert [connection.login[2] for connection in broker.connections if connection.messages] == [old]


def test_token_that_may_do_something_else(broker, make_proxy):
    """Alone, the client goes on with it; beside others it is told to connect again."""
    proxy = make_proxy(broker.url)
    old, wide = token("A"), token("A", scope=["rabbitmq.configure:*/*"])
    with RawClient(proxy.port, "svc", old) as client, RawClient(proxy.port, "svc", old) as other:
        client.send_method(0, "connection.update-secret", new_secret=wide, reason="wider")
        assert "other permissions" in client.expect_close(320)
        other.call(0, "connection.update-secret", new_secret=wide, reason="wider")
        assert wide in logins(broker)
        known = len(broker.connections)
        RawClient(proxy.port, "svc", wide).close()
        assert len(broker.connections) == known, "it is the pool's"
        other.close()


def test_flood_of_secrets_costs_one_connection_at_a_time(broker, make_proxy):
    proxy = make_proxy(broker.url)
    known = token("A")
    secrets = [token("A") for _ in range(20)]
    most = 0
    with RawClient(proxy.port, "svc", known) as client:
        client.send(b"".join(amqp.method_frame(0, "connection.update-secret", new_secret=each,
                                               reason="r") for each in secrets) * 5)
        for _ in range(5 * len(secrets)):
            most = max(most, sum(each.is_alive() for each in broker.connections))
            client.expect("connection.update-secret-ok")
        client.open_channel(confirms=True)
        client.publish(b"x", "q")
        client.acked_up_to(1)
        client.close()
    # One that asks, beside those that the broker's threads have not seen the end of.
    assert most < len(secrets)


def test_good_token_ends_the_wait_of_what_is_stored(broker, make_proxy):
    """RabbitMQ refuses the one that has run out, and is not due to be asked for a minute."""
    proxy = make_proxy(broker.url)
    old, new = token("A"), token("A")
    with RawClient(proxy.port, "svc", old) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("upstream_lost")
        client.publish(b"waits", "q")
        client.acked_up_to(1)
        broker.refused_passwords.add(old)
        broker.up()
        proxy.wait_event("login_refused")
        client.call(0, "connection.update-secret", new_secret=new, reason="renewed")
        proxy.wait_event("drain_finished", timeout=30)
        client.close()
    assert [message.body for message in broker.messages] == [b"waits"]


def test_secret_that_came_in_an_outage_is_tried_first_and_the_old_one_next(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, password="old") as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("upstream_lost")
        known = len(broker.connections)
        client.call(0, "connection.update-secret", new_secret="wrong", reason="rotation")
        client.publish(b"waits", "q")
        client.acked_up_to(1)
        broker.refused_passwords.add("wrong")
        broker.up()
        wait_until(lambda: broker.messages, "the drain, under the password that still holds")
        assert logins(broker)[-1] == "old" and len(broker.connections) > known + 1
        client.close()


def test_close_is_answered_after_the_connection_of_its_own_is_closed(broker, make_proxy):
    """What belongs to the connection (an exclusive queue) is gone when the close returns."""
    proxy = make_proxy(broker.url)
    asked, allowed, answered = threading.Event(), threading.Event(), []

    def wait_before_the_answer(_connection, frame):
        if frame.name == "connection.close":
            asked.set()
            answered.append(allowed.wait(60))
        return False

    broker.on_frame = wait_before_the_answer
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="q", exclusive=True)
        client.send_method(0, "connection.close", reply_code=200, reply_text="bye")
        assert asked.wait(60), "RabbitMQ is asked first"
        with RawClient(proxy.port) as other:  # a round trip: an early answer would be here now
            other.close()
        assert select.select([client.socket], [], [], 0)[0] == [], "close-ok before RabbitMQ's"
        allowed.set()
        client.expect("connection.close-ok", 0)
    assert answered == [True]


def test_heartbeat_of_a_second_holds_while_a_large_message_is_under_way(broker, make_proxy):
    """Any byte counts as a sign of life, not heartbeat frames alone."""
    proxy = make_proxy(broker.url)
    pieces, size = 40, 40 * 1000
    frames = amqp.publish_frames(1, b"x" * size, routing_key="q", frame_max=4096)
    step = len(frames) // pieces + 1
    pace = threading.Event()
    with RawClient(proxy.port, heartbeat=1) as client:
        client.open_channel(confirms=True)
        for at in range(0, len(frames), step):
            client.send(frames[at:at + step])
            pace.wait(0.1)  # four heartbeats long in all: the pace of a slow line
        client.acked_up_to(1)
        client.close()
    assert [len(message.body) for message in broker.messages] == [size]
    assert proxy.events("heartbeat_missed") == []


def test_transaction_survives_the_loss_of_its_own_connection(broker, make_proxy):
    """The client's own connection to RabbitMQ is lost in a transaction, the shared one is not."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "tx.select")
        own = next(connection for connection in broker.connections
                   if "1:tx.select" in connection.sequence())
        for number in range(5):
            client.publish(b"%d" % number, "q")
        wait_until(lambda: len(own.messages) == 5, "they are with RabbitMQ, uncommitted")
        given_up = list(own.messages)
        own.die()
        proxy.wait_event("upstream_lost")
        client.publish(b"5", "q")
        client.call(1, "tx.commit")
        client.close()

    def arrived():
        return [message.body for message in broker.messages if message not in given_up]
    wait_until(lambda: len(arrived()) >= 6, lambda: f"all six, got {arrived()}")
    assert arrived() == [b"%d" % n for n in range(6)]


def test_small_frames_of_two_clients_do_not_mix(broker, make_proxy):
    """Both land in one buffer; a body in tiny frames is drawn together there."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as one, RawClient(proxy.port) as two:
        one.open_channel()
        two.open_channel()
        first = amqp.publish_frames(1, b"a" * 40, routing_key="q", frame_max=18)
        other = amqp.publish_frames(1, b"b" * 40, routing_key="q", frame_max=18)
        step = 18  # a body frame
        head = len(first) - 4 * step
        one.send(first[:head])
        two.send(other[:head])
        for at in range(head, len(first), step):
            one.send(first[at:at + step])
            one.call(2, "channel.open")  # it was read
            one.call(2, "channel.close", reply_code=200, reply_text="")
            two.send(other[at:at + step])
            two.call(2, "channel.open")
            two.call(2, "channel.close", reply_code=200, reply_text="")
        one.close()
        two.close()
    assert sorted(message.body for message in broker.messages) == [b"a" * 40, b"b" * 40]


def test_alarm_lets_consumers_go_on(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        broker.connections[0].send_method(0, "connection.blocked", reason="low on memory")
        proxy.wait_event("buffering_started")
        client.call(1, "basic.consume", queue="q")  # on a connection of its own
        client.send_method(1, "basic.ack", delivery_tag=1)
        own = broker.wait_connection(2)
        wait_until(lambda: "1:basic.ack" in own.sequence(), lambda: f"its ack, {own.sequence()}")
        client.close()


@pytest.mark.parametrize("method", ["queue.delete", "exchange.delete"])
def test_alarm_lets_rabbitmq_answer_what_it_alone_can(broker, make_proxy, method):
    """On a connection that has not published, as straight."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        broker.connections[0].send_method(0, "connection.blocked", reason="low on memory")
        proxy.wait_event("buffering_started")
        name = "exchange" if method == "exchange.delete" else "queue"
        client.call(1, method, **{name: "q"})
        assert f"1:{method}" in broker.wait_connection(2).sequence()
        client.close()


def test_each_alarm_asks_rabbitmq_anew(broker, make_proxy):
    """It had no further connection in the one before, and then the spool had to do."""
    proxy = make_proxy(broker.url)
    passive = {"queue": "q", "passive": True}
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="q", durable=True)
        broker.refuse_vhost = "NOT_ALLOWED - access to vhost '/' refused: connection limit (1) is reached"
        broker.everywhere("connection.blocked", reason="scripted")
        proxy.wait_event("buffering_started")
        client.call(1, "queue.declare", **passive)
        dialled = len(broker.connections)
        client.call(1, "queue.declare", **passive)  # not again in this one
        assert len(broker.connections) == dialled
        broker.refuse_vhost = False
        broker.everywhere("connection.unblocked")
        proxy.wait_event("upstream_unblocked")
        broker.everywhere("connection.blocked", reason="scripted")
        proxy.wait_event("upstream_blocked", 2)
        client.call(1, "queue.declare", **passive)
        assert "1:queue.declare" in broker.wait_connection(dialled + 1).sequence()
        broker.everywhere("connection.unblocked")
        client.close()


def test_consumer_that_is_woken_while_its_connection_is_dialled_waits_on(broker, make_proxy):
    """In an alarm; whatever wakes it before the connection is there is no reason to refuse it."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel()
        other.open_channel()
        shared = broker.connections[0]
        shared.send_method(0, "connection.blocked", reason="low on memory")
        proxy.wait_event("buffering_started")
        broker.gate = threading.Event()
        client.send_method(1, "basic.consume", queue="q")
        wait_until(lambda: len(broker.connections) == 2, "its own is dialled")
        for number in range(3):  # each wakes whoever is held
            shared.send_method(0, "connection.blocked", reason="low on memory")
            wait_until(lambda n=number: len(proxy.events("upstream_blocked")) > n + 1, "blocked again")
        broker.gate.set()
        client.expect("basic.consume-ok", 1)
        client.close()
        other.close()


@pytest.mark.parametrize("asked, sent", [
    ([(10, True), (5, False)], [(5, False)]),
    ([(5, False), (10, True)], [(5, False), (10, True)]),
])
def test_a_prefetch_count_for_each_consumer_ends_that_of_the_channel(broker, make_proxy, asked, sent):
    """As in RabbitMQ; both may stand beside each other in the other order alone."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for count, is_global in asked:
            client.call(1, "basic.qos", prefetch_count=count, global_=is_global)
        client.call(1, "basic.consume", queue="q")
        frames = broker.connections[-1].frames
        assert [(frame.args["prefetch_count"], frame.args["global_"]) for frame in frames
                if frame.name == "basic.qos"] == sent
        client.close()


def test_an_empty_name_means_all_bytes_of_the_last_one(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="one\0two")
        client.call(1, "queue.bind", exchange="e", routing_key="k")
        bind = next(frame for frame in broker.connections[0].frames if frame.name == "queue.bind")
        assert bind.args["queue"] == "one\0two"
        client.close()
