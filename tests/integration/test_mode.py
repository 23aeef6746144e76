"""spool.mode: a publisher waits for this disk alone (always), or does so while RabbitMQ confirms late
(slow); what was stored goes on to RabbitMQ at once, in order, once."""

import threading
import time

import pytest

from conftest import url_of
from support import amqp
from support.broker import FakeBroker
from support.disk import Disk
from support.raw import RawClient
from support.tokens import token
from support.wait import wait_until

ALWAYS = {"spool.mode": "always"}
SLOW = {"spool.mode": "slow", "spool.slow_after": "300ms"}


def confirming(proxy):
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    return client


def bodies(broker):
    return [message.body for message in broker.messages]


def numbers(count, of=b"%d"):
    return [of % n for n in range(count)]


def drain_channel(broker):
    """The connection and the frames of channel 1."""
    connection = next(c for c in broker.open_connections() if c.messages)
    return connection, [name for name in connection.sequence() if name.startswith("1:")]


# ---- always ----

def test_answered_from_the_disk_and_sent_at_once(broker, make_proxy):
    broker.acks = False
    proxy = make_proxy(broker.url, ALWAYS)
    with confirming(proxy) as client:
        for number in range(20):
            client.publish(b"%d" % number, "q")
            client.acked_up_to_tags({number + 1})
            broker.wait_messages(number + 1)
        assert bodies(broker) == numbers(20)
        assert proxy.waiting() == 20  # RabbitMQ has not confirmed any
        broker.ack_all()
        proxy.wait_empty()
        client.publish(b"20", "q")
        client.acked_up_to_tags({21})
        broker.wait_messages(21)
        client.close()
    proxy.wait_empty()
    assert bodies(broker) == numbers(21)
    # One channel for all of them, which is not closed when nothing waits.
    connection, frames = drain_channel(broker)
    assert [frame for frame in frames if "basic" not in frame and "header" not in frame and
            "body" not in frame] == ["1:channel.open", "1:confirm.select"]
    assert len(proxy.events("drain_started")) == 1 and not proxy.events("drain_finished")


def test_its_state(broker, make_watched):
    broker.acks = False
    proxy, admin = make_watched(broker.url, ALWAYS | {"drain.window": 4})
    with confirming(proxy) as client:
        client.publish(b"0", "q")
        client.acked_up_to(1)
        broker.wait_messages(1)

        def state():
            return [name for name in ("live", "draining", "offline") if admin.metrics()[
                f'amqpbuf_queue_state{{user="guest",vhost="/",state="{name}"}}'] == 1]
        wait_until(lambda: state() == ["live"], "one of four is under way")
        for number in range(1, 9):
            client.publish(b"%d" % number, "q")
        client.acked_up_to_tags(set(range(2, 10)))
        wait_until(lambda: state() == ["draining"], "more wait than may be under way")
        broker.ack_all()
        wait_until(lambda: state() == ["live"], "nothing waits")
        client.close()


def test_an_outage_and_a_kill_lose_and_repeat_nothing_that_was_confirmed(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS)
    with confirming(proxy) as client:
        for number in range(10):
            client.publish(b"%d" % number, "q")
        client.acked_up_to(10)
        broker.wait_messages(10)
        proxy.wait_empty()
        broker.down()
        proxy.wait_event("upstream_lost")
        for number in range(10, 20):
            client.publish(b"%d" % number, "q")
        client.acked_up_to_tags(set(range(11, 21)))
        proxy.kill9()
    proxy.start()
    with confirming(proxy) as client:
        for number in range(20, 30):
            client.publish(b"%d" % number, "q")
        client.acked_up_to(10)  # of this connection
        broker.up()
        broker.wait_messages(30)
        client.publish(b"30", "q")
        client.acked_up_to_tags({11})
        client.close()
    broker.wait_messages(31)
    proxy.wait_empty()
    assert bodies(broker) == numbers(31)


def test_what_was_not_confirmed_is_sent_again(broker, make_proxy):
    broker.acks = False
    proxy = make_proxy(broker.url, ALWAYS)
    with confirming(proxy) as client:
        for number in range(10):
            client.publish(b"%d" % number, "q")
        client.acked_up_to(10)
        broker.wait_messages(10)
        broker.acks = True
        broker.down()
        proxy.wait_event("upstream_lost")
        broker.up()
        broker.wait_messages(20)
        client.close()
    proxy.wait_empty()
    assert bodies(broker) == numbers(10) * 2


