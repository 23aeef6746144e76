"""Whatever is acked, nacked or answered is true: nothing is confirmed that is not safe, and nobody who
is owed an answer waits for ever."""

import itertools
import select
import struct

import pytest

from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until


def arrived(broker, count):
    """The broker has taken `count` messages; the connection they came on, and their channel."""
    wait_until(lambda: len(broker.messages) >= count,
               lambda: f"{count} messages, got {len(broker.messages)}")
    return broker.connections[-1], broker.messages[-1].channel


def answers(client, count):
    """What the client is told of the tags 1 to count: {tag: "ack" or "nack"}. An answer for several
    speaks for those that were not answered before."""
    told = {}
    while len(told) < count:
        frame = client.read()
        assert frame is not None and frame.name in ("basic.ack", "basic.nack"), frame
        tag = frame.args["delivery_tag"]
        assert 1 <= tag <= count
        for each in range(1, tag + 1) if frame.args["multiple"] else [tag]:
            if not frame.args["multiple"]:
                assert each not in told, f"{each} twice"
            told.setdefault(each, frame.name.removeprefix("basic."))
    return told


# ---- acks of RabbitMQ in any order ----

CONFIRMS = [("ack", 1), ("nack", 2), ("ack", 3), ("nack", 4)]


def test_each_publish_hears_its_own_answer(broker, one_proxy):
    broker.acks = False
    for round_, order in enumerate(itertools.permutations(CONFIRMS)):
        with RawClient(one_proxy.port) as client:
            client.open_channel(confirms=True)
            for tag in range(1, 5):
                client.publish(b"%d" % tag, "q")
            connection, channel = arrived(broker, 4 * (round_ + 1))
            first = broker.messages[-1].tag - 4  # the upstream's channel serves one after another
            for kind, tag in order:
                connection.send_method(channel, f"basic.{kind}", delivery_tag=first + tag)
            assert answers(client, 4) == {tag: kind for kind, tag in CONFIRMS}, order
            client.close()


@pytest.fixture
def one_proxy(broker, make_proxy):
    return make_proxy(broker.url)


@pytest.mark.parametrize("kind", ["ack", "nack"])
def test_a_refused_one_hides_no_open_one(broker, one_proxy, kind):
    """2 is refused first, then all that are left are decided with one frame."""
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel(confirms=True)
        for tag in range(1, 5):
            client.publish(b"%d" % tag, "q")
        connection, channel = arrived(broker, 4)
        connection.send_method(channel, "basic.nack", delivery_tag=2)
        connection.send_method(channel, f"basic.{kind}", delivery_tag=4, multiple=True)
        assert answers(client, 4) == {1: kind, 2: "nack", 3: kind, 4: kind}
        client.close()


def test_what_moves_to_the_spool_is_acked_beside_what_was_refused(broker, one_proxy):
    """1 and 3 are open when RabbitMQ goes away: their acks are the spool's."""
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel(confirms=True)
        for tag in range(1, 5):
            client.publish(b"%d" % tag, "q")
        connection, channel = arrived(broker, 4)
        connection.send_method(channel, "basic.nack", delivery_tag=2)
        connection.send_method(channel, "basic.ack", delivery_tag=4)
        assert answers_of(client, {2, 4}) == {2: "nack", 4: "ack"}
        broker.down()
        assert answers_of(client, {1, 3}) == {1: "ack", 3: "ack"}
        assert one_proxy.bodies() == ["1", "3"]
        client.close()


def answers_of(client, tags):
    """Until each of these is answered alone, or all of them with one for several."""
    told = {}
    while set(told) != tags:
        frame = client.read()
        tag, kind = frame.args["delivery_tag"], frame.name.removeprefix("basic.")
        for each in [t for t in tags if t <= tag] if frame.args["multiple"] else [tag]:
            assert each in tags
            told[each] = kind
    return told


# ---- texts of RabbitMQ ----

