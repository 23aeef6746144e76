"""Publishers during an outage, on a real RabbitMQ and with real clients. What a test claims to be
durable is checked by killing the proxy."""

import os

import pika
import pytest

from conftest import url_of
from support.broker import FakeBroker
from support.jobs import AMQPLIB, EXTENSION, amqp_publish, php_job, run_jobs
from support.rabbit import WHICH
from support.raw import RawClient
from support.wait import wait_until

ALL_PROPERTIES = pika.BasicProperties(
    content_type="text/plain", content_encoding="utf-8", delivery_mode=2, priority=3,
    correlation_id="c", reply_to="r", expiration="600000", message_id="m", timestamp=1700000000,
    type="t", user_id="guest", app_id="a", cluster_id="x",
    headers={"text": "b", "number": -5, "big": 1 << 40, "yes": True, "none": None,
             "table": {"deep": {"er": [1, "two", {"three": 3}]}}, "bytes": b"\x00\xff"})


def take_down(rabbit, proxy):
    """The proxy knows the login, then RabbitMQ is gone."""
    proxy.connect().close()
    rabbit.stop()
    proxy.wait_event("upstream_lost")


def test_buffer_off_is_an_error_and_no_hang(make_proxy):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0})
        client = RawClient(proxy.port)
        client.open_channel()
        broker.down()
        proxy.wait_event("upstream_lost")
        client.publish(b"x", "q")
        assert "Lost connection to RabbitMQ" in client.expect_close(320)
        refused = RawClient(proxy.port, handshake=False)
        refused.begin("guest", "guest")
        refused.tune_ok()
        refused.send_method(0, "connection.open", vhost="/")
        refused.expect_close(320)


def test_full_buffer_refuses_the_next_publish(make_proxy):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 1})
        RawClient(proxy.port).close()
        broker.down()
        proxy.wait_event("upstream_lost")
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(b"first", "q")
            client.acked_up_to(1)
            client.close()
        client = RawClient(proxy.port)
        client.open_channel()
        client.publish(b"second", "q")
        assert client.expect_close(506) == "RESOURCE_ERROR - publish buffer full (1 messages)"
        assert proxy.bodies() == ["first"]
        proxy.crash_and_start()
        assert proxy.bodies() == ["first"]


@pytest.mark.parametrize("confirms", [False, True])
def test_overflow_reject(make_proxy, confirms):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 1, "spool.overflow": "reject"})
        RawClient(proxy.port).close()
        broker.down()
        proxy.wait_event("upstream_lost")
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=confirms)
            client.publish(b"first", "q")
            if confirms:
                client.acked_up_to(1)
            client.publish(b"second", "q")
            if confirms:
                assert client.expect("basic.nack").args["delivery_tag"] == 2
            else:
                assert client.expect("channel.close").args["reply_code"] == 506
        wait_until(lambda: proxy.bodies() == ["first"], "the first message alone is there")


def test_overflow_block(make_proxy):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 1, "spool.overflow": "block"})
        RawClient(proxy.port).close()
        broker.down()
        proxy.wait_event("upstream_lost")
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(b"first", "q")
            client.acked_up_to(1)
            client.publish(b"second", "q")
            client.expect("connection.blocked", 0)
            assert proxy.bodies() == ["first"]
            broker.up()
            client.expect("connection.unblocked", 0)
            client.acked_up_to_tags({2})
            client.close()
        assert broker.wait_messages(2) == [b"first", b"second"]


def test_two_clients_and_an_outage_between(rabbit, proxy, queue):
    with proxy.connect():
        pass
    rabbit.stop()
    proxy.wait_event("upstream_lost")
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.basic_publish("", queue, b"one")
        channel.basic_publish("", queue, b"two")
    rabbit.start()
    assert rabbit.wait_for(queue, 2) == [b"one", b"two"]


STEPS = ["client gone", "upstream gone", "first published", "second published", "closed",
         "upstream back"]
if WHICH:
    STEPS = ["first published", "upstream back"]  # the others on one RabbitMQ