def test_many_publishers_keep_their_order(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS)
    count, clients = 400, [confirming(proxy) for _ in range(4)]
    senders = []
    for who, client in enumerate(clients):
        data = b"".join(amqp.publish_frames(1, b"%d %d" % (who, n), routing_key=f"q{who % 2}")
                        for n in range(count))
        senders.append(threading.Thread(target=client.send, args=(data,)))
    for sender in senders:
        sender.start()
    for sender, client in zip(senders, clients):
        sender.join()
        client.acked_up_to(count)
    broker.wait_messages(4 * count)
    proxy.wait_empty()
    for who, client in enumerate(clients):
        own = [body for body in bodies(broker) if body.startswith(b"%d " % who)]
        assert own == [b"%d %d" % (who, n) for n in range(count)]
        client.close()


@pytest.mark.parametrize("size", [0, 3000, 300 * 1024, 3 * 1024 * 1024])
def test_any_size(broker, make_proxy, size):
    proxy = make_proxy(broker.url, ALWAYS)
    with confirming(proxy) as client:
        sent = [b"%d" % n + bytes(size) for n in range(6)] if size else [b""] * 6
        for body in sent:
            client.publish(body, "q")
        client.acked_up_to(6)
        broker.wait_messages(6)
        client.close()
    assert bodies(broker) == sent
    proxy.wait_empty()


def test_a_full_buffer_holds_publishers_until_rabbitmq_confirms(broker, make_proxy):
    broker.acks = False
    proxy = make_proxy(broker.url, ALWAYS | {"pool.publish_buffer_size": 10,
                                             "spool.overflow": "block"})
    with RawClient(proxy.port) as client:
        client.open_channel()
        for number in range(25):
            client.publish(b"%d" % number, "q")
        client.expect("connection.blocked")
        broker.wait_messages(10)
        assert proxy.waiting() == 10
        broker.ack_all()  # and nothing else wakes the publisher
        client.expect("connection.unblocked")
        broker.wait_messages(25)
        client.die()
    proxy.wait_empty()
    assert bodies(broker) == numbers(25)


def test_a_transaction_is_one_commit(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "tx.select")
        for number in range(3):
            client.publish(b"%d" % number, "q")
        client.call(1, "tx.commit")
        client.publish(b"3", "q")
        client.call(1, "tx.rollback")
        client.publish(b"4", "q")
        client.call(1, "tx.commit")
        client.close()
    broker.wait_messages(4)
    proxy.wait_empty()
    assert bodies(broker) == [b"0", b"1", b"2", b"4"]


def test_without_confirms_of_rabbitmq(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS | {"drain.confirms": "off"})
    with confirming(proxy) as client:
        for number in range(5):
            client.publish(b"%d" % number, "q")
            client.acked_up_to_tags({number + 1})
            broker.wait_messages(number + 1)
        proxy.wait_empty()
        client.close()
    assert bodies(broker) == numbers(5)


def test_a_refused_message_is_set_aside(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS)
    broker.on_message = lambda connection, message: (
        connection.close_channel(message.channel, 404, "NOT_FOUND - no exchange 'x' in vhost '/'")
        if message.args["exchange"] == "x" else connection.ack(message))
    with confirming(proxy) as client:
        client.publish(b"0", "q")
        client.send(amqp.publish_frames(1, b"bad", exchange="x", routing_key="q"))
        client.publish(b"1", "q")
        client.acked_up_to(3)
        wait_until(lambda: b"1" in bodies(broker), "what came behind it")
        proxy.wait_event("message_rejected")
        proxy.wait_empty()
        client.publish(b"2", "q")
        client.acked_up_to_tags({4})
        wait_until(lambda: b"2" in bodies(broker), "what came then")
        client.close()
    proxy.wait_empty()
    assert [body for body in bodies(broker) if body != b"bad"] == numbers(3)


