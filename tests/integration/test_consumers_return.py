"""What RabbitMQ alone can answer, while it is away: a consumer's library must come back by itself."""

import pytest

from support.raw import RawClient
from support.wait import wait_until

CONSUMER = {"basic.consume": {"queue": "q"}, "basic.get": {"queue": "q"}}


def outage(broker, proxy, client):
    """RabbitMQ is away, and the proxy has found out that it does not come back at once."""
    client.open_channel()
    broker.down()
    proxy.wait_event("upstream_lost")
    proxy.wait_event("upstream_failed")


@pytest.mark.parametrize("call", CONSUMER)
def test_consumer_is_told_that_the_connection_is_lost(broker, make_proxy, call):
    """320 with a text that libraries know, on the connection: from a refused channel none recovers."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        outage(broker, proxy, client)
        client.send_method(1, call, **CONSUMER[call])
        assert "Lost connection" in client.expect_close(320)


@pytest.mark.parametrize("call", CONSUMER)
def test_consumer_waits_for_a_rabbitmq_that_returns(broker, make_proxy, call):
    """The refusal is held back: a RabbitMQ that returns meanwhile serves the call."""
    proxy = make_proxy(broker.url, {"upstream.reconnect_max": "200ms"})
    broker.silent_on.add("basic.get")
    with RawClient(proxy.port) as client:
        outage(broker, proxy, client)
        client.send_method(1, call, **CONSUMER[call])
        broker.up()
        wait_until(lambda: any(call in name for connection in broker.connections
                               for name in connection.sequence()), f"{call} at RabbitMQ")
        client.socket.close()


def test_publishes_before_the_refused_consume_are_acked(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        outage(broker, proxy, client)
        client.call(1, "confirm.select")
        client.publish(b"safe", "q")
        client.send_method(1, "basic.consume", queue="q")
        client.acked_up_to(1)
        client.expect_close(320)
    assert proxy.bodies() == ["safe"]


def test_other_calls_wait_for_the_first_try_to_return(broker, make_proxy):
    """RabbitMQ closes one connection by force and is there: nobody is refused over it."""
    proxy = make_proxy(broker.url)
    broker.silent_on.add("queue.delete")
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "queue.delete", queue="first")  # a shared channel is bound
        connection = broker.wait_connection()
        wait_until(lambda: any("queue.delete" in name for name in connection.sequence()), "delete")
        connection.die()
        proxy.wait_event("upstream_lost")
        with RawClient(proxy.port) as other:
            other.open_channel()
            other.send_method(1, "queue.delete", queue="second")
            wait_until(lambda: sum("queue.delete" in name for later in broker.connections[1:]
                                   for name in later.sequence()) == 2, "both are asked for")
            other.socket.close()


def test_other_calls_are_refused_once_that_try_has_failed(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        outage(broker, proxy, client)
        client.send_method(1, "queue.purge", queue="q")
        close = client.expect("channel.close", 1).args
        assert close["reply_code"] == 406 and "only publishing is buffered" in close["reply_text"]
        client.send_method(1, "channel.close-ok")
        client.close()


def test_call_that_waits_is_refused_when_the_try_fails(broker, make_proxy):
    """It is woken by the failure, not by the end of its own time."""
    proxy = make_proxy(broker.url, {"upstream.connect_timeout": "1h", "upstream.reconnect_min": "1s",
                                    "upstream.reconnect_max": "1s"})
    with RawClient(proxy.port) as client:
        client.open_channel()
        broker.down()
        proxy.wait_event("upstream_lost")
        client.send_method(1, "queue.purge", queue="q")
        assert client.expect("channel.close", 1).args["reply_code"] == 406
        client.send_method(1, "channel.close-ok")
        client.close()


def sent(broker, name):
    """[(connection, channel)] of each such method that RabbitMQ has got."""
    return [(connection, frame.channel) for connection in list(broker.connections)
            for frame in list(connection.frames) if frame.name == name]


def declares_in_an_outage(broker, proxy, client, *queues, **options):
    """RabbitMQ is back then, and has the first declaration of the drain, which it does not answer."""
    broker.down()
    proxy.wait_event("upstream_lost")
    proxy.wait_event("upstream_failed")
    for queue in queues:
        client.call(1, "queue.declare", queue=queue, **options)
    broker.silent_on |= {"queue.declare", "basic.consume", "basic.get", "queue.purge"}
    before = len(sent(broker, "queue.declare"))
    broker.up()
    return wait_until(lambda: sent(broker, "queue.declare")[before:], "the drain declares")[0]


def look_again(proxy):
    """Time for a connection of somebody's own to RabbitMQ, which should not be made."""
    for _ in range(20):
        RawClient(proxy.port).close()


