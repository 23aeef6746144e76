"""A disk that takes a sync and does not come back: it is seen, everything else goes on, and the proxy
can be stopped."""

import signal

import pytest

from support import amqp
from support.disk import Disk
from support.raw import RawClient
from support.wait import wait_until

pytestmark = pytest.mark.provokes("spool_stalled", "stop_unfinished")

FRAMES = amqp.publish_frames(1, b"abc", routing_key="q", frame_max=131072)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.fixture
def hanging(broker, make_watched, disk):
    """hanging(options): (proxy, admin, a client whose publish waits for the disk), in an outage."""
    clients = []

    def make(options=None):
        proxy, admin = make_watched(broker.url, options, environment=disk.environment)
        client = RawClient(proxy.port)
        clients.append(client)
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"before", "q")
        client.acked_up_to(1)
        disk.become("hang")
        client.publish(b"waits", "q")
        wait_until(lambda: admin.metrics()["amqpbuf_spool_busy_seconds"] > 0.1,
                   lambda: "the publish hangs with the disk")
        return proxy, admin, client

    yield make
    for client in clients:
        client.socket.close()
    disk.mend()


def test_a_hang_is_seen_and_its_end(broker, hanging, disk):
    proxy, admin, client = hanging()
    assert admin.ask("/readyz")[0] == 200  # a slow commit is no hang yet
    stalled = proxy.wait_event("spool_stalled")
    assert int(stalled["seconds"]) >= 10 and int(stalled["jobs"]) >= 1
    status, text, _ = admin.ask("/readyz")
    assert status == 503 and "disk" in text
    assert admin.ask("/healthz")[0] == 200  # a restart would not mend it
    assert admin.metrics()["amqpbuf_spool_busy_seconds"] >= 10
    disk.mend()
    client.acked_up_to_tags({2})
    proxy.wait_event("spool_goes_on")
    wait_until(lambda: admin.ask("/readyz")[0] == 200, lambda: "ready again")
    assert admin.metrics()["amqpbuf_spool_busy_seconds"] < 10
    broker.up()
    proxy.wait_empty()
    assert [m.body for m in broker.messages] == [b"before", b"waits"]


@pytest.mark.parametrize("signals", [1, 2])
def test_it_can_be_stopped(broker, hanging, disk, signals):
    """Once, with a short limit; or twice, with a long one."""
    proxy, _, client = hanging({"listen.shutdown_timeout": "500ms" if signals == 1 else "24h"})
    for number in range(signals):
        proxy._process.send_signal(signal.SIGTERM)
        if number == 0:
            proxy.wait_event("stopping")
    assert proxy._process.wait(60) == 1
    proxy._process = None
    assert int(proxy.events("stop_unfinished")[0]["jobs"]) >= 1
    while (frame := client.read()) is not None:  # what is not safe was not answered
        assert frame.name != "basic.ack"
    disk.mend()
    proxy.start()
    assert "before" in proxy.bodies()


def test_a_stop_waits_for_a_slow_disk(broker, hanging, disk):
    """One that comes back in time: nothing is cut off."""
    proxy, _, client = hanging({"listen.shutdown_timeout": "24h"})
    proxy._process.send_signal(signal.SIGTERM)
    proxy.wait_event("stopping")
    disk.mend()
    client.acked_up_to_tags({2})
    client.expect_close(320)
    proxy.wait_end()
    assert not proxy.events("stop_unfinished")
    proxy.start()
    assert proxy.bodies() == ["before", "waits"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_hangs_can_be_stopped(broker, make_proxy, disk, stop):
    """Nobody is served yet: there is nothing to wait for."""
    proxy = make_proxy(broker.url, {"spool.sync": "interval"}, environment=disk.environment)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"kept", "q")
        client.acked_up_to(1)
    proxy.kill9()
    disk.become("hang")
    proxy.begin()
    wait_until(disk.hangs, lambda: "the start waits for the disk")
    proxy._process.send_signal(stop)
    assert proxy._process.wait(60) == 0
    proxy._process = None
    disk.mend()
    proxy.start()
    assert proxy.bodies() == ["kept"]


def test_small_messages_are_held_before_they_take_much(broker, hanging, disk):
    """A message of three bytes costs memory too while it waits for the disk."""
    proxy, _, client = hanging()
    before, thousand = proxy.own_bytes(), FRAMES * 1000
    client.socket.settimeout(2)
    with pytest.raises(TimeoutError):
        for _ in range(400):
            client.socket.sendall(thousand)
    assert proxy.own_bytes() - before < 150 << 20  # a build with sanitizers doubles it
    disk.mend()
    wait_until(lambda: proxy.waiting() > 10000, lambda: "the disk takes them")