def test_a_connection_that_nobody_uses_is_closed(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS | {"pool.idle_timeout": "200ms",
                                             "pool.cleanup_interval": "50ms"})
    with confirming(proxy) as client:
        client.publish(b"0", "q")
        client.acked_up_to(1)
        proxy.wait_empty()
        time.sleep(0.5)  # it is used: nothing may happen to it
        assert len(broker.open_connections()) == 1 and not proxy.events("drain_finished")
        client.close()
    wait_until(lambda: not broker.open_connections(), "the connection is closed")
    with confirming(proxy) as client:
        client.publish(b"1", "q")
        client.acked_up_to(1)
        broker.wait_messages(2)
        client.close()
    proxy.wait_empty()
    assert bodies(broker) == numbers(2)


def test_a_paused_drain_keeps_what_comes(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS)
    with confirming(proxy) as client:
        client.publish(b"0", "q")
        client.acked_up_to(1)
        proxy.wait_empty()
        proxy.ctl("pause", 1)
        proxy.wait_event("drain_paused")
        for number in range(1, 5):
            client.publish(b"%d" % number, "q")
        client.acked_up_to_tags({2, 3, 4, 5})
        assert proxy.waiting() == 4 and bodies(broker) == numbers(1)
        proxy.ctl("resume", 1)
        broker.wait_messages(5)
        client.close()
    proxy.wait_empty()
    assert bodies(broker) == numbers(5)


# ---- switching ----

def test_switched_by_a_reload_in_order(broker, make_proxy):
    proxy = make_proxy(broker.url, {"spool.mode": "outage"})
    sent = 0
    with confirming(proxy) as client:
        for mode in ["outage", "always", "outage", "slow", "always", "slow"]:
            proxy.options["spool.mode"] = mode
            proxy.reload()
            for _ in range(50):
                client.publish(b"%d" % sent, "q")
                sent += 1
            broker.wait_messages(sent - 25)  # some are under way still when the next mode begins
        client.acked_up_to(sent)
        client.close()
    broker.wait_messages(sent)
    proxy.wait_empty()
    assert bodies(broker) == numbers(sent)
    spooled = proxy.events("drain_sent")
    assert 50 <= sum(int(event["messages"]) for event in spooled) < sent


def test_a_reload_ends_it_when_nothing_waits(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS)
    with confirming(proxy) as client:
        client.publish(b"0", "q")
        client.acked_up_to(1)
        proxy.wait_empty()
        proxy.options["spool.mode"] = "outage"
        proxy.reload()
        proxy.wait_event("drain_finished")
        broker.acks = False
        client.publish(b"1", "q")
        broker.wait_messages(2)
        assert proxy.waiting() == 0
        broker.ack_all()
        client.acked_up_to_tags({2})
        client.close()


def test_confirms_of_the_drain_are_switched_by_a_reload(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS | {"drain.confirms": "off"})
    with confirming(proxy) as client:
        for number, confirms in enumerate(["off", "auto", "off"]):
            proxy.options["drain.confirms"] = confirms
            proxy.reload()
            client.publish(b"%d" % number, "q")
            client.acked_up_to_tags({number + 1})
            broker.wait_messages(number + 1)
            proxy.wait_empty()
            began = [name for connection in broker.connections for name in connection.sequence()
                     if name in ("1:channel.open", "1:confirm.select")]
            assert began[-1] == ("1:channel.open" if confirms == "off" else "1:confirm.select")
        client.close()
    assert bodies(broker) == numbers(3)


# ---- slow ----

class Late(threading.Thread):
    """Confirms each message so many seconds after it came."""

    def __init__(self, broker, seconds):
        super().__init__(daemon=True)
        self.seconds, self.owed, self.ended = seconds, [], threading.Event()
        broker.on_message = lambda connection, message: self.owed.append(
            (time.monotonic(), connection, message))
        self.start()

    def run(self):
        while not self.ended.wait(0.005):
            while self.owed and time.monotonic() - self.owed[0][0] >= self.seconds:
                _, connection, message = self.owed.pop(0)
                connection.ack(message)


@pytest.fixture
def late(broker):
    late = Late(broker, 2)
    yield late
    late.ended.set()
    late.join()


