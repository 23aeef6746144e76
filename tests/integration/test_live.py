"""Everything passes through while RabbitMQ is there: a client cannot tell the proxy from it."""

import struct
import time

import pika
import pytest

from conftest import url_of
from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.relay import Relay
from support.wait import wait_until


@pytest.mark.parametrize("mechanism", ["PLAIN", "AMQPLAIN"])
def test_handshake(rabbit, proxy, mechanism):
    proxy.connect().close()  # from here on RabbitMQ's own properties are known
    with RawClient(proxy.port, mechanism=mechanism) as client:
        assert client.server_properties["product"] in (b"RabbitMQ", "RabbitMQ")
        assert client.tune["frame_max"] == 131072
        assert client.tune["channel_max"] == 2047
        client.open_channel(2047)
        client.close()


@pytest.mark.parametrize("user,password,vhost,where,code", [
    ("guest", "wrong", "/", "start-ok", 403), ("nobody", "x", "/", "start-ok", 403),
    ("guest", "guest", "nowhere", "open", 530)])
def test_refused_logins(rabbit, proxy, user, password, vhost, where, code):
    """Where RabbitMQ refuses them: libraries tell a wrong password from a wrong vhost by that."""
    refusals = []
    for port in (rabbit.port, proxy.port):
        with RawClient(port, handshake=False) as client:
            refusals.append(client.refusal(user, password, vhost))
    assert refusals[0] == refusals[1]
    assert refusals[1][:2] == (where, code)
    proxy.wait_event("login_refused")


def test_wrong_protocol_header(proxy):
    client = RawClient(proxy.port, handshake=False)
    client.send(b"GET / HTTP/1.1\r\n")
    assert client.stream.take(8) == amqp.PROTOCOL_HEADER
    assert client.stream.take(1) is None


def bad_frames():
    header, body = amqp.HEADER, amqp.BODY

    def frame(kind, payload):
        return amqp.frame(kind, 1, payload)

    publish = amqp.method_frame(1, "basic.publish", routing_key="q")
    bad_table = struct.pack(">HHQH", 60, 0, 0, 0x2000) + struct.pack(">I", 4) + b"\1aZx"
    return {
        "frame over frame_max": (struct.pack(">BHI", body, 1, 200000) + b"x" * 100, 501),
        "wrong end octet": (amqp.frame(amqp.METHOD, 1, b"\0\0\0\0", end=0), 501),
        "unknown frame type": (frame(7, b"x"), 501),
        "body where none belongs": (frame(body, b"x"), 505),
        "header where none belongs": (frame(header, amqp.header(0)), 505),
        "method inside a publish": (publish + publish, 505),
        "channel not open": (amqp.method_frame(9, "basic.publish", routing_key="q"), 504),
        "channel opened twice": (amqp.method_frame(1, "channel.open"), 504),
        "more body than announced": (publish + frame(header, amqp.header(3)) + frame(body, b"four"),
                                     505),
        "header of another class": (publish + frame(header, amqp.header(0, class_id=50)), 505),
        "unknown method": (frame(amqp.METHOD, struct.pack(">HH", 60, 199)), 540),
        "malformed method": (frame(amqp.METHOD, struct.pack(">HH", 50, 10) + b"\0"), 501),
        "malformed publish": (frame(amqp.METHOD, struct.pack(">HHH", 60, 40, 0) + b"\xff"), 501),
        "malformed properties": (publish + frame(header, bad_table), 502),
        "immediate": (amqp.method_frame(1, "basic.publish", routing_key="q", immediate=True), 540),
    }


@pytest.mark.parametrize("case", bad_frames())
def test_bad_bytes_close_only_their_sender(rabbit, proxy, queue, case):
    data, code = bad_frames()[case]
    with proxy.connect() as other:
        channel = other.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"before")
        client = RawClient(proxy.port)
        client.open_channel()
        client.send(data)
        client.expect_close(code)
        channel.basic_publish("", queue, b"after")
    assert rabbit.wait_for(queue, 2) == [b"before", b"after"]
    assert len(proxy.events("upstream_connected")) == 1