TEXTS = {
    "latin-1": b"PRECONDITION_FAILED - invalid expiration '\xff'",
    "cut": ("NOT_FOUND - no exchange '" + "ж" * 127).encode()[:254] + b"\xd0",
    "nul": b"NOT_FOUND - no exchange 'a\0b' in vhost '/'",
    "surrogate": b"NOT_FOUND - no exchange '\xed\xa0\x80'",
    "empty": b"",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("confirms", [True, False], ids=["confirms", "plain"])
def test_an_exception_is_heard_whatever_its_text_holds(broker, one_proxy, confirms, text):
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel(confirms=confirms)
        for body in (b"bad", b"behind it", b"and more"):
            client.publish(body, "q")
        connection, channel = arrived(broker, 3)
        connection.close_channel(channel, 406, text)
        close = client.expect("channel.close", 1).args
        assert close["reply_code"] == 406
        assert close["reply_text"].encode(errors="surrogateescape") == text
        client.send_method(1, "channel.close-ok")
        broker.acks = True
        client.open_channel(confirms=True)
        client.publish(b"later", "q")
        client.acked_up_to(1)  # and nothing that was lost
        client.close()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_exception_that_crosses_the_close_is_not_answered_ok(broker, one_proxy, text):
    """It is heard as RabbitMQ says it, or nothing is lost: what was thrown away is sent again."""
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel()
        for body in (b"bad", b"behind it"):
            client.publish(body, "q")
        connection, channel = arrived(broker, 2)
        client.send_method(0, "connection.close", reply_code=200)
        with RawClient(one_proxy.port) as other:  # a round trip: the close was read
            other.close()
        broker.acks = True
        connection.close_channel(channel, 406, text)
        client.expect("connection.close-ok", 0)
        wait_until(lambda: len(broker.messages) == 4, "both are sent again")


def test_an_exception_that_cannot_be_read(broker, one_proxy):
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"lost", "q")
        connection, channel = arrived(broker, 1)
        connection._closing.add(channel)
        connection.send(amqp.frame(amqp.METHOD, channel, struct.pack(">HHHB", 20, 40, 406, 200)))
        assert client.expect("channel.close", 1).args["reply_code"] == 541
        client.send_method(1, "channel.close-ok")
        client.close()


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_drain_rejects_whatever_the_text_holds(broker, one_proxy, text):
    with RawClient(one_proxy.port) as client:
        client.open_channel()
        broker.down()
        one_proxy.wait_event("buffering_started")
        client.publish(b"bad", "q")
        client.publish(b"good", "q")
        client.close()

    def refuse(connection, message):
        if message.body == b"bad":
            connection.close_channel(message.channel, 406, text)
        else:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)

    broker.on_message = refuse
    broker.up()
    one_proxy.wait_event("drain_finished")
    assert broker.messages[-1].body == b"good"
    [record] = one_proxy.dump("--rejected")
    assert (record["body"], record["rejected"]["code"]) == ("bad", 406)


def test_a_vhost_is_refused_whatever_the_text_holds(broker, make_proxy):
    """530 is the client's answer, not a RabbitMQ that cannot be reached."""
    broker.refuse_vhost = TEXTS["cut"]
    proxy = make_proxy(broker.url)
    client = RawClient(proxy.port, handshake=False)
    client.begin("guest", "guest")
    client.tune_ok()
    client.send_method(0, "connection.open", vhost="a" + "ж" * 127)
    text = client.expect_close(530)
    assert text.encode(errors="surrogateescape") == TEXTS["cut"]


# ---- brokers without confirms ----


def test_no_confirm_is_made_up_where_the_broker_gives_none(make_proxy):
    """Each ack is the commit of the spool, which the drain then brings to the broker."""
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        broker.silent_on = {"channel.close"}  # which is what proves a drain
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(b"one", "q")
            client.acked_up_to(1)
            assert proxy.bodies() == ["one"]
            client.publish(b"two", "q")
            client.acked_up_to_tags({2})
            proxy.crash_and_start()
        broker.silent_on = set()
        broker.connections[-1].die()
        proxy.wait_empty()
        assert {m.body for m in broker.messages} == {b"one", b"two"}