def test_late_confirms_are_not_felt_and_nothing_is_sent_twice(broker, make_proxy, late):
    proxy = make_proxy(broker.url, SLOW)
    with confirming(proxy) as client, confirming(proxy) as other:
        client.publish(b"0", "q")
        other.publish(b"other", "p")
        client.acked_up_to(1)  # of the disk: the broker confirms after 2 s
        other.acked_up_to(1)
        proxy.wait_event("slow_started")
        begin = time.monotonic()
        for number in range(1, 20):
            client.publish(b"%d" % number, "q")
            client.acked_up_to_tags({number + 1})
        assert time.monotonic() - begin < 2, "confirmed before the broker could have done it once"
        assert len(late.owed) > 0
        broker.wait_messages(21)
        proxy.wait_empty()
        assert not proxy.events("slow_ended")
        late.seconds = 0
        client.publish(b"20", "q")
        client.acked_up_to_tags({21})
        proxy.wait_event("slow_ended")
        proxy.wait_event("drain_finished")
        client.publish(b"21", "q")  # live: it is not stored
        client.acked_up_to_tags({22})
        client.close()
        other.close()
    assert [body for body in bodies(broker) if body != b"other"] == numbers(22)
    assert bodies(broker).count(b"other") == 1
    assert not proxy.events("confirms_stalled")
    assert len(proxy.events("slow_started")) == 1


def test_a_fast_one_stays_live(broker, make_proxy):
    proxy = make_proxy(broker.url, SLOW)
    with confirming(proxy) as client:
        for number in range(50):
            client.publish(b"%d" % number, "q")
            client.acked_up_to_tags({number + 1})
        client.close()
    assert not proxy.events("slow_started") and not proxy.events("drain_started")
    assert bodies(broker) == numbers(50)


def test_in_outage_mode_late_confirms_are_waited_for(broker, make_proxy, late):
    late.seconds = 1
    proxy = make_proxy(broker.url, {"spool.mode": "outage", "spool.slow_after": "100ms"})
    with confirming(proxy) as client:
        client.publish(b"0", "q")
        broker.wait_messages(1)
        assert proxy.waiting() == 0
        client.acked_up_to(1)
        client.close()
    assert not proxy.events("slow_started") and not proxy.events("drain_started")


def test_a_rejection_makes_room(broker, make_proxy):
    proxy = make_proxy(broker.url, ALWAYS | {"pool.publish_buffer_size": 1, "spool.overflow": "block"})
    broker.on_message = lambda connection, message: (
        connection.close_channel(message.channel, 404, "NOT_FOUND - no exchange 'x' in vhost '/'")
        if message.args["exchange"] == "x" else connection.ack(message))
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send(amqp.publish_frames(1, b"bad", exchange="x", routing_key="k") +
                    amqp.publish_frames(1, b"good", routing_key="k"))
        wait_until(lambda: b"good" in bodies(broker), "the place of the rejected one")
        client.die()
    proxy.wait_empty()


def test_a_rollback_takes_back_what_rabbitmq_was_told(rabbit, make_proxy):
    """Publishes of the transaction are here, its acks are there."""
    for name in ("in", "out"):
        rabbit.delete(name)
        rabbit.declare(name)
    with rabbit.connect() as connection:
        for body in (b"m1", b"m2"):
            connection.channel().basic_publish("", "in", body)
    proxy = make_proxy(url_of(rabbit), ALWAYS)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "tx.select")

        def get():
            client.send_method(1, "basic.get", queue="in")
            tag = client.expect("basic.get-ok").args["delivery_tag"]
            client.read()
            client.read()
            client.send_method(1, "basic.ack", delivery_tag=tag)
        get()
        client.publish(b"rolled back", "out")
        client.call(1, "tx.rollback")
        get()
        client.call(1, "tx.commit")
        client.close()
    wait_until(lambda: len(rabbit.take("in")) == 1, "the first is there again")
    assert rabbit.take("out") == []


def test_who_was_told_to_wait_hears_that_it_may_go_on(broker, make_proxy):
    """Its publish had begun before somebody else took the last place."""
    broker.acks = False
    proxy = make_proxy(broker.url, ALWAYS | {"pool.publish_buffer_size": 1, "spool.overflow": "block"})
    with RawClient(proxy.port) as slow, RawClient(proxy.port) as quick:
        slow.open_channel()
        quick.open_channel(confirms=True)
        begun = amqp.publish_frames(1, b"slow", routing_key="q")
        slow.send(begun[:-20])
        quick.publish(b"quick", "q")
        quick.acked_up_to(1)
        slow.send(begun[-20:])
        slow.expect("connection.blocked")
        broker.ack_all()
        slow.expect("connection.unblocked")
        broker.wait_messages(2)
        slow.die()
        quick.close()
    proxy.wait_empty()


