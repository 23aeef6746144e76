"""Who waits, and for whom: one destination that RabbitMQ does not confirm, one client that does not
go on, hold nobody else."""

from support.raw import RawClient
from support.wait import wait_until


def confirm_all_but(*stuck):
    """An `on_message` of a broker that never confirms what has one of these routing keys."""

    def on_message(connection, message):
        if message.args["routing_key"] not in stuck and message.tag:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)
    return on_message


def count(broker, key):
    return sum(message.args["routing_key"] == key for message in broker.messages)


def flood(proxy, key, messages):
    """A publisher with more for that destination than may be under way."""
    client = RawClient(proxy.port)
    client.open_channel()
    for i in range(messages):
        client.publish(b"%d" % i, key)
    return client


def test_a_destination_that_confirms_nothing_leaves_room_for_others(broker, make_proxy):
    broker.on_message = confirm_all_but("stuck")
    proxy = make_proxy(broker.url, {"drain.window": 8, "pool.upstreams": 1})
    with RawClient(proxy.port) as before:
        before.open_channel(confirms=True)
        before.publish(b"1", "fine")
        before.acked_up_to(1)
        floods = [flood(proxy, "stuck", 20) for _ in range(3)]
        wait_until(lambda: count(broker, "stuck") == 8, "the window is full of it")
        for i in range(2, 30):
            before.publish(b"%d" % i, "fine")
            before.acked_up_to_tags({i})
        with RawClient(proxy.port) as after:
            after.open_channel(confirms=True)
            after.publish(b"after", "also fine")
            after.acked_up_to(1)
            after.publish(b"after", "stuck")  # and this one waits its turn
            assert count(broker, "stuck") == 8
            assert proxy.waiting() == 0
            assert not proxy.events("upstream_lost")
        broker.on_message = None
        stuck = [m for m in broker.messages if m.args["routing_key"] == "stuck"]
        for message in stuck:
            broker.connections[0].send_method(message.channel, "basic.ack",
                                              delivery_tag=message.tag)
        wait_until(lambda: count(broker, "stuck") >= 60, "what was held goes out in its turn")
        for client in floods:
            client.socket.close()


def test_a_drain_begins_beside_a_live_publish_without_a_confirm(broker, make_proxy):
    """On an upstream that lives on, as that of a client that has one of its own."""
    broker.on_message = confirm_all_but("stuck")
    broker.on_frame = lambda connection, frame: frame.name == "basic.get" and (
        connection.send_method(frame.channel, "basic.get-empty") or True)
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as own, RawClient(proxy.port) as shared:
        own.open_channel()
        own.call(1, "basic.get", answer="basic.get-empty", queue="q")
        own.publish(b"one", "stuck")
        wait_until(lambda: count(broker, "stuck") == 1, "it is under way")
        shared.open_channel(confirms=True)
        shared.publish(b"1", "fine")
        shared.acked_up_to(1)
        next(c for c in broker.open_connections()
             if any(m.args["routing_key"] == "fine" for m in c.messages)).die()
        proxy.wait_event("upstream_lost")
        for i in range(2, 12):
            shared.publish(b"%d" % i, "fine")
            shared.acked_up_to_tags({i})
        wait_until(lambda: count(broker, "fine") == 11, "everything else is drained")
        proxy.wait_empty()
        assert count(broker, "stuck") == 1