def test_confirms_are_refused_where_nobody_gives_them(make_proxy):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0})
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            client.publish(b"one", "q")
            client.expect_close(540)


# ---- closes cover every channel, also those that are gone ----


def test_connection_close_covers_a_channel_that_was_refused(broker, one_proxy):
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel()
        client.publish(b"important", "q")
        connection, channel = arrived(broker, 1)
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(1 << 40)))
        client.expect("channel.close", 1)
        client.send_method(1, "channel.close-ok")
        client.send_method(0, "connection.close", reply_code=200)
        with RawClient(one_proxy.port) as other:  # a round trip: the close was read
            other.close()
        assert not readable(client)
        connection.send_method(channel, "basic.ack", delivery_tag=1)
        client.expect("connection.close-ok", 0)


def readable(client):
    return select.select([client.socket], [], [], 0)[0] != []


def test_what_a_refused_channel_published_goes_to_the_spool_before_the_close(broker, one_proxy):
    broker.acks = False
    with RawClient(one_proxy.port) as client:
        client.open_channel()
        client.publish(b"important", "q")
        arrived(broker, 1)
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(1 << 40)))
        client.expect("channel.close", 1)
        client.send_method(1, "channel.close-ok")
        client.send_method(0, "connection.close", reply_code=200)
        broker.down()
        client.expect("connection.close-ok", 0)
        assert one_proxy.bodies() == ["important"]


def test_a_client_is_told_when_a_refused_channel_loses_what_it_published(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0})
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"important", "q")
        arrived(broker, 1)
        client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                    amqp.frame(amqp.HEADER, 1, amqp.header(1 << 40)))
        client.expect("channel.close", 1)
        client.send_method(1, "channel.close-ok")
        client.send_method(0, "connection.close", reply_code=200)
        broker.down()
        assert client.expect("connection.close", 0).args["reply_code"] == 320


# ---- refused, and nobody there to hear of it ----


def gone(client, proxy, how):
    """The publisher leaves; the proxy knows."""
    if how == "died":
        client.die()
    else:
        client.send_method(0, "connection.close", reply_code=200)
        client.expect("connection.close-ok", 0)
        client.socket.close()
    proxy.wait_event("client_closed")


@pytest.fixture(params=["died", "closed"])
def orphans(broker, make_proxy, request):
    """(proxy, what waits): three mandatory publishes, unconfirmed, whose publisher is gone."""
    proxy = make_proxy(broker.url, {"pool.close_waits": "no"})
    broker.acks = False
    client = RawClient(proxy.port)
    client.open_channel()
    for body in (b"one", b"two", b"three"):
        client.publish(body, body.decode(), mandatory=True)
    connection, channel = arrived(broker, 3)
    gone(client, proxy, request.param)
    return proxy, connection, channel


def test_returned_to_nobody(orphans):
    proxy, connection, channel = orphans
    for tag, body in ((2, b"two"), (3, b"three")):
        connection.send(amqp.method_frame(channel, "basic.return", reply_code=312,
                                          reply_text="NO_ROUTE", routing_key=body.decode()) +
                        amqp.content_frames(channel, body))
        connection.send_method(channel, "basic.ack", delivery_tag=tag)
    connection.send_method(channel, "basic.ack", delivery_tag=1)
    wait_until(lambda: len(proxy.dump("--rejected")) == 2, "both are kept")
    assert [(r["body"], r["rejected"]["code"], r["rejected"]["text"])
            for r in proxy.dump("--rejected")] == [("two", 312, "NO_ROUTE"),
                                                   ("three", 312, "NO_ROUTE")]
    assert proxy.waiting() == 0


