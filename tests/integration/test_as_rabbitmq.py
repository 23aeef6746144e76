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
    assert client.expect_close(540) == "NOT_IMPLEMENTED - prefetch_size!=0 (1)"


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


def deliver(**args):
    return amqp.method_frame(1, "basic.deliver", consumer_tag="c", delivery_tag=1, **args)


KNOWN = amqp.method("queue.declare", queue="as-rabbit", passive=True)
FLOW = amqp.method_frame(1, "channel.flow", active=True)
UNREADABLE = {  # code, class, method
    "a method without its last octet": (amqp.frame(amqp.METHOD, 1, KNOWN[:-1]), (501, 50, 10)),
    "a method without half of it": (amqp.frame(amqp.METHOD, 1, KNOWN[:8]), (501, 50, 10)),
    "an octet behind a method": (amqp.frame(amqp.METHOD, 1, KNOWN + b"\0"), (501, 50, 10)),
    "the same on a channel that is not open": (
        amqp.frame(amqp.METHOD, 9, KNOWN + b"\0"), (501, 50, 10)),
    "a publish without its last octet": (
        amqp.frame(amqp.METHOD, 1, amqp.method("basic.publish")[:-1]), (501, 60, 40)),
    "a close without its last octet": (
        amqp.frame(amqp.METHOD, 1, amqp.method("channel.close")[:-1]), (501, 20, 40)),
    "a deliver without its last octet": (
        amqp.frame(amqp.METHOD, 1, amqp.method("basic.deliver")[:-1]), (501, 60, 60)),
    "a name that is no UTF-8": (
        amqp.method_frame(1, "queue.declare", queue=b"\xff", passive=True), (501, 0, 0)),
    "a method without a number": (amqp.frame(amqp.METHOD, 1, b""), (501, 0, 0)),
    "half a number": (amqp.frame(amqp.METHOD, 1, b"\0\x3c"), (501, 0, 0)),
    "the same elsewhere": (amqp.frame(amqp.METHOD, 9, b"\0\x3c"), (501, 0, 0)),
    "the same on 0": (amqp.frame(amqp.METHOD, 0, b"\0\x3c"), (501, 0, 0)),
    "half a header": (PUBLISH + amqp.frame(amqp.HEADER, 1, b"\0\x3c"), (501, 0, 0)),
    "half a header alone": (amqp.frame(amqp.HEADER, 1, b"\0\x3c"), (501, 0, 0)),
    "a body alone": (amqp.frame(amqp.BODY, 1, b"x"), (505, 0, 0)),
    "a header alone": (amqp.frame(amqp.HEADER, 1, amqp.header(1)), (505, 0, 0)),
    "a header on a channel that is not open": (
        amqp.frame(amqp.HEADER, 9, amqp.header(1)), (505, 0, 0)),
    "a body for a header": (PUBLISH + amqp.frame(amqp.BODY, 1, b"x"), (505, 60, 40)),
    "a header for a body": (
        PUBLISH + 2 * amqp.frame(amqp.HEADER, 1, amqp.header(1)), (505, 60, 40)),
    "a method for a body": (
        PUBLISH + amqp.frame(amqp.HEADER, 1, amqp.header(1)) + FLOW, (505, 60, 40)),
    "more body than announced": (
        PUBLISH + amqp.frame(amqp.HEADER, 1, amqp.header(1)) + amqp.frame(amqp.BODY, 1, b"xy")
        + FLOW, (505, 60, 40)),
    "a deliver without content": (deliver() + FLOW, (505, 60, 60)),
    "a deliver with a body alone": (deliver() + amqp.frame(amqp.BODY, 1, b"x"), (505, 60, 60)),
    "a deliver with content": (
        deliver() + amqp.frame(amqp.HEADER, 1, amqp.header(1)) + amqp.frame(amqp.BODY, 1, b"x"),
        (503, 60, 60)),
    "a return without content": (
        amqp.method_frame(1, "basic.return", reply_code=312) + FLOW, (505, 60, 50)),
    "channel.open-ok": (amqp.method_frame(1, "channel.open-ok"), (503, 20, 11)),
    "connection.start": (amqp.method_frame(0, "connection.start"), (504, 10, 10)),
}


@pytest.mark.parametrize("frames,close", UNREADABLE.values(), ids=UNREADABLE)
def test_frames_that_cannot_be_read(client, frames, close):
    client.send(frames)
    args = client.expect("connection.close", 0).args
    assert (args["reply_code"], args["class_id"], args["method_id"]) == close


def test_a_header_is_not_cut_for_who_takes_small_frames(port, queue):
    """It can not be; RabbitMQ sends it as it is, and most libraries read it."""
    with RawClient(port) as publisher, RawClient(port, frame_max=4096) as client:
        publisher.open_channel(confirms=True)
        publisher.publish(b"m", queue, properties=b"\x20\x00" + amqp.table({"k": "x" * 5000}))
        publisher.acked_up_to(1)
        client.open_channel()
        client.call(1, "basic.get", "basic.get-ok", queue=queue, no_ack=True)
        assert len(client.read().payload) > 5000
        assert client.read().payload == b"m"
        client.close()


# ---- the way in ----


def test_the_header_of_0_9(port):
    """Old libraries begin with it; the protocol is the same."""
    with RawClient(port, handshake=False) as client:
        client.send(b"AMQP\x01\x01\x00\x09")
        assert client.expect("connection.start", 0).args["version_minor"] == 9


@pytest.mark.parametrize("password", ["guest", "wrong"])
def test_amqplain_with_more_than_a_login(port, password):
    with RawClient(port, handshake=False) as client:
        client.send(amqp.PROTOCOL_HEADER)
        client.expect("connection.start", 0)
        response = amqp.table({"more": 1, "LOGIN": "guest", "PASSWORD": password})[4:]
        client.send_method(0, "connection.start-ok", mechanism="AMQPLAIN", response=response,
                           client_properties={"capabilities": {"authentication_failure_close": True}})
        client.expect("connection.tune" if password == "guest" else "connection.close", 0)


def test_a_login_as_long_as_the_smallest_frame(port):
    """RabbitMQ takes no more before the connection is tuned; nothing is added to it on the way."""
    with RawClient(port, handshake=False) as client:
        arguments = {"mechanism": "PLAIN", "response": b"\0guest\0guest", "locale": "en_US"}
        room = 4096 - len(amqp.method("connection.start-ok", **arguments, client_properties={"x": ""}))
        client.begin("guest", "guest", properties={"x": room * "x"})
        client.tune_ok()
        client.send_method(0, "connection.open", vhost="/")
        client.expect("connection.open-ok")
        client.open_channel()
        client.send_method(1, "basic.get", queue="no such queue")
        assert client.expect("channel.close", 1).args["reply_code"] == 404


# ---- names that are left empty ----


def test_a_passive_declaration_without_a_name_asks_for_no_queue(client):
    name = client.call(1, "queue.declare", exclusive=True).args["queue"]
    client.send_method(1, "queue.declare", passive=True)
    refused = client.expect("channel.close", 1).args
    assert refused["reply_code"] == 404 and name not in refused["reply_text"]
    assert refused["reply_text"].startswith("NOT_FOUND - no queue ''")


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
    """Both reach RabbitMQ, the last of each; but one for each consumer ends one for all before it."""
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
        assert asked == {False: each} | ({True: together} if order == 1 else {})
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