def test_many_clients_share_few_upstreams(proxy, queue):
    connections = [proxy.connect() for _ in range(20)]
    for connection in connections:
        connection.channel().basic_publish("", queue, b"x")
    assert len(proxy.events("upstream_connected")) <= 2
    for connection in connections:
        connection.close()


def test_more_channels_than_one_upstream_has(rabbit, make_proxy, queue):
    proxy = make_proxy(url_of(rabbit), {"pool.max_channels": 3, "pool.upstreams": 1})
    with proxy.connect() as connection:
        channels = [connection.channel() for _ in range(10)]
        for number, channel in enumerate(channels):
            channel.confirm_delivery()
            channel.basic_publish("", queue, b"%d" % number)
    assert sorted(rabbit.wait_for(queue, 10)) == [b"%d" % number for number in range(10)]


def test_consume_get_ack_nack_cancel(rabbit, proxy, queue):
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.basic_qos(prefetch_count=1)
        for number in range(3):
            channel.basic_publish("", queue, b"%d" % number)
        method, _, body = channel.basic_get(queue)
        assert body == b"0"
        channel.basic_nack(method.delivery_tag, requeue=False)
        seen = []
        for method, _, body in channel.consume(queue, inactivity_timeout=60):
            assert method, f"nothing came after {seen}"
            seen.append(body)
            if len(seen) == 1:
                channel.basic_reject(method.delivery_tag, requeue=True)
            else:
                channel.basic_ack(method.delivery_tag)
            if len(seen) == 3:
                break
        assert seen == [b"1", b"1", b"2"]
        assert channel.cancel() == 0
        assert rabbit.count(queue) == 0


def test_unacknowledged_messages_go_back(rabbit, proxy, queue):
    with proxy.connect() as connection:
        connection.channel().basic_publish("", queue, b"x")
    connection = proxy.connect()
    channel = connection.channel()
    assert channel.basic_get(queue)[2] == b"x"
    assert rabbit.count(queue) == 0
    connection.close()
    wait_until(lambda: rabbit.count(queue) == 1, "it is back in its queue")


def test_mandatory_is_returned(proxy):
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.UnroutableError) as returned:
            channel.basic_publish("", "nowhere", b"x" * 300000, mandatory=True)
        assert returned.value.messages[0].body == b"x" * 300000


def test_transactions(rabbit, proxy, queue):
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.tx_select()
        channel.basic_publish("", queue, b"gone")
        channel.tx_rollback()
        channel.basic_publish("", queue, b"kept")
        assert rabbit.count(queue) == 0
        channel.tx_commit()
        assert rabbit.count(queue) == 1
    assert rabbit.wait_for(queue, 1) == [b"kept"]


def test_declarations(rabbit, proxy):
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.exchange_declare("ex-live", "topic", durable=True)
        channel.exchange_declare("ex-live-2", "fanout", auto_delete=True)
        channel.exchange_bind("ex-live-2", "ex-live", "a.#")
        channel.queue_declare("q-live", durable=True)
        channel.queue_bind("", "ex-live", "a.*")  # the last declared queue
        channel.confirm_delivery()
        channel.basic_publish("ex-live", "a.b", b"routed")
        assert channel.queue_declare("q-live", passive=True).method.message_count == 1
        assert channel.queue_purge("q-live").method.message_count == 1
        channel.queue_unbind("q-live", "ex-live", "a.*")
        channel.queue_delete("q-live")
        channel.exchange_delete("ex-live")


