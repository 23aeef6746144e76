"""Who waits is woken by what he waits for: there is no tick in these tests that wakes all of them, and
where a spool could help it is off as well."""

import threading

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until

NO_SPOOL = {"pool.publish_buffer_size": 0}
MIB = 1024 * 1024


def round_trip(proxy):
    """What others have sent before was read."""
    with RawClient(proxy.port) as other:
        other.close()


def publish_at_once(client, count, key="q"):
    client.send(b"".join(amqp.publish_frames(1, b"%d" % n, routing_key=key) for n in range(count)))


def confirm(broker, upto=None):
    """Everything that each channel has got, or up to a tag."""
    for connection in broker.open_connections():
        for channel, last in list(connection.last_tags.items()):
            if last:
                connection.send_method(channel, "basic.ack", delivery_tag=upto or last,
                                       multiple=True)


def test_confirm_opens_the_window(broker, make_proxy):
    proxy = make_proxy(broker.url, {**NO_SPOOL, "pool.window": 2, "drain.window": 2, "pool.upstreams": 1})
    broker.acks = False
    with RawClient(proxy.port) as client, RawClient(proxy.port) as other:
        client.open_channel(confirms=True)
        other.open_channel(confirms=True)
        publish_at_once(client, 4)
        broker.wait_messages(2)
        publish_at_once(other, 1)
        round_trip(proxy)
        for got in (4, 5):  # the last one is woken by what is another client's
            confirm(broker)
            broker.wait_messages(got)
        confirm(broker)
        client.acked_up_to(4)
        other.acked_up_to(1)
        client.close()
        other.close()


def test_reply_lets_the_next_method_go_on(broker, make_proxy):
    """confirm.select waits for the reply that it must not overtake."""
    proxy = make_proxy(broker.url, NO_SPOOL)
    broker.silent_on = {"queue.declare"}
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send(amqp.method_frame(1, "queue.declare", queue="q", durable=True) +
                    amqp.method_frame(1, "confirm.select"))
        upstream = broker.connections[0]
        asked = wait_until(lambda: [f for f in upstream.frames if f.name == "queue.declare"],
                           "the declaration")
        round_trip(proxy)
        upstream.send_method(asked[0].channel, "queue.declare-ok", queue="q")
        client.expect("queue.declare-ok", 1)
        client.expect("confirm.select-ok", 1)
        client.close()


def test_memory_that_is_free_again_wakes_the_other_users(broker, make_proxy):
    """One user's messages fill listen.max_memory, another one waits for that."""
    proxy = make_proxy(broker.url, {"listen.max_memory": "16MiB",
                                    "spool.max_message_size": "1MiB", "pool.window": 1000,
                                    "pool.window_bytes": "64MiB"})
    broker.acks = False
    with RawClient(proxy.port, user="large") as large, RawClient(proxy.port, user="small") as small:
        large.open_channel(confirms=True)
        small.open_channel(confirms=True)
        sent = 0
        while not proxy.events("memory_short"):
            large.publish(bytes(MIB), "q")
            sent += 1
            broker.wait_messages(sent - 4)
        small.publish(b"waits for memory", "q")
        stop = threading.Event()

        def keep_confirming():
            while not stop.wait(0.02):
                confirm(broker)
        confirming = threading.Thread(target=keep_confirming)
        confirming.start()
        try:
            small.acked_up_to(1)
            large.acked_up_to(sent)
        finally:
            stop.set()
            confirming.join()
        small.close()
        large.close()


def consumer(proxy, broker):
    """A client that reads little, and the connection to the broker that is its own."""
    client = RawClient(proxy.port, receive_buffer=4096)
    client.open_channel()
    client.call(1, "basic.consume", queue="q", no_ack=True)
    own = next(connection for connection in broker.connections
               if "1:basic.consume" in connection.sequence())
    return client, own


