"""Declarations in an outage: what each job repeats costs nothing, and nothing is promised in vain."""

import pytest

from support.raw import RawClient
from support.wait import wait_until

JOBS = 200


def take_away(broker, proxy):
    """An outage; the login is known."""
    RawClient(proxy.port).close()
    lost = len(proxy.events("upstream_lost"))
    broker.down()
    proxy.wait_event("upstream_lost", lost + 1)


def declare_all(client):
    client.call(1, "exchange.declare", exchange="shop", type="direct", durable=True)
    client.call(1, "queue.declare", queue="orders", durable=True)
    client.call(1, "queue.bind", queue="orders", exchange="shop", routing_key="orders")


def job(proxy, number, declares):
    with RawClient(proxy.port) as client:
        client.open_channel()
        if declares:
            declare_all(client)
        client.publish(b"%d" % number, "orders", exchange="shop")
        client.close()


def commits(admin):
    return admin.metrics()["amqpbuf_spool_commit_seconds_count"]


def kinds(proxy):
    return [record.get("kind", "publish") for record in proxy.dump()]


def declare(client, proxy, already, **args):
    """It is on disk before the next one: the answer does not wait for that."""
    client.call(1, "queue.declare", **args)
    wait_until(lambda: len(kinds(proxy)) >= already, lambda: proxy.failure(f"{already} records"))


def drained_methods(broker):
    names = [frame.name for frame in broker.connections[-1].frames if frame.name]
    return [name for name in names if name.split(".")[1] in ("declare", "bind")]


