"""The same bytes get the same answer from RabbitMQ and from the proxy before it."""

import pytest

from support import amqp
from support.raw import RawClient

FRAME_MAX = 131072


@pytest.fixture(params=["straight", "proxied"])
def port(request, rabbit, make_proxy):
    if request.param == "straight":
        return rabbit.port
    return make_proxy(f"amqp://127.0.0.1:{rabbit.port}").port


@pytest.fixture
def client(port):
    with RawClient(port) as raw:
        raw.open_channel(confirms=True)
        yield raw


def returned(client, **args):
    """Publishes with `mandatory`: what RabbitMQ says of it, 0 if it is routed."""
    client.send(amqp.publish_frames(1, b"m", mandatory=True, **args))
    frame, code = client.read(), 0
    while frame.name != "basic.ack":
        code = frame.args.get("reply_code", code)
        frame = client.read()
    return code


# ---- settings that it does not have ----


@pytest.mark.parametrize("when", ["before consuming", "while consuming"])
def test_a_prefetch_of_bytes_is_not_implemented(client, queue, when):
    if when == "while consuming":
        client.call(1, "basic.consume", queue=queue)
    client.send_method(1, "basic.qos", prefetch_size=1, prefetch_count=10)
    text = client.expect_close(540)
    assert text.startswith("NOT_IMPLEMENTED - prefetch_size!=0")


def test_a_prefetch_of_bytes_is_not_implemented_in_an_outage(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        broker.down()
        proxy.wait_event("buffering_started")
        client.send_method(1, "basic.qos", prefetch_size=1)
        client.expect_close(540)


# ---- frames ----

PUBLISH = amqp.method_frame(1, "basic.publish", routing_key="nowhere")


def long_header(length, body_size=1):
    empty = len(amqp.header(body_size, b"\x20\x00" + amqp.table({"k": ""})))
    return amqp.header(body_size, b"\x20\x00" + amqp.table({"k": "x" * (length - empty)}))


def body_of(length):
    return PUBLISH + amqp.frame(amqp.HEADER, 1, amqp.header(length)) + amqp.frame(
        amqp.BODY, 1, b"x" * length)


def header_of(length):
    return PUBLISH + amqp.frame(amqp.HEADER, 1, long_header(length)) + amqp.frame(
        amqp.BODY, 1, b"m")


def method_of(length):
    empty = len(amqp.method("exchange.declare", exchange="as-rabbit", type="direct",
                            arguments={"k": ""}))
    return amqp.method_frame(1, "exchange.declare", exchange="as-rabbit", type="direct",
                             arguments={"k": "x" * (length - empty)})


@pytest.mark.parametrize("frames", [body_of, header_of])
@pytest.mark.parametrize("length", [FRAME_MAX - 8, FRAME_MAX - 7, FRAME_MAX])
def test_a_payload_may_be_as_long_as_frame_max(client, frames, length):
    client.send(frames(length))
    client.acked_up_to(1)
    client.close()


def test_a_method_may_be_as_long_as_frame_max(client):
    client.send(method_of(FRAME_MAX))
    client.expect("exchange.declare-ok", 1)
    client.call(1, "exchange.delete", exchange="as-rabbit")
    client.close()


@pytest.mark.parametrize("frames", [body_of, header_of, method_of])
def test_a_payload_over_frame_max_is_refused(client, frames):
    client.send(frames(FRAME_MAX + 1))
    assert client.expect("connection.close", 0).args["reply_code"] == 501


OUT_OF_PLACE = {
    "header of another class": (
        PUBLISH + amqp.frame(amqp.HEADER, 1, amqp.header(1, class_id=50)), 505),
    "header with a weight": (PUBLISH + amqp.frame(amqp.HEADER, 1, amqp.header(1, weight=1)), 505),
    "heartbeat on a channel": (amqp.frame(amqp.HEARTBEAT, 1, b""), 505),
    "heartbeat on an unknown channel": (amqp.frame(amqp.HEARTBEAT, 9, b""), 505),
    "heartbeat in a message": (PUBLISH + amqp.frame(amqp.HEARTBEAT, 1, b""), 505),
    "heartbeat with a payload": (amqp.frame(amqp.HEARTBEAT, 0, b"x"), 501),
    "heartbeat with a payload on a channel": (amqp.frame(amqp.HEARTBEAT, 1, b"x"), 501),
    "connection.start-ok again": (amqp.method_frame(0, "connection.start-ok"), 504),
    "connection.open again": (amqp.method_frame(0, "connection.open", vhost="/"), 504),
    "queue.declare on channel 0": (amqp.method_frame(0, "queue.declare", queue="as-rabbit"), 504),
}


@pytest.mark.parametrize("frames,code", OUT_OF_PLACE.values(), ids=OUT_OF_PLACE)
def test_frames_out_of_place(client, frames, code):
    client.send(frames)
    assert client.expect("connection.close", 0).args["reply_code"] == code


# ---- names that are left empty ----


def test_a_publish_without_a_key_is_for_no_queue(client):
    client.call(1, "queue.declare", queue="as-rabbit")
    assert returned(client, exchange="", routing_key="") == 312
    assert client.call(1, "queue.delete", queue="as-rabbit").args["message_count"] == 0
    client.close()


def test_a_binding_without_names_is_the_last_queues(client):
    client.call(1, "queue.declare", queue="as-rabbit")
    client.call(1, "queue.bind", exchange="amq.direct")
    assert returned(client, exchange="amq.direct", routing_key="as-rabbit") == 0
    client.call(1, "queue.unbind", exchange="amq.direct")
    assert returned(client, exchange="amq.direct", routing_key="as-rabbit") == 312
    client.call(1, "queue.delete", queue="as-rabbit")
    client.close()


# ---- prefetch ----


@pytest.mark.parametrize("each,together", [(2, 3), (3, 0), (0, 4)])
@pytest.mark.parametrize("order", [1, -1])
def test_prefetch_of_each_consumer_and_of_all(broker, make_proxy, each, together, order):
    """Both reach RabbitMQ, whenever they were set; the last of each counts."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "basic.qos", prefetch_count=9)
        for count, all_of_it in [(each, False), (together, True)][::order]:
            client.call(1, "basic.qos", prefetch_count=count, global_=all_of_it)
        client.call(1, "basic.consume", queue="q")
        own = next(c for c in broker.connections if "1:basic.consume" in c.sequence())
        asked = {f.args["global_"]: f.args["prefetch_count"]
                 for f in own.frames if f.name == "basic.qos"}
        assert asked == {False: each, True: together}
        client.close()


# ---- frame_max ----


def test_one_answer_about_frame_max_where_rabbitmq_has_no_limit(broker, make_proxy):
    """What is offered is what is used with RabbitMQ."""
    broker.frame_max = 0
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        assert client.tune["frame_max"] == broker.connections[-1].tuned["frame_max"] == FRAME_MAX
        client.send(header_of(FRAME_MAX))
        client.call(1, "channel.close", reply_code=200)
        assert broker.messages[-1].header == long_header(FRAME_MAX)
        client.close()