class Feed(threading.Thread):
    """Deliveries of a megabyte each; `sent` of them have left."""

    def __init__(self, own, count):
        super().__init__(daemon=True)
        self.own, self.count, self.sent, self.stuck = own, count, 0, False

    def run(self):
        for number in range(1, self.count + 1):
            frames = amqp.method_frame(1, "basic.deliver", consumer_tag="consumer",
                                       delivery_tag=number, exchange="", routing_key="q") + \
                amqp.content_frames(1, bytes(MIB), frame_max=131072)
            try:
                self.own.send(frames)
            except Exception:  # the connection is over, as one of the tests wants
                return
            self.sent = number

    def wait_stuck(self):
        """Nothing has moved for several looks: the proxy has stopped reading."""
        looks = []

        def still():
            looks.append(self.sent)
            return len(looks) > 12 and len(set(looks[-12:])) == 1
        wait_until(still, "it is paused")
        assert self.sent < self.count


def test_consumer_that_reads_again_gets_all(broker, make_proxy):
    proxy = make_proxy(broker.url)
    client, own = consumer(proxy, broker)
    feed = Feed(own, 40)
    feed.start()
    feed.wait_stuck()
    count = 0
    while count < 40:
        count += client.read().name == "basic.deliver"
    feed.join(60)
    client.die()


def test_connection_of_a_consumer_that_did_not_read_ends_with_it(broker, make_proxy):
    proxy = make_proxy(broker.url)
    client, own = consumer(proxy, broker)
    feed = Feed(own, 40)
    feed.start()
    feed.wait_stuck()
    client.die()
    proxy.wait_event("client_closed")
    wait_until(lambda: not own.is_alive(), "its own connection is closed")


def test_alarm_is_passed_on_where_no_spool_is(broker, make_proxy):
    proxy = make_proxy(broker.url, NO_SPOOL)
    with RawClient(proxy.port) as client:
        client.open_channel()
        broker.everywhere("connection.blocked", reason="low")
        client.expect("connection.blocked", 0)
        broker.everywhere("connection.unblocked")
        client.expect("connection.unblocked", 0)
        client.close()


@pytest.mark.parametrize("own", [False, True])
def test_who_comes_in_an_alarm_is_told_when_it_publishes(broker, make_proxy, own):
    """As RabbitMQ does; on a connection of its own, of which nobody else hears, as well."""
    proxy = make_proxy(broker.url, NO_SPOOL)
    with RawClient(proxy.port) as client:
        connection = broker.wait_connection(1)
        if not own:
            connection.send_method(0, "connection.blocked", reason="low")
            proxy.wait_event("upstream_blocked")
    with RawClient(proxy.port) as client:
        client.open_channel()
        if own:
            client.call(1, "basic.consume", queue="q")
            connection = broker.connections[-1]
            connection.send_method(0, "connection.blocked", reason="low")
        else:
            client.publish(b"0", "q")
        client.expect("connection.blocked", 0)
        connection.send_method(0, "connection.unblocked")
        client.expect("connection.unblocked", 0)
        client.close()


def test_nowait_leaves_nothing_awaited(broker, make_proxy):
    proxy = make_proxy(broker.url, NO_SPOOL)
    for name, args in (("queue.delete", {"queue": "q"}),
                       ("queue.declare", {"queue": "q", "durable": True}),
                       ("queue.bind", {"queue": "q", "exchange": "e"}),
                       ("exchange.declare", {"exchange": "e", "type": "direct"}),
                       ("exchange.delete", {"exchange": "e"})):
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.send_method(1, name, no_wait=True, **args)
            client.call(1, "queue.declare", queue="other", durable=True)
            client.call(1, "confirm.select")
            client.close()


def test_silence_of_a_client_that_is_not_read_is_not_held_against_it(broker, make_proxy):
    proxy = make_proxy(broker.url, {**NO_SPOOL, "pool.window": 1, "drain.window": 1, "pool.upstreams": 1})
    broker.acks = False
    with RawClient(proxy.port, heartbeat=1) as client:
        client.open_channel(confirms=True)
        publish_at_once(client, 2)
        broker.wait_messages(1)
        for _ in range(6):  # longer than two heartbeats
            assert client.stream.read().type == amqp.HEARTBEAT
        confirm(broker)
        client.expect("basic.ack")
        client.stream.read()  # a tick has looked
        client.send(amqp.frame(amqp.HEARTBEAT, 0, b""))
        broker.wait_messages(2)
        confirm(broker)
        client.expect("basic.ack")
        client.close()
    assert proxy.events("heartbeat_missed") == []
