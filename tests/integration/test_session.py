"""What belongs to a client's connection as a whole, against a scripted broker."""

import threading

from support import amqp
from support.raw import RawClient
from support.wait import wait_until


def logins(broker):
    return [connection.login[2] for connection in broker.connections if connection.login]


def test_updated_secret_is_used_from_then_on(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, password="old") as client:
        client.call(0, "connection.update-secret", new_secret="fresh", reason="rotation")
        wait_until(lambda: "fresh" in logins(broker), lambda: f"it is proven, got {logins(broker)}")
        broker.down()
        proxy.wait_event("upstream_lost")
        known = len(broker.connections)
        client.open_channel(confirms=True)
        client.publish(b"in the outage", "q")
        client.acked_up_to(1)
        with RawClient(proxy.port, password="fresh") as other:  # let in during the outage
            other.close()
        broker.up()
        wait_until(lambda: broker.messages, "the drain")
        assert set(logins(broker)[known:]) == {"fresh"}
        client.close()
    assert "fresh" not in proxy.log_text()


def test_heartbeat_of_a_second_holds_while_a_large_message_is_under_way(broker, make_proxy):
    """Any byte counts as a sign of life, not heartbeat frames alone."""
    proxy = make_proxy(broker.url)
    pieces, size = 40, 40 * 1000
    frames = amqp.publish_frames(1, b"x" * size, routing_key="q", frame_max=4096)
    step = len(frames) // pieces + 1
    pace = threading.Event()
    with RawClient(proxy.port, heartbeat=1) as client:
        client.open_channel(confirms=True)
        for at in range(0, len(frames), step):
            client.send(frames[at:at + step])
            pace.wait(0.1)  # four heartbeats long in all: the pace of a slow line
        client.acked_up_to(1)
        client.close()
    assert [len(message.body) for message in broker.messages] == [size]
    assert proxy.events("heartbeat_missed") == []