def test_acks_of_a_transaction_are_committed_with_it(rabbit, make_proxy):
    rabbit.delete("in")
    rabbit.delete("out")
    for name in ("in", "out"):
        rabbit.declare(name)
    with rabbit.connect() as connection:
        connection.channel().basic_publish("", "in", b"m1")
    proxy = make_proxy(url_of(rabbit), ALWAYS)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "tx.select")
        client.send_method(1, "basic.get", queue="in")
        tag = client.expect("basic.get-ok").args["delivery_tag"]
        client.read()
        client.read()
        client.publish(b"done", "out")
        client.send_method(1, "basic.ack", delivery_tag=tag)
        client.call(1, "tx.commit")
        client.close()
    wait_until(lambda: len(rabbit.take("out")) == 1, "what it has published")
    assert rabbit.take("in") == []


DIRECT = "amq.rabbitmq.reply-to"
ASKS = b"\x02\x00" + amqp.short_string(DIRECT)  # the property reply-to


def asking(proxy):
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.call(1, "basic.consume", queue=DIRECT, consumer_tag="answers", no_ack=True)
    return client


def test_a_request_by_direct_reply_to_is_answered(rabbit, make_proxy, queue):
    """RabbitMQ takes it on the channel that waits for the answer alone."""
    proxy = make_proxy(url_of(rabbit), ALWAYS)
    with asking(proxy) as client, RawClient(proxy.port) as server:
        server.open_channel()
        server.call(1, "basic.consume", queue=queue, no_ack=True)
        client.publish(b"stored", queue)
        client.publish(b"question", queue, properties=ASKS)
        client.acked_up_to(2)
        bodies = set()
        while b"question" not in bodies:
            server.expect("basic.deliver")
            header = server.read()
            bodies.add(server.read().payload)
        flags = int.from_bytes(header.payload[12:14], "big")
        name = header.payload[header.payload.index(DIRECT.encode()):].decode()
        assert flags & 0x200 and name.startswith(DIRECT + ".")
        server.publish(b"answer", name)
        client.expect("basic.deliver")
        client.read()
        assert client.read().payload == b"answer"
    assert proxy.dump("--rejected") == []


def test_an_answer_in_a_transaction_is_rabbitmqs(broker, make_proxy):
    """It belongs to the same transaction as the acks there; what can wait is stored."""
    proxy = make_proxy(broker.url, ALWAYS)
    broker.acks = False
    with confirming(proxy) as other, RawClient(proxy.port) as server:
        other.publish(b"waits", "q")
        other.acked_up_to(1)
        server.open_channel()
        server.call(1, "tx.select")
        server.call(1, "basic.consume", queue="q", consumer_tag="server")
        server.publish(b"stored", "q")
        server.publish(b"answer", DIRECT + ".whoever")
        server.call(1, "tx.commit")
        wait_until(lambda: proxy.waiting() == 2, lambda: proxy.failure("all but the answer"))
        own = next(c for c in broker.connections if any(f.name == "tx.select" for f in c.frames))
        assert [m.body for m in own.messages] == [b"answer"]
        assert own.sequence()[-1] == "1:tx.commit"
        broker.ack_all()
        broker.wait_messages(3)
        broker.ack_all()
        proxy.wait_empty()
    assert sorted(bodies(broker)) == [b"answer", b"stored", b"waits"]
    assert proxy.dump("--rejected") == []