def test_what_every_job_declares_costs_nothing(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    spent = {}
    for round_, declares in enumerate((False, True), 1):
        take_away(broker, proxy)
        for number in range(JOBS):
            job(proxy, number, declares)
        assert proxy.waiting() == JOBS + (3 if declares else 0)
        before = commits(admin)
        broker.up()
        assert proxy.wait_event("drain_finished", round_)["messages"] == "0"
        spent[declares] = commits(admin) - before
    # A commit for each of 600 declarations would be far more; how many confirms a commit takes
    # together depends on how busy the machine is.
    assert spent[True] <= 2 * spent[False] + JOBS // 4
    assert drained_methods(broker) == ["exchange.declare", "queue.declare", "queue.bind"]
    bodies = [message.body for message in broker.messages]
    assert bodies == [b"%d" % number for number in range(JOBS)] * 2


def test_the_first_stands_before_what_follows(broker, make_proxy):
    """And after a drain the same declaration is kept once more, in its new place."""
    proxy = make_proxy(broker.url)
    for number in (1, 2):
        take_away(broker, proxy)
        job(proxy, 0, declares=True)
        job(proxy, 1, declares=True)
        assert kinds(proxy) == ["declare"] * 3 + ["publish"] * 2
        broker.up()
        proxy.wait_event("drain_finished", number)
        assert drained_methods(broker) == ["exchange.declare", "queue.declare", "queue.bind"]


def test_after_a_restart(broker, make_proxy):
    """What waits is not known before it is read: kept once more, and drained in order."""
    proxy = make_proxy(broker.url)
    take_away(broker, proxy)
    job(proxy, 0, declares=True)
    proxy.restart()
    job(proxy, 1, declares=True)
    job(proxy, 2, declares=True)
    assert kinds(proxy) == ["declare"] * 3 + ["publish"] + ["declare"] * 3 + ["publish"] * 2
    broker.up()
    proxy.wait_event("drain_finished")
    assert [message.body for message in broker.messages] == [b"0", b"1", b"2"]


def test_a_queue_that_expires_is_declared_each_time(broker, make_proxy):
    """Only a declaration renews it."""
    proxy = make_proxy(broker.url)
    take_away(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for number, expires in enumerate((60000, 60000, None, None)):
            arguments = {"x-expires": expires} if expires else {"x-max-length": 5}
            declare(client, proxy, min(number + 1, 3), queue="delay", durable=True,
                    arguments=arguments)
        client.close()
    assert kinds(proxy) == ["declare"] * 3
    broker.up()
    proxy.wait_event("drain_finished")


def test_one_that_differs_in_anything_is_another(broker, make_proxy):
    proxy = make_proxy(broker.url)
    take_away(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for _ in range(2):
            client.call(1, "queue.declare", queue="a", durable=True)
            client.call(1, "queue.declare", queue="a")
            client.call(1, "queue.declare", queue="b", durable=True)
            client.call(1, "queue.bind", queue="a", exchange="amq.direct", routing_key="x")
            client.call(1, "queue.bind", queue="a", exchange="amq.direct", routing_key="y")
            wait_until(lambda: len(kinds(proxy)) == 5, lambda: proxy.failure("all are kept"))
        # no-wait is not part of what is declared
        client.send_method(1, "queue.declare", queue="a", durable=True, no_wait=True)
        client.close()
    assert kinds(proxy) == ["declare"] * 5


def test_one_that_is_refused_is_kept_again_later(broker, make_proxy):
    proxy = make_proxy(broker.url)
    for number in (1, 2):
        take_away(broker, proxy)
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.call(1, "queue.declare", queue="a", durable=True)
            client.close()
        assert kinds(proxy) == ["declare"]

        def refuse(connection, frame):
            if frame.name != "queue.declare":
                return False
            connection.close_channel(frame.channel, 406, "PRECONDITION_FAILED - scripted")
            return True

        broker.on_frame = refuse
        broker.up()
        proxy.wait_event("drain_finished", number)
        assert len(proxy.dump("--rejected")) == number


def seen(broker, name):
    return sum(frame.name == name for connection in broker.connections
               for frame in connection.frames)


def wait_seen(broker, proxy, name, count=1):
    wait_until(lambda: seen(broker, name) == count, lambda: proxy.failure(f"{count} {name}"))


def test_one_whose_answer_is_lost_still_waits(broker, make_proxy):
    """RabbitMQ may not have done it: it is sent again, and an identical one takes no place."""
    proxy = make_proxy(broker.url)
    take_away(broker, proxy)
    job(proxy, 0, declares=True)
    broker.silent_on = {"exchange.declare"}
    broker.up()
    wait_seen(broker, proxy, "exchange.declare")
    lost = len(proxy.events("upstream_lost"))
    broker.down()
    proxy.wait_event("upstream_lost", lost + 1)
    job(proxy, 1, declares=True)
    assert kinds(proxy) == ["declare"] * 3 + ["publish"] * 2
    broker.silent_on = set()
    broker.up()
    proxy.wait_event("drain_finished")
    assert drained_methods(broker) == ["exchange.declare", "queue.declare", "queue.bind"]
    assert [message.body for message in broker.messages] == [b"0", b"1"]


def test_one_that_was_deleted_meanwhile_is_kept_again(broker, make_proxy):
    """A deletion goes to RabbitMQ behind the declaration that waits; what is declared after it is
    another one, although the backlog has not ended."""
    proxy = make_proxy(broker.url)
    take_away(broker, proxy)
    job(proxy, 0, declares=True)
    broker.acks = False
    broker.silent_on = {"exchange.declare"}
    broker.up()
    wait_seen(broker, proxy, "exchange.declare")
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "queue.delete", queue="orders")
        with RawClient(proxy.port) as other:  # a round trip: the proxy has read it
            other.close()
        assert seen(broker, "queue.delete") == 0
        drain = next(c for c in broker.connections
                     if any(frame.name == "exchange.declare" for frame in c.frames))
        broker.silent_on = set()
        drain.send_method(1, "exchange.declare-ok")
        client.expect("queue.delete-ok", 1)
        client.close()
    names = [frame.name for frame in drain.frames]
    assert "queue.declare" in names and seen(broker, "queue.delete") == 1
    lost = len(proxy.events("upstream_lost"))
    broker.down()
    proxy.wait_event("upstream_lost", lost + 1)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="orders", durable=True)
        client.close()
    assert kinds(proxy) == ["publish", "declare"]
    broker.acks = True
    broker.up()
    proxy.wait_event("drain_finished")


FULL = {"pool.publish_buffer_size": 4}


def fill(proxy):
    job(proxy, 0, declares=True)


@pytest.mark.parametrize("overflow", ["disconnect", "reject", "block"])
def test_a_full_queue(broker, make_proxy, overflow):
    """What takes no place is answered; what would take one meets spool.overflow, as a publish does."""
    proxy = make_proxy(broker.url, {**FULL, "spool.overflow": overflow})
    take_away(broker, proxy)
    fill(proxy)
    assert len(kinds(proxy)) == 4
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        declare_all(client)
        client.send_method(1, "queue.declare", queue="one more", durable=True)
        if overflow == "disconnect":
            assert "publish buffer full" in client.expect_close(506)
        elif overflow == "reject":
            assert client.expect("channel.close", 1).args["reply_code"] == 506
            client.send_method(1, "channel.close-ok")
            client.close()
        else:
            client.expect("connection.blocked")
            broker.up()
            client.expect("connection.unblocked")
            client.expect("queue.declare-ok", 1)
            client.close()
    if overflow == "block":
        wait_until(lambda: proxy.waiting() == 0, lambda: proxy.failure("all is drained"))
    else:
        assert len(kinds(proxy)) == 4


def test_a_passive_declaration(broker, make_proxy):
    """Ok for a name that was seen to exist, else 404, so that its client declares it."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="live", durable=True)
        client.call(1, "queue.declare", queue="found", passive=True)
        client.call(1, "exchange.declare", exchange="live", type="direct")
        client.close()
    take_away(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel()
        for name in ("live", "found"):
            client.call(1, "queue.declare", queue=name, passive=True)
        for name in ("live", "amq.topic", ""):
            client.call(1, "exchange.declare", exchange=name, passive=True)
        for method, field, text in (("queue.declare", "queue", "no queue 'found '"),
                                    ("queue.declare", "queue", "no queue 'amq.gen-x'"),
                                    ("queue.declare", "queue", "no queue 'new'"),
                                    ("exchange.declare", "exchange", "no exchange 'new'")):
            name = text.split("'")[1]
            close = client.call(1, method, "channel.close", **{field: name, "passive": True}).args
            assert (close["reply_code"], close["class_id"]) == (404, 50 if field == "queue" else 40)
            assert text in close["reply_text"]
            client.send_method(1, "channel.close-ok")
            client.open_channel()
        client.call(1, "queue.declare", queue="new", durable=True)
        client.call(1, "queue.declare", queue="new", passive=True)
        client.close()
    assert kinds(proxy) == ["declare"]


GONE = "NOT_FOUND - no queue 'gone' in vhost '/'"
NO_EXCHANGE = "NOT_FOUND - no exchange 'gone' in vhost '/'"


def deleted(client, broker):
    client.call(1, "queue.delete", queue="gone")


def deleted_without_an_answer(client, broker):
    client.send_method(1, "queue.delete", queue="", no_wait=True)
    client.call(1, "queue.declare", queue="another", durable=True)


def refused(client, broker, text, method="basic.get", cause=(60, 70)):
    broker.on_frame = lambda connection, frame: frame.name == method and \
        connection.close_channel(frame.channel, 404, text, cause) is None
    close = client.call(1, method, "channel.close", queue="gone")
    broker.on_frame = None
    assert close.args["reply_text"] == text
    client.send_method(1, "channel.close-ok")
    client.open_channel()


def unknown_to_rabbitmq(client, broker):
    refused(client, broker, GONE)


def known_on_a_node_that_is_away(client, broker):
    refused(client, broker, "NOT_FOUND - home node 'a' of durable queue 'gone' is down")


def unknown_exchange_of_a_binding(client, broker):
    refused(client, broker, NO_EXCHANGE, "queue.bind", (50, 20))


def unknown_queue_of_a_binding(client, broker):
    refused(client, broker, GONE, "queue.bind", (50, 20))


@pytest.mark.provokes("channel_refused")
@pytest.mark.parametrize("how, there", [
    (deleted, False), (deleted_without_an_answer, False), (unknown_to_rabbitmq, False),
    (known_on_a_node_that_is_away, True), (unknown_exchange_of_a_binding, True),
    (unknown_queue_of_a_binding, False)])
def test_what_is_gone_is_declared_again(broker, make_proxy, how, there):
    """A passive declaration in an outage is told 404, or its client would publish to no queue."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="gone", durable=True)
        how(client, broker)
        client.close()
    take_away(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", "queue.declare-ok" if there else "channel.close",
                    queue="gone", passive=True)
        if not there:
            client.send_method(1, "channel.close-ok")
            client.open_channel()
            client.call(1, "queue.declare", queue="gone", durable=True)
        client.call(1, "queue.declare", queue="gone", passive=True)
        client.close()


def refuse_publishes(broker):
    broker.on_frame = lambda connection, frame: frame.name == "basic.publish" and \
        connection.close_channel(frame.channel, 404, NO_EXCHANGE) is None


def not_there_for_a_publish(client, broker, proxy):
    refuse_publishes(broker)
    client.publish(b"x", "k", exchange="gone")
    client.expect("channel.close")
    client.send_method(1, "channel.close-ok")


def not_there_for_a_drain(client, broker, proxy):
    take_away(broker, proxy)
    client.publish(b"x", "k", exchange="gone")
    client.call(1, "channel.close", "channel.close-ok", reply_code=200)
    refuse_publishes(broker)
    broker.up()
    proxy.wait_event("message_rejected")
    proxy.wait_empty()


def not_there_for_a_binding(client, broker, proxy):
    refused(client, broker, NO_EXCHANGE, "queue.bind", (50, 20))


@pytest.mark.provokes("channel_refused", "drain_refused", "message_rejected")
@pytest.mark.parametrize("how", [not_there_for_a_publish, not_there_for_a_drain,
                                 not_there_for_a_binding])
def test_an_exchange_that_is_gone_is_declared_again(broker, make_proxy, how):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "exchange.declare", exchange="gone", type="direct", durable=True)
        how(client, broker, proxy)
        broker.on_frame = None
        take_away(broker, proxy)
        client.open_channel(2)
        client.call(2, "exchange.declare", "channel.close", exchange="gone", passive=True)


@pytest.mark.provokes("drain_refused")
def test_one_whose_node_is_away_is_tried_again(broker, make_proxy):
    """RabbitMQ says 404 of a classic queue then, too; it is there again with its node."""
    proxy = make_proxy(broker.url)
    take_away(broker, proxy)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.call(1, "queue.declare", queue="q", durable=True)
        client.publish(b"1", "q")
        client.acked_up_to(1)
        client.close()
    tries = []

    def is_away(connection, frame):
        if frame.name != "queue.declare" or len(tries) == 3:
            return False
        tries.append(frame)
        connection.close_channel(frame.channel, 404, "NOT_FOUND - home node 'a' of durable queue 'q' "
                                 "in vhost '/' is down or inaccessible", (50, 10))
        return True

    broker.on_frame = is_away
    broker.up()
    proxy.wait_empty()
    assert len(tries) == 3
    assert drained_methods(broker) == ["queue.declare"] * 4
    assert proxy.dump("--rejected") == [] and proxy.events("message_rejected") == []