@pytest.mark.parametrize("step", STEPS)
def test_kill_the_proxy_between_the_steps(rabbit, make_proxy, queue, step):
    proxy = make_proxy(url_of(rabbit))

    def reached(name):
        if name == step:
            proxy.crash_and_start()

    def publish(body):
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(body, queue)
            client.acked_up_to(1)
            client.close()

    proxy.connect().close()
    reached("client gone")
    rabbit.stop()
    reached("upstream gone")
    publish(b"one")
    reached("first published")
    publish(b"two")
    reached("second published")
    with proxy.connect() as connection:
        connection.channel().basic_publish("", queue, b"three")
    reached("closed")
    if step != "upstream back":
        assert proxy.bodies() == ["one", "two", "three"]
    rabbit.launch()
    reached("upstream back")
    bodies = rabbit_bodies(rabbit, queue, 3)
    # The proxy may be killed after RabbitMQ took a message and before the record was deleted.
    allowed = bodies if step != "upstream back" else list(dict.fromkeys(bodies))
    assert allowed == [b"one", b"two", b"three"]


def rabbit_bodies(rabbit, queue, count):
    wait_until(rabbit.is_accepting, "RabbitMQ accepts", 120)
    return rabbit.wait_for(queue, count)


def test_close_returned_means_safe(rabbit, proxy, queue):
    """kill -9 right after a job's close() has returned, in an outage."""
    take_down(rabbit, proxy)
    for number in range(5):
        php_job(AMQPLIB, proxy.port, queue, count=20, prefix=f"job{number}").succeed()
        proxy.crash_and_start()
    expected = [f"job{job}-{n}" for job in range(5) for n in range(1, 21)]
    assert proxy.bodies() == expected
    rabbit.start()
    assert [body.decode() for body in rabbit.wait_for(queue, 100)] == expected


@pytest.mark.parametrize("offline", [False, True])
def test_sizes_and_properties(rabbit, proxy, queue, offline):
    frame_max = 131072
    bodies = [os.urandom(size) for size in
              (0, 1, frame_max - 8, frame_max - 7, frame_max, 10 << 20, 3072, 3073)]
    if offline:
        take_down(rabbit, proxy)
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", queue, body, ALL_PROPERTIES)
    if offline:
        proxy.crash_and_start()
        proxy.inspect("verify")
        record = proxy.dump("--limit", "1")[0]
        assert record["properties"]["headers"]["table"] == {"deep": {"er": [1, "two", {"three": 3}]}}
        assert record["properties"]["app_id"] == "a"
        rabbit.start()
    wait_until(lambda: rabbit.count(queue) == len(bodies), "all arrived")
    for (_, properties, body), expected in zip(rabbit.take(queue), bodies):
        assert body == expected
        ttl = int(properties.expiration)
        assert ttl == 600000 or offline and 0 < ttl < 600000
        properties.expiration = ALL_PROPERTIES.expiration
        assert properties == ALL_PROPERTIES


def test_expiration_can_be_kept(rabbit, make_proxy, queue):
    proxy = make_proxy(url_of(rabbit), {"drain.expiration": "keep"})
    take_down(rabbit, proxy)
    with proxy.connect() as connection:
        connection.channel().basic_publish("", queue, b"x", ALL_PROPERTIES)
    rabbit.start()
    wait_until(lambda: rabbit.count(queue) == 1, "it arrived")
    assert rabbit.take(queue)[0][1].expiration == "600000"


@pytest.mark.parametrize("offline", [False, True])
def test_two_hundred_php_jobs(rabbit, proxy, queue, offline):
    if offline:
        take_down(rabbit, proxy)
    scripts = [AMQPLIB, EXTENSION]

    def make(number):
        return php_job(scripts[number % 2], proxy.port, queue, count=3, prefix=f"job{number}",
                       **({"confirm": True} if number % 4 == 0 else {}))

    run_jobs(make, 200, 1)
    run_jobs(lambda number: make(1000 + number), 200, 50)
    if offline:
        assert proxy.waiting() == 1200
        proxy.crash_and_start()
        rabbit.start()
        proxy.wait_empty()
    bodies = rabbit.wait_for(queue, 1200)
    assert len(bodies) == len(set(bodies)) == 1200
    for number in [*range(1, 201), *range(1001, 1201)]:
        mine = [body for body in bodies if body.startswith(b"job%d-" % number)]
        assert mine == [b"job%d-%d" % (number, n) for n in (1, 2, 3)]