def test_a_request_in_an_alarm_waits_for_its_end(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with asking(proxy) as client:
        broker.everywhere("connection.blocked", reason="scripted")
        proxy.wait_event("upstream_blocked", 2)
        client.publish(b"question", "q", properties=ASKS)
        with RawClient(proxy.port) as other:  # a round trip: the request was read
            other.close()
        client.expect("connection.blocked")
        assert proxy.waiting() == 0 and broker.messages == []
        broker.everywhere("connection.unblocked")
        client.expect("connection.unblocked")
        client.acked_up_to(1)
        assert [m.body for m in broker.messages] == [b"question"]


@pytest.mark.parametrize("refused", [False, "NOT_ALLOWED - connection limit (2) is reached"],
                         ids=["", "refused"])
def test_an_answer_in_an_alarm_goes_to_rabbitmq(broker, make_proxy, refused):
    """On a connection of its own: that is read until it has published."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"first", "q")
        client.acked_up_to(1)
        broker.everywhere("connection.blocked", reason="scripted")
        proxy.wait_event("upstream_blocked")
        broker.refuse_vhost = refused
        client.publish(b"answer", DIRECT + ".whoever")
        client.acked_up_to_tags({2})
        assert proxy.waiting() == bool(refused)
        assert [m.body for m in broker.messages] == [b"first"] + [b"answer"] * (not refused)


@pytest.mark.provokes("spool_failed", "sync_failed")
@pytest.mark.parametrize("fault", ["sync", "readonly"])
def test_what_the_disk_refused_is_not_sent(broker, make_proxy, tmp_path, fault):
    """Its number is given again: its confirm would delete the next record that has it."""
    disk = Disk(tmp_path)
    proxy = make_proxy(broker.url, ALWAYS | {"spool.overflow": "reject"}, environment=disk.environment)
    with confirming(proxy) as client:
        client.publish(b"before", "q")
        client.acked_up_to(1)
        proxy.wait_empty()
        disk.become(fault)
        client.publish(b"refused", "q")
        assert client.expect("basic.nack").args["delivery_tag"] == 2
        disk.mend()
        broker.acks = False
        tags = iter(range(3, 1000))

        def is_taken():
            tag = next(tags)
            client.publish(b"taken %d" % tag, "q")
            answer = client.read()
            assert answer.args["delivery_tag"] == tag
            return answer.name == "basic.ack"
        wait_until(is_taken, "the disk takes it again")
        last = next(tags) - 1
        assert broker.wait_messages(2) == [b"before", b"taken %d" % last]
        assert proxy.waiting() == 1
        proxy.kill9()
    broker.acks = True
    proxy.start()  # it was neither lost nor deleted
    assert broker.wait_messages(3) == [b"before"] + 2 * [b"taken %d" % last]
    proxy.wait_empty()


def test_a_consumer_is_not_closed_over_what_nobody_confirms(make_proxy):
    """Its own channel; the broker gives no confirms, so only a close could prove its publishes."""
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.send_method(1, "basic.consume", queue="q", consumer_tag="t")
            client.expect("basic.consume-ok")
            client.publish(b"0", "q")
            broker.wait_messages(1)
            own = next(connection for connection in broker.connections if connection.messages)
            proxy.options["spool.mode"] = "always"
            proxy.reload()
            for number in range(1, 4):
                client.publish(b"%d" % number, "q")
            broker.wait_messages(4)
            assert not [name for name in own.sequence() if name.endswith("channel.close")]
            assert own.is_open
            client.die()
        assert sorted(bodies(broker)) == numbers(4)


def test_a_transaction_of_a_consumer_does_not_overtake_what_it_has_stored(broker, make_proxy):
    broker.acks = False
    proxy = make_proxy(broker.url, ALWAYS | {"drain.window": 1})
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "basic.consume", queue="q", consumer_tag="t")
        client.expect("basic.consume-ok")
        for number in range(2):
            client.publish(b"%d" % number, "q")
        wait_until(lambda: proxy.waiting() == 2, "one of them is under way")
        client.call(1, "tx.select")
        client.publish(b"2", "q")
        client.call(1, "tx.commit")
        broker.ack_all()
        proxy.wait_empty()
        client.close()
    assert bodies(broker) == numbers(3)


def test_messages_of_a_token_go_out_under_its_own_rights(broker, make_proxy):
    """A record does not say what its token may do: none of that queue is stored while RabbitMQ is there."""
    proxy = make_proxy(broker.url, ALWAYS)
    wide, narrow = token("A"), token("A", scope=["rabbitmq.write:*/a-*"])
    broker.acks = False
    for each in (wide, narrow):
        with RawClient(proxy.port, "svc", each) as client:
            client.open_channel(confirms=True)
            client.publish(each.encode(), "q")
            wait_until(lambda: each.encode() in bodies(broker), "it arrives")
            assert proxy.waiting() == 0
            client.die()
    carried = {connection.login[2].encode(): [message.body for message in connection.messages]
               for connection in broker.connections if connection.messages}
    assert carried == {wide.encode(): [wide.encode()], narrow.encode(): [narrow.encode()]}
    assert not proxy.events("drain_started")
    broker.ack_all()
