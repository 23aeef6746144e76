"""Whose fault a failure in a drain is: only what is bad itself is rejected, in a drain all else is
tried again in its place, and nothing overtakes it."""

import pytest

from support import amqp
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until

BODIES = [b"%d" % n for n in range(1, 9)]
PUBLISH, DECLARE, NOTHING = (60, 40), (50, 10), (0, 0)


class Failing:
    """A broker that fails so often at the message with this body, and counts its tries."""

    def __init__(self, broker, body, times, fail):
        self.broker, self.body, self.times, self.fail = broker, body, times, fail
        self.tries = 0
        broker.on_frame = self.on_frame

    def on_frame(self, connection, frame):
        if frame.type != amqp.BODY or frame.payload != self.body or self.tries >= self.times:
            return False
        self.tries += 1
        connection._partial.clear()
        self.fail(connection, frame.channel)
        return True


def close_connection(code, cause):
    def fail(connection, _channel):
        connection.send_method(0, "connection.close", reply_code=code, reply_text="scripted",
                               class_id=cause[0], method_id=cause[1])
    return fail


def close_channel(code, text="scripted"):
    return lambda connection, channel: connection.close_channel(channel, code, text)


def arrived(broker):
    return list(dict.fromkeys(message.body for message in broker.messages))


def check(broker, proxy, rejected=()):
    """All but those have arrived, in their order, however often."""
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert arrived(broker) == [body for body in BODIES if body not in rejected]
    assert [record["body"].encode() for record in proxy.dump("--rejected")] == list(rejected)


@pytest.mark.parametrize("cause", [PUBLISH, NOTHING])
@pytest.mark.parametrize("code", [541, 501, 506])
def test_a_connection_that_rabbitmq_ends_for_reasons_of_its_own(broker, make_proxy, code, cause):
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1, "upstream.reconnect_max": "200ms"})
    spool(broker, proxy, BODIES)
    failing = Failing(broker, b"3", 3, close_connection(code, cause))
    broker.up()
    check(broker, proxy)
    assert failing.tries == 3


@pytest.mark.parametrize("window", [1, 256])
@pytest.mark.parametrize("code", [541, 506, 405, 504])
def test_a_channel_that_rabbitmq_closes_for_reasons_of_its_own(broker, make_proxy, code, window):
    proxy = make_proxy(broker.url, {"pool.window": window, "drain.window": window})
    spool(broker, proxy, BODIES)
    failing = Failing(broker, b"3", 4, close_channel(code))
    broker.up()
    check(broker, proxy)
    assert failing.tries == 4
    assert len(proxy.events("upstream_lost")) == 1  # when the broker went down


@pytest.mark.parametrize("fail", [close_channel(541), close_connection(541, PUBLISH)],
                         ids=["channel", "connection"])
def test_it_is_rejected_after_so_many_tries(broker, make_proxy, fail):
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1, "drain.nack_limit": 3,
                                    "upstream.reconnect_max": "200ms"})
    spool(broker, proxy, BODIES)
    failing = Failing(broker, b"3", 1000, fail)
    broker.up()
    check(broker, proxy, [b"3"])
    assert failing.tries == 3
    assert proxy.dump("--rejected")[0]["rejected"]["code"] == 541


def test_a_connection_that_ends_over_what_another_sent(broker, make_proxy):
    """The drain has sent no queue.declare: its message does not pay for that one."""
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1, "drain.nack_limit": 1,
                                    "upstream.reconnect_max": "200ms"})
    spool(broker, proxy, BODIES)
    Failing(broker, b"3", 3, close_connection(541, DECLARE))
    broker.up()
    check(broker, proxy)


def test_what_a_message_is_to_blame_for_is_tried_once(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1})
    spool(broker, proxy, BODIES)
    failing = Failing(broker, b"3", 1000, close_channel(406))
    broker.up()
    check(broker, proxy, [b"3"])
    assert failing.tries == 1


RAN_OUT = ("ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'u', "
           "backend rabbit_auth_backend_oauth2 returned an error: \"Provided JWT token has expired\"")


@pytest.mark.parametrize("window", [1, 256])
def test_a_login_that_runs_out_in_a_drain(broker, make_proxy, window):
    """RabbitMQ goes on with the connection and refuses each message: none of them is to blame."""
    proxy = make_proxy(broker.url, {"pool.window": window, "drain.window": window, "drain.nack_limit": 2})
    spool(broker, proxy, BODIES)
    failing = Failing(broker, b"3", 5, close_channel(403, RAN_OUT))
    broker.up()
    check(broker, proxy)
    assert failing.tries == 5


def test_a_login_that_runs_out_under_a_publisher_that_is_gone(broker, make_proxy):
    proxy = make_proxy(broker.url)
    failing = Failing(broker, b"3", 2, close_channel(403, RAN_OUT))
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish_and_close(b"3", "q")
    proxy.wait_event("drain_finished")
    assert failing.tries == 2 and arrived(broker) == [b"3"]
    assert proxy.dump("--rejected") == []