@pytest.mark.parametrize("kind", ["durable", "auto_delete"])
@pytest.mark.parametrize("call", ["basic.consume", "basic.get", "queue.bind", "queue.purge"])
def test_what_names_a_declaration_that_waits_goes_behind_it(broker, make_proxy, call, kind):
    """Sent at once, as soon as RabbitMQ is back, it would meet 404. Every job declares, so it is
    declared more than once."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        connection, channel = declares_in_an_outage(broker, proxy, client, "new", "new",
                                                    **{kind: True})
        if call == "queue.bind":
            client.call(1, call, queue="new", exchange="amq.fanout")  # it waits in the spool, too
        else:
            client.send_method(1, call, queue="new")
        look_again(proxy)
        assert sent(broker, call) == []
        broker.silent_on.discard("queue.declare")  # the other one may have a place of its own
        connection.send_method(channel, "queue.declare-ok", queue="new")
        wait_until(lambda: sent(broker, call), f"{call} at RabbitMQ")
        client.socket.close()


def test_what_rabbitmq_has_does_not_wait_for_the_drain(broker, make_proxy):
    """A worker of a durable queue that was there before consumes while a backlog is drained."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="old", durable=True)
        declares_in_an_outage(broker, proxy, client, "new", "old", durable=True)
        client.send_method(1, "basic.consume", queue="old")
        wait_until(lambda: sent(broker, "basic.consume"), "basic.consume at RabbitMQ")
        client.socket.close()


def test_what_was_deleted_is_waited_for(broker, make_proxy):
    """It was there once, and will be when the drain has declared it."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="old", durable=True)
        client.call(1, "queue.delete", queue="old")
        connection, channel = declares_in_an_outage(broker, proxy, client, "old", durable=True)
        client.send_method(1, "basic.consume", queue="old")
        look_again(proxy)
        assert sent(broker, "basic.consume") == []
        connection.send_method(channel, "queue.declare-ok", queue="old")
        wait_until(lambda: sent(broker, "basic.consume"), "basic.consume at RabbitMQ")
        client.socket.close()


def test_declared_anew_it_does_not_wait_either(broker, make_proxy):
    """That declaration goes to RabbitMQ at once, and so does what names it."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        declares_in_an_outage(broker, proxy, client, "new", auto_delete=True)
        broker.silent_on.discard("queue.declare")
        client.call(1, "queue.declare", queue="new", auto_delete=True)
        client.send_method(1, "basic.consume", queue="new")
        wait_until(lambda: sent(broker, "basic.consume"), "basic.consume at RabbitMQ")
        client.socket.close()


def test_declaration_that_rabbitmq_refuses_is_waited_for_by_nobody(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        connection, channel = declares_in_an_outage(broker, proxy, client, "new", durable=True)
        client.send_method(1, "basic.consume", queue="new")
        look_again(proxy)
        assert sent(broker, "basic.consume") == []
        connection.close_channel(channel, 406, "PRECONDITION_FAILED - another one is there")
        wait_until(lambda: sent(broker, "basic.consume"), "basic.consume at RabbitMQ")
        client.socket.close()