@pytest.mark.parametrize("offline", [False, True])
def test_amqp_publish_tool(rabbit, proxy, queue, offline):
    if offline:
        take_down(rabbit, proxy)
    amqp_publish(proxy.port, queue, "hello").succeed()
    if offline:
        rabbit.start()
    assert rabbit.wait_for(queue, 1) == [b"hello"]


def test_mandatory_message_that_is_returned_in_the_drain(rabbit, make_proxy, queue):
    proxy = make_proxy(url_of(rabbit), {"drain.unroutable_wait": "1s"})
    with proxy.connect() as connection:
        channel = connection.channel()
        rabbit.stop()
        proxy.wait_event("upstream_lost")
        for number in range(20):
            routable = number % 5 != 2
            channel.basic_publish("", queue if routable else "nowhere", b"%d" % number,
                                  mandatory=True)
    rabbit.start()
    expected = [b"%d" % number for number in range(20) if number % 5 != 2]
    assert rabbit.wait_for(queue, len(expected)) == expected
    proxy.wait_event("drain_finished")
    rejected = proxy.dump("--rejected")
    assert [record["body"] for record in rejected] == ["2", "7", "12", "17"]
    assert {record["rejected"]["code"] for record in rejected} == {312}


def test_declaration_that_closes_the_connection(rabbit, make_proxy, queue):
    """An exchange type that RabbitMQ does not know is an error of the whole connection: 503.
    RabbitMQ 4 closes only the channel."""
    proxy = make_proxy(url_of(rabbit), {"drain.nack_limit": 3})
    with proxy.connect() as connection:
        channel = connection.channel()
        rabbit.stop()
        proxy.wait_event("upstream_lost")
        channel.basic_publish("", queue, b"before")
        channel.exchange_declare("ex-weird", "weird")
        channel.basic_publish("", queue, b"after")
    rabbit.start()
    bodies = rabbit.wait_for(queue, 2)
    assert list(dict.fromkeys(bodies)) == [b"before", b"after"]
    code = 503 if rabbit.version() < (4, 0) else 406
    assert [record["rejected"]["code"] for record in proxy.dump("--rejected")] == [code]


@pytest.mark.provokes("client_refused")
def test_only_known_logins_are_let_in(rabbit, proxy):
    take_down(rabbit, proxy)
    proxy.connect().close()
    for user, password in (("guest", "wrong"), ("shop", "shop-secret")):
        with pytest.raises(pika.exceptions.ProbableAuthenticationError) as refusal:
            proxy.connect(user, password)
        assert "403" in str(refusal.value.args)
    proxy.crash_and_start()
    proxy.connect().close()
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        proxy.connect("guest", "wrong")


def test_unknown_logins_can_be_accepted(rabbit, make_proxy, queue):
    proxy = make_proxy(url_of(rabbit), {"spool.unverified_logins": "accept"})
    rabbit.stop()
    with proxy.connect() as connection:
        connection.channel().basic_publish("", queue, b"x")
    rabbit.start()
    assert rabbit.wait_for(queue, 1) == [b"x"]


def test_passwords_are_nowhere_in_the_clear(rabbit, proxy):
    rabbit.start() if not rabbit.is_running() else None
    proxy.connect("shop").close()
    wait_until(lambda: b"shop" in (proxy.spool / "data.mdb").read_bytes(), "the login is stored")
    assert b"shop-secret" not in (proxy.spool / "data.mdb").read_bytes()
    assert "shop-secret" not in proxy.log_text()
    assert (proxy.spool / "credential.key").stat().st_mode & 0o777 == 0o600
