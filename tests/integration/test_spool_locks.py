"""A process that stands still while it holds the lock that LMDB's writers take (mdb_copy without -c does
for a moment): it is named, nobody gets an answer that is not true, and all goes on once it goes on or
ends."""

import contextlib
import fcntl
import os
import signal
import subprocess

import pytest

from support.raw import RawClient
from support.wait import wait_until

pytestmark = pytest.mark.provokes("spool_stalled", "stop_unfinished")


def full_pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, bytes(4096))
    os.set_blocking(write_end, True)
    return read_end, write_end


def reads(spool, pid):
    """True if that process is in a read transaction."""
    table = subprocess.run(["mdb_stat", "-r", spool], capture_output=True, text=True).stdout
    rows = [line.split() for line in table.splitlines()]
    return any(row[0] == str(pid) and row[2].isdigit() for row in rows if len(row) == 3)


class Copy:
    """mdb_copy into a pipe that is full: it has begun, and does not get its first pages out."""

    def __init__(self, spool, *options):
        self.read_end, write_end = full_pipe()
        self.process = subprocess.Popen(["mdb_copy", *options, str(spool)], stdout=write_end)
        os.close(write_end)
        wait_until(lambda: reads(spool, self.process.pid), lambda: "the copy reads")
        self.pid = self.process.pid

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def end(self):
        self.process.kill()
        self.process.wait()

    def go_on(self):
        while os.read(self.read_end, 1 << 16):
            pass
        self.process.wait()

    def close(self):
        self.end()
        os.close(self.read_end)


@pytest.fixture
def copying():
    copies = []

    def make(spool, *options):
        copies.append(Copy(spool, *options))
        return copies[-1]

    yield make
    for copy in copies:
        copy.close()


@pytest.fixture
def waiting(broker, make_watched, copying):
    """waiting(options): (proxy, admin, a client whose publish waits for the lock, who holds it)."""
    clients = []

    def make(options=None):
        proxy, admin = make_watched(broker.url, options)
        client = RawClient(proxy.port)
        clients.append(client)
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"before", "q")
        client.acked_up_to(1)
        copy = copying(proxy.spool)
        client.publish(b"waits", "q")
        wait_until(lambda: admin.metrics()["amqpbuf_spool_busy_seconds"] > 0.1,
                   lambda: "the publish waits for the lock")
        return proxy, admin, client, copy

    yield make
    for client in clients:
        client.socket.close()


@pytest.mark.parametrize("end", [Copy.end, Copy.go_on], ids=["killed", "goes_on"])
def test_who_holds_the_lock_is_named(broker, waiting, end):
    proxy, admin, client, copy = waiting()
    if end is Copy.end:
        copy.stop()
    stalled = proxy.wait_event("spool_stalled")
    assert stalled["pids"] == f"{copy.pid} (stopped)" if end is Copy.end else str(copy.pid)
    assert "lock" in stalled["reason"] and int(stalled["jobs"]) >= 1
    status, text, _ = admin.ask("/readyz")
    assert status == 503 and "lock" in text
    assert admin.ask("/healthz")[0] == 200
    end(copy)
    client.acked_up_to_tags({2})
    proxy.wait_event("spool_goes_on")
    wait_until(lambda: admin.ask("/readyz")[0] == 200, lambda: "ready again")
    broker.up()
    proxy.wait_empty()
    assert [m.body for m in broker.messages] == [b"before", b"waits"]


def test_a_stop_does_not_wait_for_it(waiting):
    proxy, _, client, copy = waiting({"listen.shutdown_timeout": "500ms"})
    proxy.signal_term()
    assert proxy._process.wait(60) == 1
    proxy._process = None
    assert "lock" in proxy.events("stop_unfinished")[0]["reason"]
    while (frame := client.read()) is not None:  # what is not safe was not answered
        assert frame.name != "basic.ack"
    copy.end()
    proxy.start()
    assert proxy.bodies()[0] == "before"


def test_a_start_names_it(broker, make_proxy, copying):
    proxy = make_proxy(broker.url)
    proxy.term()
    copy = copying(proxy.spool)
    proxy.begin()
    stalled = proxy.wait_event("spool_stalled")
    assert stalled["pids"] == str(copy.pid)
    assert not proxy.events("listening")
    copy.end()
    proxy.wait_event("listening")


def test_a_start_that_waits_leaves_nothing_behind(broker, make_proxy, copying):
    proxy = make_proxy(broker.url)
    proxy.term()
    copy = copying(proxy.spool)
    for stop in (signal.SIGTERM, signal.SIGKILL):
        proxy.begin()
        wait_until(lambda: is_locked(proxy.spool), lambda: "it has the spool")
        proxy._process.send_signal(stop)
        proxy._process.wait(60)
        proxy._process = None
        wait_until(lambda: not is_locked(proxy.spool), lambda: "nobody has the spool")
    copy.end()
    proxy.start()


def is_locked(spool):
    directory = os.open(spool, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(directory)
    return False


def test_a_compacting_copy_holds_no_lock(broker, make_proxy, copying):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        copying(proxy.spool, "-c").stop()
        client.publish(b"one", "q")
        client.acked_up_to(1)
        broker.up()
        proxy.wait_empty()
        client.close()
