"""Several brokers in upstream.url and names with several addresses, against scripted brokers."""

import contextlib
import socket

import pytest

from support import names
from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until

NAME = "rabbit.test"


@pytest.fixture
def brokers():
    """Three that listen, of three different hosts."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakeBroker(address=f"127.0.0.{n}")) for n in (1, 2, 3)]


def url_of(brokers):
    return ", ".join(broker.url for broker in brokers)


def tries(proxy, *names):
    """(event, host) of what came of each try to connect."""
    names = names or ("upstream_failed", "upstream_connected")
    return [(event["event"], event["host"]) for event in proxy.events() if event["event"] in names]


def connected(proxy, count):
    proxy.wait_event("upstream_connected", count)
    return [host for _, host in tries(proxy, "upstream_connected")]


def test_host_that_failed_is_tried_last(brokers, make_proxy):
    """Each is back before the next one goes, and its turn comes only after the others'."""
    proxy = make_proxy(url_of(brokers))
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for turn in range(2 * len(brokers)):
            client.publish(b"%d" % turn, "q")
            client.acked_up_to_tags({turn + 1})
            broker = brokers[turn % len(brokers)]
            broker.down()
            connected(proxy, turn + 2)
            broker.up()
    assert connected(proxy, 7) == [brokers[turn % len(brokers)].address for turn in range(7)]
    assert tries(proxy, "upstream_failed") == []
    assert sorted({message.body for broker in brokers for message in broker.messages}) == \
        [b"%d" % turn for turn in range(6)]


def test_one_pools_loss_moves_all(brokers, make_proxy):
    """A connection that ends for a reason of its own moves nobody; a node that shuts down does."""
    proxy = make_proxy(url_of(brokers))
    with RawClient(proxy.port, "shop", "a"), RawClient(proxy.port, "audit", "b"):
        first, second, _ = brokers
        of_shop, of_audit = first.wait_connection(1), first.wait_connection(2)
        of_shop.send_method(0, "connection.close", reply_code=501, reply_text="FRAME_ERROR - s")
        assert connected(proxy, 3)[2] == first.address
        of_audit.send_method(0, "connection.close", reply_code=320,
                             reply_text="CONNECTION_FORCED - shutdown")
        assert connected(proxy, 4)[3] == second.address
        with RawClient(proxy.port, "stock", "c"):
            assert connected(proxy, 5)[4] == second.address


def test_every_host_is_asked_before_a_login_is_refused(brokers, make_proxy):
    """RabbitMQ can be asked as long as one of its nodes is there."""
    first, second, third = brokers
    first.down()
    second.down()
    proxy = make_proxy(url_of(brokers), {"upstream.reconnect_min": "1h",
                                         "upstream.reconnect_max": "1h"})
    with RawClient(proxy.port):
        assert tries(proxy) == [("upstream_failed", first.address),
                                ("upstream_failed", second.address),
                                ("upstream_connected", third.address)]
    with RawClient(proxy.port, "shop", "a"):  # knows already
        assert tries(proxy)[3:] == [("upstream_connected", third.address)]
    third.down()
    proxy.wait_event("upstream_lost", 2)
    with RawClient(proxy.port, handshake=False) as stranger:
        assert stranger.refusal("audit", "b")[:2] == ("start-ok", 403)
    assert tries(proxy)[4:] == [("upstream_failed", host.address) for host in brokers]


@pytest.mark.parametrize("buffer", [0, 100])
def test_a_host_that_does_not_answer(brokers, make_proxy, buffer):
    """Without a buffer a known login waits for the others; with one it is let in."""
    first, second, third = brokers
    proxy = make_proxy(url_of(brokers), {"pool.publish_buffer_size": buffer,
                                         "upstream.connect_timeout": "1s"})
    with RawClient(proxy.port):
        pass
    second.silent_before = "connection.start"
    first.down()
    proxy.wait_event("upstream_lost")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"one", "q")
        client.acked_up_to(1)
        client.close()
    wait_until(lambda: [message.body for message in third.messages] == [b"one"],
               lambda: proxy.failure("it at the third"))


def test_hosts_in_turn_with_back_off(brokers, make_proxy):
    for broker in brokers:
        broker.down()
    url = brokers[0].url.replace("amqp://", "amqp://shop:a@") + ", " + url_of(brokers[1:])
    proxy = make_proxy(url, {"upstream.reconnect_min": "100ms", "upstream.reconnect_max": "400ms"})
    proxy.wait_event("upstream_failed", 9)
    assert tries(proxy)[:9] == 3 * [("upstream_failed", host.address) for host in brokers]
    brokers[1].up()
    assert connected(proxy, 1) == [brokers[1].address]


@pytest.mark.parametrize("address,how", [
    ("127.0.0.2", "refuses"), ("::1", "refuses"), ("127.0.0.2", "is silent"),
    ("127.0.0.2", "hangs up")])
def test_every_address_of_a_name_is_tried(broker, make_proxy, address, how):
    """The first one is of no use, in one way or another."""
    with contextlib.ExitStack() as stack:
        if how == "is silent":
            stack.enter_context(socket.create_server((address, broker.port)))
        elif how == "hangs up":
            first = FakeBroker(address=address, port=broker.port)
            stack.enter_context(first).hangs_up = True
        proxy = make_proxy(f"amqp://{NAME}:{broker.port}", {"upstream.connect_timeout": "2s"},
                           environment=names.environment(NAME, address, broker.address))
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(b"one", "q")
            client.acked_up_to(1)
            client.close()
        assert tries(proxy) == [("upstream_connected", NAME)]
    assert [message.body for message in broker.messages] == [b"one"]


def test_name_without_an_address_that_answers(broker, make_proxy):
    """It says so of the last one, and finds the second again once it listens."""
    broker.down()
    proxy = make_proxy(f"amqp://shop:a@{NAME}:{broker.port}",
                       environment=names.environment(NAME, "127.0.0.2", broker.address))
    assert proxy.wait_event("upstream_failed")["reason"] == "connect: connection refused"
    broker.up()
    assert connected(proxy, 1) == [NAME]


def test_properties_before_rabbitmq_was_ever_reached(make_proxy):
    """Libraries look for the product and the version in connection.start."""
    with FakeBroker(up=False) as broker:
        proxy = make_proxy(broker.url, {"spool.unverified_logins": "accept"})
        with RawClient(proxy.port, handshake=False) as client:
            client.begin("guest", "guest")
            assert client.server_properties["product"] in (b"RabbitMQ", "RabbitMQ")
            assert client.server_properties["version"]