def test_channel_errors_are_rabbitmqs(proxy, queue):
    with proxy.connect() as connection, proxy.connect() as other:
        kept = other.channel()
        kept.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
            connection.channel().queue_declare("nowhere", passive=True)
        assert error.value.reply_code == 404
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
            connection.channel().queue_declare(queue, durable=False)
        assert error.value.reply_code == 406
        channel = connection.channel()
        channel.basic_publish("no-such-exchange", "x", b"x")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
            connection.process_data_events(60)
            channel.queue_declare(queue, passive=True)
        assert error.value.reply_code == 404
        kept.basic_publish("", queue, b"still here")


def test_exclusive_queues(rabbit, proxy):
    connection = proxy.connect()
    channel = connection.channel()
    name = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", name, b"mine")
    with proxy.connect() as other:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
            other.channel().queue_declare(name, passive=True)
        assert error.value.reply_code == 405
    wait_until(lambda: channel.basic_get(name, auto_ack=True)[2] == b"mine", "it arrives")
    connection.close()
    with rabbit.connect() as direct:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
            direct.channel().queue_declare(name, passive=True)
        assert error.value.reply_code == 404  # gone once the close has returned


def test_publish_without_routing_key_or_queue_is_unroutable(proxy):
    """RabbitMQ closes nothing: it finds no queue of that name."""
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", "", b"nowhere")
        with pytest.raises(pika.exceptions.UnroutableError):
            channel.basic_publish("", "", b"nowhere", mandatory=True)


def test_direct_reply_to(proxy, queue):
    with proxy.connect() as asking, proxy.connect() as answering:
        client, server = asking.channel(), answering.channel()
        replies = client.consume("amq.rabbitmq.reply-to", auto_ack=True, inactivity_timeout=60)
        client.add_on_return_callback(lambda *_: None)
        client.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True) \
            if False else None
        next_reply = iter(replies)
        # pika sends basic.consume with the first next(): publish from a timer meanwhile.
        asking.call_later(0.2, lambda: client.basic_publish(
            "", queue, b"ping", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to")))

        def answer():
            method, properties, body = server.basic_get(queue, auto_ack=True)
            if method:
                server.basic_publish("", properties.reply_to, body + b"-pong")
            return method

        import threading
        thread = threading.Thread(target=lambda: wait_until(answer, "the question arrives"))
        thread.start()
        assert next(next_reply)[2] == b"ping-pong"
        thread.join()


def test_half_sent_message_never_arrives(rabbit, proxy, queue):
    client = RawClient(proxy.port)
    client.open_channel()
    frames = amqp.publish_frames(1, b"y" * 200000, routing_key=queue)
    client.send(frames[:150000])
    client.die()
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"whole")
    assert rabbit.wait_for(queue, 1) == [b"whole"]


@pytest.mark.parametrize("client_max,upstream_max", [(4096, 131072), (131072, 4096), (4096, 4096)])
def test_frame_max_differs(client_max, upstream_max, make_proxy):
    with FakeBroker(frame_max=131072) as broker:
        proxy = make_proxy(broker.url)
        with RawClient(proxy.port):  # remembers 131072, which is what clients are offered
            pass
        broker.down()
        proxy.wait_event("upstream_lost")
        if client_max > upstream_max:  # its own way in would tell the proxy what RabbitMQ takes now
            client = RawClient(proxy.port, frame_max=client_max)
        broker.frame_max = upstream_max
        broker.up()
        if client_max <= upstream_max:
            client = RawClient(proxy.port, frame_max=client_max)
        client.open_channel(confirms=True)
        body = bytes(range(256)) * 1000
        client.publish(body, "q")
        client.acked_up_to(1)
        client.close()
        broker.wait_messages(1)
        connection = [each for each in broker.connections if each.messages][-1]
        assert connection.messages[-1].body == body
        assert all(len(frame.payload) + 8 <= upstream_max for frame in connection.frames)


def test_small_frames_to_the_client(rabbit, proxy, queue):
    body = bytes(range(256)) * 1000
    with rabbit.connect() as direct:
        direct.channel().basic_publish("", queue, body)
    client = RawClient(proxy.port, frame_max=4096)
    client.open_channel()
    client.call(1, "basic.get", "basic.get-ok", queue=queue, no_ack=True)
    client.read()
    received = b""
    while len(received) < len(body):
        frame = client.read()
        assert frame.type == amqp.BODY and len(frame.payload) + 8 <= 4096
        received += frame.payload
    assert received == body
    client.close()


def test_heartbeats_to_a_silent_client(proxy):
    client = RawClient(proxy.port, heartbeat=1)
    heartbeat = client.stream.read()
    assert heartbeat.type == amqp.HEARTBEAT
    while client.stream.read() is not None:  # it says nothing: cut off after two intervals
        pass
    proxy.wait_event("heartbeat_missed")


def test_heartbeats_to_rabbitmq(make_proxy):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url, {"upstream.heartbeat": "1s"})
        RawClient(proxy.port).close()
        connection = broker.wait_connection()
        wait_until(lambda: connection.heartbeats >= 2, "heartbeats arrive")
        proxy.wait_event("upstream_lost")  # the broker sends none


