"""A spool that is full by bytes: what a channel had sent is stored up to some message, and none of what
follows, however small."""

import threading

import pytest

from support import amqp
from support.raw import RawClient


@pytest.mark.provokes("spool_failed", "client_refused")
@pytest.mark.parametrize("overflow, confirms", [("disconnect", True), ("block", True),
                                                ("disconnect", False), ("reject", False)])
def test_large_and_small_by_turns(broker, make_proxy, overflow, confirms):
    proxy = make_proxy(broker.url, {"spool.max_size": "4MiB", "spool.overflow": overflow})
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("upstream_lost")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=confirms)
        frames = [amqp.publish_frames(1, b"%d " % n + b"x" * (60000 if n % 8 == 1 else 50),
                                      routing_key="q") for n in range(1, 1600)]

        def send():
            try:
                client.send(b"".join(frames))
            except OSError:
                pass  # it is closed in the middle

        sender = threading.Thread(target=send)
        sender.start()
        acked, frame = 0, client.read()
        while frame and frame.name not in ("connection.close", "channel.close"):
            if frame.name == "basic.ack":
                acked = frame.args["delivery_tag"]
            elif frame.name == "connection.blocked":
                break
            frame = client.read()
        client.die()
        sender.join()
    stored = [int(body.split()[0]) for body in proxy.bodies()]
    assert 0 < len(stored) < 1599
    assert stored == list(range(1, len(stored) + 1))
    assert acked <= len(stored)