def test_an_exception_that_nobody_hears(broker, orphans):
    proxy, connection, channel = orphans

    def refuse(connection, message):
        if message.body == b"two":
            connection.close_channel(message.channel, 404, "NOT_FOUND - scripted")
        else:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)

    broker.on_message = refuse
    connection.close_channel(channel, 404, "NOT_FOUND - scripted")
    wait_until(lambda: [r["body"] for r in proxy.dump("--rejected")] == ["two"], "the bad one")
    wait_until(lambda: {m.body for m in broker.messages[3:]} >= {b"one", b"three"}, "the others")
    proxy.wait_empty()


def test_an_exception_over_the_only_one(broker, one_proxy):
    broker.acks = False
    client = RawClient(one_proxy.port)
    client.open_channel()
    client.publish(b"bad", "q")
    connection, channel = arrived(broker, 1)
    gone(client, one_proxy, "died")
    connection.close_channel(channel, 404, "NOT_FOUND - scripted")
    wait_until(lambda: one_proxy.dump("--rejected"), "it is kept")
    [record] = one_proxy.dump("--rejected")
    assert (record["body"], record["rejected"]["code"], record["rejected"]["text"]) == \
        ("bad", 404, "NOT_FOUND - scripted")
    assert len(broker.messages) == 1 and one_proxy.waiting() == 0


@pytest.mark.parametrize("ending", ["channel.close", "connection.close"])
@pytest.mark.parametrize("refused_before", [False, True], ids=["", "refused_before"])
def test_a_broker_without_confirms_dies_instead_of_close_ok(make_proxy, ending, refused_before):
    """Nothing is known of the message: an error, whatever became of its channel."""
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        broker.silent_on = {"channel.close"}
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.publish(b"lost", "q")
            connection, _ = arrived(broker, 1)
            if refused_before:
                client.send(amqp.method_frame(1, "basic.publish", routing_key="q") +
                            amqp.frame(amqp.HEADER, 1, amqp.header(1 << 40)))
                client.expect("channel.close", 1)
                client.send_method(1, "channel.close-ok")
                client.open_channel(2)
            number = 1 + refused_before if ending == "channel.close" else 0
            if not (refused_before and number):
                client.send_method(number, ending, reply_code=200)
            wait_until(lambda: "1:channel.close" in connection.sequence(), "the close went on")
            connection.die()
            assert client.expect("connection.close", 0).args["reply_code"] == 320


@pytest.mark.parametrize("ending", ["channel.close", "connection.close"])
def test_a_broker_without_confirms_refuses_what_a_close_covers(make_proxy, ending):
    with FakeBroker(confirms=False) as broker:
        proxy = make_proxy(broker.url)
        broker.silent_on = {"channel.close"}
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.publish(b"bad", "q", exchange="missing")
            connection, channel = arrived(broker, 1)
            number = 1 if ending == "channel.close" else 0
            client.send_method(number, ending, reply_code=200)
            wait_until(lambda: "1:channel.close" in connection.sequence(), "the close went on")
            connection.close_channel(channel, 404, "NOT_FOUND - scripted")
            connection.send_method(channel, "channel.close-ok")  # they cross
            assert client.expect("channel.close", 1).args["reply_code"] == 404
            client.expect(f"{ending}-ok", number)


def test_an_error_of_the_proxys_own_comes_behind_the_answers_before_it(broker, make_proxy):
    proxy = make_proxy(broker.url)
    asked = []

    def on_frame(connection, frame):
        if frame.name != "basic.get":
            return False
        asked.append((connection, frame.channel))
        return True
    broker.on_frame = on_frame
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.send_method(1, "basic.get", queue="q")
        client.send_method(1, "queue.purge", queue="")  # none was declared: 404
        wait_until(lambda: asked, "basic.get")
        with RawClient(proxy.port) as witness:
            witness.open_channel(confirms=True)
            witness.publish(b"w", "w")
            witness.acked_up_to(1)
            witness.close()
        connection, channel = asked[0]
        connection.send_method(channel, "basic.get-empty")
        client.expect("basic.get-empty", 1)
        close = client.expect("channel.close", 1)
        assert close.args["reply_code"] == 404
        client.send_method(1, "channel.close-ok")
        client.close()