def test_slow_consumer_does_not_grow_memory(rabbit, proxy, queue):
    body = b"z" * 1_000_000
    with rabbit.connect() as direct:
        channel = direct.channel()
        for _ in range(200):
            channel.basic_publish("", queue, body)
    wait_until(lambda: rabbit.count(queue) == 200, "all are there")
    client = RawClient(proxy.port, receive_buffer=4096)
    client.open_channel()
    client.call(1, "basic.consume", queue=queue, no_ack=True)
    before = proxy.resident_bytes()
    # RabbitMQ has sent what fits on the way; from then on its queue does not shrink.
    left = [rabbit.count(queue), -1]
    wait_until(lambda: left.pop(0) == (left.append(rabbit.count(queue)) or left[-1]) and
               not time.sleep(0.3), "nothing moves any more")
    assert proxy.resident_bytes() - before < 60_000_000
    client.die()


def test_slow_broker_does_not_grow_memory(make_proxy):
    with FakeBroker() as broker:
        proxy = make_proxy(broker.url)
        client = RawClient(proxy.port)
        client.open_channel(confirms=True)
        client.publish(b"first", "q")
        client.acked_up_to(1)
        broker.acks = False
        before = proxy.resident_bytes()
        client.socket.settimeout(2)
        sent = 0
        with pytest.raises(TimeoutError):
            for _ in range(3000):
                client.publish(b"z" * 100_000, "q")
                sent += 1
        assert sent < 1500
        assert proxy.resident_bytes() - before < 200_000_000
        client.die()


def test_sigterm_keeps_what_was_accepted(rabbit, proxy, queue):
    with proxy.connect() as connection:
        channel = connection.channel()
        for number in range(500):
            channel.basic_publish("", queue, b"%d" % number)
    client = RawClient(proxy.port)
    client.open_channel()
    proxy.restart()
    client.expect_close(320)
    assert rabbit.wait_for(queue, 500) == [b"%d" % number for number in range(500)]


