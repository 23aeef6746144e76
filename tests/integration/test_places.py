"""Places in the queue, and what is counted: whatever comes to nothing gives back what it took."""

import pytest

from support import amqp
from support.disk import Disk
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until


def outage(broker, proxy):
    """The login is known, RabbitMQ is away."""
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("buffering_started")


def takes(proxy, count):
    """That many publishes find a place."""
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number in range(count):
            client.publish(b"%d" % number, "q")
        client.acked_up_to(count)
        client.close()


HALF = amqp.method_frame(1, "basic.publish", routing_key="q") + \
    amqp.frame(amqp.HEADER, 1, amqp.header(5))


@pytest.mark.parametrize("how", ["dies", "breaks the protocol", "opens again", "message too large"])
def test_half_a_publish_gives_its_place_back(broker, make_proxy, how):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 1,
                                    "spool.max_message_size": "64KiB"})
    client = RawClient(proxy.port)
    client.open_channel()
    if how == "message too large":
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(100000)))
        assert client.expect("channel.close").args["reply_code"] == 406
    elif how == "breaks the protocol":
        client.send(HALF + amqp.method_frame(1, "basic.publish", routing_key="q"))
        assert client.expect("connection.close").args["reply_code"] == 505
    elif how == "opens again":
        client.send(HALF + amqp.method_frame(1, "channel.close", reply_code=200, reply_text=""))
        client.expect("connection.close")
    else:
        client.send(HALF)
        client.call(2, "channel.open")  # it was read
    client.die()
    proxy.wait_event("client_closed")
    outage(broker, proxy)
    takes(proxy, 1)


@pytest.mark.parametrize("end", ["tx.rollback", "channel.close", "death"])
def test_transaction_that_is_given_up_gives_its_places_back(broker, make_proxy, end):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 2})
    outage(broker, proxy)
    client = RawClient(proxy.port)
    client.open_channel()
    client.call(1, "tx.select")
    client.publish(b"a", "q")
    client.publish(b"b", "q")
    if end == "death":
        client.call(2, "channel.open")
        known = len(proxy.events("client_closed"))
        client.die()
        proxy.wait_event("client_closed", known + 1)
    else:
        client.call(1, end)
        client.close()
    takes(proxy, 2)


def test_what_is_deleted_after_its_drain_has_ended_is_counted(broker, make_watched):
    """The confirm of the last messages and the end of the connection come in one piece."""
    proxy, admin = make_watched(broker.url, {"pool.publish_buffer_size": 3})
    spool(broker, proxy, [b"%d" % number for number in range(3)])
    broker.acks = False
    broker.up()
    broker.wait_messages(3)
    drain = next(connection for connection in broker.connections if connection.messages)
    drain.send(
        amqp.method_frame(1, "basic.ack", delivery_tag=3, multiple=True) +
        amqp.method_frame(0, "connection.close", reply_code=320, reply_text="CONNECTION_FORCED",
                          class_id=0, method_id=0))
    proxy.wait_event("drain_stopped")
    broker.acks = True
    proxy.wait_empty()
    takes(proxy, 3)
    wait_until(lambda: admin.queues()["queues"][0]["messages"] == 0, "nothing waits")
    assert admin.metrics()["amqpbuf_messages_drained_total"] == 3


def test_appends_that_fail_do_not_fill_the_way_to_the_disk(broker, make_proxy, tmp_path):
    """More of them than PENDING_BYTES_MAX, and then one that succeeds."""
    disk = Disk(tmp_path)
    proxy = make_proxy(broker.url, {"spool.overflow": "reject"}, environment=disk.environment,
                       provokes=["spool_failed"])
    outage(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        disk.become("sync")
        for number in range(40):
            client.publish(bytes(1000000), "q")
            assert client.expect("basic.nack").args["delivery_tag"] == number + 1
        disk.mend()

        def taken():
            client.publish(b"taken", "q")
            return client.read().name == "basic.ack"
        wait_until(taken, "taken again")
        client.close()


def test_transaction_that_does_not_fit_leaves_nothing(broker, make_proxy):
    proxy = make_proxy(broker.url, {"spool.max_size": "4MiB", "spool.max_message_size": "4MiB"},
                       provokes=["spool_failed"])
    outage(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "tx.select")
        for _ in range(6):
            client.publish(bytes(900000), "q")
        client.send_method(1, "tx.commit")
        client.expect_close(506)
    assert proxy.waiting() == 0


def test_refusals_are_counted(broker, make_watched):
    proxy, admin = make_watched(broker.url, {"pool.publish_buffer_size": 1,
                                             "spool.overflow": "reject"})
    broker.refuse_login = True
    assert RawClient(proxy.port, handshake=False).refusal("guest", "guest")[1] == 403
    broker.refuse_login = False
    spool(broker, proxy, [b"1"])
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"2", "q")
        client.expect("basic.nack")
        client.close()
    metrics = admin.metrics()
    assert metrics["amqpbuf_login_refused_total"] == 1
    assert metrics["amqpbuf_queue_full_total"] == 1


def test_passive_declarations_take_no_place(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:  # they are there
        client.open_channel()
        client.call(1, "exchange.declare", exchange="e", type="direct", durable=True)
        client.call(1, "queue.declare", queue="q", durable=True)
        client.close()
    outage(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "exchange.declare", exchange="e", type="direct", passive=True)
        client.call(1, "queue.declare", queue="q", passive=True)
        client.close()
    assert proxy.waiting() == 0


def test_pool_that_nobody_needs_is_idle_also_after_an_outage(broker, make_watched):
    proxy, admin = make_watched(broker.url, {
        "pool.idle_timeout": "100ms", "pool.cleanup_interval": "50ms",
        "upstream.reconnect_max": "50ms"})
    with RawClient(proxy.port) as client:
        broker.down()
        proxy.wait_event("retry_scheduled", 2)
        broker.up()
        proxy.wait_event("upstream_connected", 2)
        client.close()
    wait_until(lambda: not broker.open_connections(), "closed, for nobody needs it")
    assert [queue["state"] for queue in admin.queues()["queues"]] == ["idle"]
