"""Others that read the spool beside the proxy: one that was killed holds nothing back, one that stands
still is named, and what waits is delivered whatever it holds."""

import contextlib
import os
import subprocess

from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until

BODIES = [b"%05d" % n + b"x" * 2000 for n in range(3000)]
SMALL = {"spool.max_size": "64MiB"}


@contextlib.contextmanager
def standing_still(proxy):
    """A backup into a pipe that nobody reads; its process."""
    read_end, write_end = os.pipe()
    with subprocess.Popen(["mdb_copy", str(proxy.spool)], stdout=write_end) as backup:
        try:
            os.close(write_end)
            assert os.read(read_end, 4096)  # its transaction has begun
            yield backup
        finally:
            backup.kill()
            os.close(read_end)


def drained(broker, proxy, bodies):
    before = len(proxy.events("drain_finished"))
    broker.up()
    proxy.wait_event("drain_finished", before + 1)
    assert {m.body for m in broker.messages} >= set(bodies)
    proxy.wait_empty()


def publish(proxy, bodies):
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for body in bodies:
            client.publish(body, "q")
        client.acked_up_to(len(bodies))
        client.close()


def test_drains_beside_a_backup_that_stands_still(broker, make_watched):
    proxy, admin = make_watched(broker.url, SMALL)
    spool(broker, proxy, BODIES)
    with standing_still(proxy) as backup:
        drained(broker, proxy, BODIES)
        named = proxy.wait_event("spool_reader_holds")
        assert int(named["pid"]) == backup.pid and int(named["bytes"]) > 5_000_000
        assert admin.metrics()["amqpbuf_spool_held_bytes"] > 5_000_000
        before = len(proxy.events("upstream_lost"))
        broker.down()
        proxy.wait_event("upstream_lost", before + 1)
        more = [b"more %d" % n for n in range(500)]
        publish(proxy, more)
        drained(broker, proxy, more)  # although nothing can be used again
    proxy.wait_event("spool_reader_gone")
    wait_until(lambda: admin.metrics()["amqpbuf_spool_held_bytes"] == 0,
               lambda: proxy.failure("nothing is held"))
    assert not proxy.events("delete_failed")


def test_killed_reader_holds_nothing(broker, make_watched):
    proxy, admin = make_watched(broker.url, SMALL)
    spool(broker, proxy, BODIES)
    with standing_still(proxy) as backup:
        backup.kill()
        backup.wait()
        for _ in range(2):
            drained(broker, proxy, BODIES)
            broker.messages.clear()
            assert admin.metrics()["amqpbuf_spool_held_bytes"] == 0
            spool(broker, proxy, BODIES)
    assert not proxy.events("spool_reader_holds")