def test_port_taken_is_status_1(proxy, make_proxy):
    import subprocess
    from support.proxy import BINARY
    done = subprocess.run([str(BINARY), "--set", f"listen.port={proxy.port}"], timeout=60,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"address already in use" in done.stderr


def test_second_proxy_on_the_same_spool_is_refused(proxy):
    import subprocess
    from support.proxy import BINARY
    done = subprocess.run([str(BINARY), "--set", f"spool.path={proxy.spool}",
                           "--set", "pool.publish_buffer_size=1"], timeout=60,
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"in use by another amqpbuf" in done.stderr


def test_broker_that_confirms_twice(broker, make_proxy):
    """A confirm too many for an upstream channel that nobody uses: two clients that come after it
    do not get that channel both."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"first", "q")
        client.acked_up_to(1)
        client.close()
    broker.open_connections()[0].send_method(1, "basic.ack", delivery_tag=1)
    with RawClient(proxy.port) as one, RawClient(proxy.port) as two:
        for client in (one, two):
            client.open_channel(confirms=True)
            client.publish(b"after", "q")
            client.acked_up_to(1)
        assert [message.channel for message in broker.messages] == [1, 1, 2]
        one.close()
        two.close()


@pytest.mark.parametrize("no_wait", [False, True])
@pytest.mark.parametrize("then", ["queue.declare", "basic.qos", "basic.publish"])
def test_a_consumer_that_asks_at_once(proxy, no_wait, then):
    """RabbitMQ answers basic.consume later than what is sent right behind it: each answer is that of
    its own method, and what the proxy itself asks is answered to the proxy."""
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="mine", exclusive=True)
        consume = amqp.method_frame(1, "basic.consume", queue="mine", no_wait=no_wait)
        expected = [] if no_wait else ["basic.consume-ok"]
        if then == "basic.publish":
            client.send(consume + amqp.publish_frames(1, b"x", routing_key="mine"))
            expected.append("basic.deliver")
        else:
            arguments = {"exclusive": True} if then == "queue.declare" else {}
            client.send(consume + amqp.method_frame(1, then, **arguments))
            expected.append(f"{then}-ok")
        heard = [client.read().name for _ in expected]
        assert sorted(heard) == sorted(expected)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            while True:  # nothing but the content of what was delivered
                assert not client.read().name


@pytest.mark.parametrize("no_wait", [False, True])
def test_the_last_queue_is_one_that_has_no_name_yet(rabbit, proxy, no_wait):
    """An empty name means it, although another one with a name was declared before."""
    rabbit.delete("named")
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="named", durable=True)
        client.send(amqp.method_frame(1, "queue.declare", exclusive=True, no_wait=no_wait) +
                    amqp.method_frame(1, "queue.bind", exchange="amq.topic", routing_key="nameless") +
                    amqp.method_frame(1, "basic.consume"))
        if not no_wait:
            assert client.expect("queue.declare-ok").args["queue"].startswith("amq.gen-")
        client.expect("queue.bind-ok")
        client.expect("basic.consume-ok")
        client.send(amqp.publish_frames(1, b"x", exchange="amq.topic", routing_key="nameless"))
        client.expect("basic.deliver")
        assert client.read().body_size == 1
        assert client.read().payload == b"x"
        client.close()
    assert rabbit.count("named") == 0


def test_the_last_queue_is_the_one_declared_last(proxy):
    """Although RabbitMQ tells the name of the one before it later than this one's was sent."""
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send(amqp.method_frame(1, "queue.declare", exclusive=True) +
                    amqp.method_frame(1, "queue.declare", queue="last", exclusive=True))
        client.expect("queue.declare-ok")
        client.expect("queue.declare-ok")
        client.call(1, "basic.consume")
        client.publish(b"x", "last")
        client.expect("basic.deliver")


@pytest.mark.parametrize("first", [
    amqp.method_frame(1, "queue.purge", queue="taken", no_wait=True),
    amqp.method_frame(1, "queue.delete", queue="taken", no_wait=True) +
    amqp.method_frame(1, "queue.declare", queue="taken", durable=True, no_wait=True),
], ids=["purge", "delete"])
def test_a_purge_does_not_take_what_was_published_behind_it(rabbit, make_proxy, first):
    """Sent again when its connection was lost, it would find what the drain has brought meanwhile."""
    rabbit.delete("taken")
    rabbit.declare("taken")
    with Relay(rabbit.port) as relay:
        proxy = make_proxy(f"amqp://127.0.0.1:{relay.port}")
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.call(1, "queue.purge", queue="taken")
            relay.cut_after(1)
            client.send(first + amqp.publish_frames(1, b"kept", routing_key="taken"))
            proxy.wait_event("upstream_lost")
            relay.mend()
            assert "Lost connection" in client.expect_close(320)
        proxy.wait_empty()
        assert rabbit.wait_for("taken", 1) == [b"kept"]
