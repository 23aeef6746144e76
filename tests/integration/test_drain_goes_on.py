"""What must not stop a drain for good: a limit that is lifted, a slow answer, a record that breaks."""

import pathlib

import pytest

from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until


def test_a_rate_that_a_reload_lifts(broker, make_proxy):
    """Nobody publishes, and no confirm is due: the reload alone sets it going again."""
    proxy = make_proxy(broker.url, {"drain.rate": 1})
    bodies = [b"%d" % n for n in range(200)]
    spool(broker, proxy, bodies)
    broker.up()
    broker.wait_messages(1)
    proxy.options["drain.rate"] = 0
    proxy.reload()
    proxy.wait_event("drain_finished")
    assert broker.wait_messages(200) == bodies
    assert proxy.waiting() == 0


def test_room_that_a_reload_makes(broker, make_proxy):
    """A publisher that is blocked at a full queue goes on when the queue may hold more."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 2, "spool.overflow": "block"})
    spool(broker, proxy, [b"1"])
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"2", "q")
        client.acked_up_to(1)
        client.publish(b"3", "q")
        client.expect("connection.blocked")
        proxy.options["pool.publish_buffer_size"] = 3
        proxy.reload()
        client.expect("connection.unblocked")
        client.acked_up_to_tags({2})
        client.close()
    assert proxy.bodies() == ["1", "2", "3"]


def test_a_slow_answer(broker, make_proxy):
    """Each answer is awaited for pool.confirm_timeout, whatever the shorter waits elsewhere."""
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "100ms"})
    spool(broker, proxy, [b"one"])
    broker.silent_on = {"channel.open"}
    broker.up()
    for name in ("channel.open", "confirm.select"):
        broker.silent_on = {name}
        lost = len(proxy.events("upstream_lost"))
        wait_until(lambda: len(proxy.events("upstream_lost")) > lost + 1,
                   lambda: proxy.failure(f"{name} is given up"))
        assert "pool.confirm_timeout" in proxy.events("upstream_lost")[-1]["reason"]
    proxy.options["pool.confirm_timeout"] = "1h"
    proxy.reload()
    held = wait_until(lambda: [c for c in broker.open_connections()
                               if c.sequence()[-1:] == ["1:confirm.select"]],
                      lambda: proxy.failure("the drain's channel is asked for confirms"))[0]
    broker.silent_on = set()
    held.last_tags[1] = 0
    held.send_method(1, "confirm.select-ok")
    proxy.wait_event("drain_finished")
    assert [message.body for message in held.messages] == [b"one"]


def flip(path, text):
    """Changes each place where the text stands, under a process that has the file mapped."""
    with open(path, "r+b") as file:
        data = file.read()
        at = data.find(text)
        assert at >= 0
        while at >= 0:
            file.seek(at)
            file.write(bytes([text[0] ^ 1]))
            at = data.find(text, at + 1)


@pytest.mark.provokes("record_damaged", "unbalanced")  # it stays in the spool, in nobody's way
def test_a_record_that_breaks_while_it_is_under_way(broker, make_proxy):
    proxy = make_proxy(broker.url)
    bodies = [b"first " + b"x" * 50, b"breaks " + b"y" * 50, b"third " + b"z" * 50]
    spool(broker, proxy, bodies)
    broker.acks = False
    broker.up()
    assert broker.wait_messages(3) == bodies
    flip(pathlib.Path(proxy.spool) / "data.mdb", b"breaks ")
    broker.open_connections()[0].send_method(1, "basic.ack", delivery_tag=3, multiple=True)
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert [event["seq"] for event in proxy.events("record_damaged")] == ["2"]
    broker.acks = True
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"live", "q")
        client.acked_up_to(1)
        client.close()
    assert broker.wait_messages(4) == bodies + [b"live"]


def test_a_declaration_that_is_answered_late(broker, make_proxy):
    """The log says that it is waited for, once; then all goes on in its order."""
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "100ms"})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        client.call(1, "queue.declare", queue="late", durable=True)
        client.publish(b"behind", "late")
        client.acked_up_to(1)
        broker.silent_on = {"queue.declare"}
        broker.up()
        stalled = proxy.wait_event("declaration_stalled")
        assert stalled["method"] == "queue.declare" and broker.messages == []
        drain = broker.open_connections()[-1]
        asked = next(frame for frame in drain.frames if frame.name == "queue.declare")
        drain.send_method(asked.channel, "queue.declare-ok", queue="late")
        proxy.wait_event("drain_finished")
        assert broker.wait_messages(1) == [b"behind"]
        client.close()
    assert len(proxy.events("declaration_stalled")) == 1


def drained_alone(broker, client):
    """RabbitMQ has ended the connection over what it got: what is stored has one of its own. That,
    the message that is under way on it, and the one that is shared."""
    held = []
    broker.on_message = lambda connection, message: held.append((connection, message))
    client.open_channel(confirms=True)
    client.publish(b"one", "q")
    wait_until(lambda: held, "the message at the broker")
    first = held[0][0]
    first.send_method(0, "connection.close", reply_code=541, reply_text="INTERNAL_ERROR",
                      class_id=0, method_id=0)
    client.acked_up_to(1)
    wait_until(lambda: len(held) == 2, "a drain alone")
    drain, message = held[1]

    def shared():
        return [c for c in broker.open_connections() if c.login and c not in (first, drain)]
    return drain, message, wait_until(shared, "the shared connection")[0]


def goes_on_shared(broker, proxy, client, drain, message):
    broker.on_message = None
    drain.ack(message)
    proxy.wait_event("drain_finished")
    client.publish(b"two", "q")
    client.acked_up_to_tags({2})
    wait_until(lambda: proxy.waiting() == 0, "an empty spool")
    client.close()


def test_shared_connection_that_is_idle_beside_the_drain(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.idle_timeout": "300ms", "pool.cleanup_interval": "50ms"},
                       provokes=("upstream_lost",))
    with RawClient(proxy.port) as client:
        drain, message, shared = drained_alone(broker, client)
        RawClient(proxy.port, "other").close()
        wait_until(lambda: not [c for c in broker.open_connections()
                                if c.login and c.login[1] == "other"], "an idle one closed")
        assert shared in broker.open_connections(), "the last shared one was closed as idle"
        goes_on_shared(broker, proxy, client, drain, message)


def test_shared_connection_that_is_lost_beside_the_drain(broker, make_proxy):
    proxy = make_proxy(broker.url, provokes=("upstream_lost", "upstream_failed"))
    with RawClient(proxy.port) as client:
        drain, message, shared = drained_alone(broker, client)
        count = len(broker.connections)
        broker.hangs_up = True
        shared.die()
        wait_until(lambda: len(broker.connections) > count, "a try to have it back")
        broker.hangs_up = False
        goes_on_shared(broker, proxy, client, drain, message)
