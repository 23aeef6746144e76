"""A process that did not run for a while (SIGSTOP, a machine that slept) reads first what has come
meanwhile: who has kept to his time is not late."""

import contextlib
import os
import select
import signal
import time

from support import amqp
from support.raw import RawClient

HEARTBEAT = amqp.frame(amqp.HEARTBEAT, 0, b"")
STOPPED_S = 3.5  # more than two heartbeats of a second, and a tick


@contextlib.contextmanager
def stopped(proxy):
    os.kill(proxy.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(proxy.pid, signal.SIGCONT)


def pass_time(*beating):
    """Those who are `beating` send heartbeats meanwhile."""
    end = time.monotonic() + STOPPED_S
    while time.monotonic() < end:
        for peer in beating:
            peer.send(HEARTBEAT)
        select.select([], [], [], 0.2)


def test_who_has_sent_heartbeats_stays(broker, make_proxy):
    broker.heartbeat = 1
    proxy = make_proxy(broker.url, {"upstream.heartbeat": "1s"})
    with RawClient(proxy.port, heartbeat=1) as client:
        client.open_channel(confirms=True)
        client.publish(b"before", "q")
        client.acked_up_to(1)
        upstream = broker.connections[-1]
        with stopped(proxy):
            pass_time(client, upstream)
        client.publish(b"behind it", "q")
        client.acked_up_to_tags({2})
        assert broker.connections[-1] is upstream and upstream.is_open
        client.close()
    assert proxy.events("heartbeat_missed") == proxy.events("upstream_lost") == []


def test_who_has_ended_his_handshake_in_time_is_let_in(broker, make_proxy):
    proxy = make_proxy(broker.url, {"listen.handshake_timeout": "3s"})
    client = RawClient(proxy.port, handshake=False)
    client.begin("guest", "guest")
    with stopped(proxy):
        client.tune_ok()
        client.send_method(0, "connection.open", vhost="/")
        pass_time()
    client.expect("connection.open-ok")
    client.close()


def test_who_was_silent_is_missed_all_the_same(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, heartbeat=1) as client:
        client.open_channel()
        with stopped(proxy):
            pass_time()
        assert client.read() is None
    proxy.wait_event("heartbeat_missed")