@pytest.mark.parametrize("missing", ["reject", "wait"])
def test_an_exchange_that_is_not_there(broker, make_proxy, missing):
    proxy = make_proxy(broker.url, {"drain.missing": missing, "drain.nack_limit": 2})
    spool(broker, proxy, BODIES)
    failing = Failing(broker, b"1", 4, close_channel(404, "NOT_FOUND - no exchange 'x' in vhost '/'"))
    broker.up()
    check(broker, proxy, [b"1"] if missing == "reject" else [])
    assert failing.tries == (4 if missing == "wait" else failing.tries)


def test_the_tries_are_of_one_message(broker, make_proxy):
    """Each fails less often than the limit, together they fail more often."""
    proxy = make_proxy(broker.url, {"pool.window": 1, "drain.window": 1, "drain.nack_limit": 3})
    spool(broker, proxy, BODIES)
    tries = dict.fromkeys(BODIES, 0)

    def on_frame(connection, frame):
        if frame.type != amqp.BODY or tries[frame.payload] >= 2:
            return False
        tries[frame.payload] += 1
        connection._partial.clear()
        connection.close_channel(frame.channel, 541, "INTERNAL_ERROR")
        return True

    broker.on_frame = on_frame
    broker.up()
    check(broker, proxy)
    wait_until(lambda: all(count == 2 for count in tries.values()), "each failed twice")


GONE = "NOT_FOUND - no exchange 'gone' in vhost '/'"


@pytest.mark.parametrize("others", [1, 2])
def test_a_late_refusal_hits_the_guilty_one(broker, make_proxy, others):
    """RabbitMQ hangs over a message of a drain for pool.confirm_timeout; others are sent behind it; then it
    goes on, and closes the channel over the first."""
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "500ms"})
    spool(broker, proxy, [])
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.send(amqp.publish_frames(1, b"bad", exchange="gone", routing_key="k"))
        client.acked_up_to(1)
        hangs = True

        def on_message(connection, message):
            if hangs:
                return
            if message.args["exchange"] == "gone":
                connection.close_channel(message.channel, 404, GONE)
            else:
                connection.ack(message)
        broker.on_message = on_message
        broker.up()
        proxy.wait_event("confirms_stalled")
        for number in range(others):
            client.publish(b"innocent %d" % number, f"q{number}")
        client.acked_up_to_tags(set(range(2, 2 + others)))
        broker.wait_messages(1 + others)
        hangs = False
        broker.open_connections()[-1].close_channel(broker.messages[0].channel, 404, GONE)
        proxy.wait_empty()
        client.die()
    assert [record["body"] for record in proxy.dump("--rejected")] == ["bad"]


def test_a_late_refusal_of_a_publisher_that_is_gone(broker, make_proxy):
    """One of its messages is in doubt, the other is not: RabbitMQ may mean either."""
    proxy = make_proxy(broker.url, {"pool.upstreams": 1, "pool.confirm_timeout": "1500ms"})
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.send(amqp.publish_frames(1, b"bad", exchange="gone", routing_key="k"))
        client.acked_up_to(1)  # of the disk
        client.publish(b"innocent", "good")
        broker.wait_messages(2)
        client.die()
    proxy.wait_event("client_closed")

    def on_message(connection, message):
        if message.args["exchange"] == "gone":
            connection.close_channel(message.channel, 404, GONE)
        else:
            connection.ack(message)
    broker.on_message = on_message
    broker.open_connections()[0].close_channel(broker.messages[0].channel, 404, GONE)
    proxy.wait_event("message_rejected")
    proxy.wait_empty()
    assert [record["body"] for record in proxy.dump("--rejected")] == ["bad"]


@pytest.mark.parametrize("window", [1, 256])
def test_a_vhost_that_is_deleted(broker, make_proxy, window):
    """Its exchanges go first, the nameless one among them, then its permissions, and then RabbitMQ
    closes the connections."""
    proxy = make_proxy(broker.url, {"pool.window": window, "drain.window": window})
    spool(broker, proxy, BODIES)
    doomed = set()

    def refuse(connection, channel):
        code, text = (403, "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused "
                           "for user 'guest'") if connection in doomed else \
                     (404, "NOT_FOUND - no exchange '' in vhost '/'")
        doomed.add(connection)
        connection.close_channel(channel, code, text)

    def on_frame(connection, frame):
        is_due = frame.payload == b"3" and not doomed or connection in doomed
        if frame.type != amqp.BODY or not is_due:
            return False
        connection._partial.clear()
        refuse(connection, frame.channel)
        return True

    broker.on_frame = on_frame
    broker.up()
    check(broker, proxy)
    assert len(doomed) == 1
