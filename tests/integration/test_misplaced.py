"""Somebody moves or removes a file of the spool beside the running proxy. What has been answered is not
lost by what amqpbuf does then, and it says what has happened."""

import os
import pathlib
import shutil
import subprocess
import time

import pytest

from support.disk import Disk
from support.outage import spool
from support.proxy import INSPECT
from support.raw import RawClient
from support.wait import wait_until
from test_spool_readers import SMALL, drained, publish

pytestmark = pytest.mark.provokes("spool_misplaced")
BODIES = [b"%05d" % n + b"x" * 2000 for n in range(2000)]
MORE = [b"more %05d" % n + b"y" * 2000 for n in range(2000)]


def down_again(broker, proxy):
    before = len(proxy.events("upstream_lost"))
    broker.down()
    proxy.wait_event("upstream_lost", before + 1)


def test_lock_that_is_removed(broker, make_watched, tmp_path):
    """A backup that begins behind it is seen: what it reads stays until it has been read."""
    proxy, admin = make_watched(broker.url, SMALL)
    spool(broker, proxy, BODIES)
    (proxy.spool / "lock.mdb").unlink()
    assert proxy.wait_event("spool_misplaced", timeout=30)["file"] == "lock.mdb"
    proxy.wait_event("spool_in_place")
    assert admin.ask("/readyz")[0] == 200
    with subprocess.Popen(["mdb_copy", str(proxy.spool)], stdout=subprocess.PIPE) as backup:
        beginning = backup.stdout.read(4096)  # its transaction has begun
        drained(broker, proxy, BODIES)
        down_again(broker, proxy)
        publish(proxy, MORE)
        copy = tmp_path / "copy"
        copy.mkdir(mode=0o700)
        (copy / "data.mdb").write_bytes(beginning + backup.stdout.read())
        assert backup.wait() == 0
    shutil.copy(proxy.spool / "credential.key", copy)
    verified = subprocess.run([INSPECT, "-s", copy, "verify"], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert f"{len(BODIES)}" in verified.stdout
    drained(broker, proxy, MORE)


def refused(proxy, body):
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(body, "q")
        client.expect("basic.nack")
        client.close()


@pytest.mark.parametrize("with_folder", [False, True])
def test_data_that_is_moved_and_put_back(broker, make_watched, with_folder):
    proxy, admin = make_watched(broker.url, {**SMALL, "spool.overflow": "reject"})
    spool(broker, proxy, BODIES[:100])
    place = proxy.spool if with_folder else proxy.spool / "data.mdb"
    place.rename(place.with_name("aside"))
    assert proxy.wait_event("spool_misplaced", timeout=30)["file"] == "data.mdb"
    wait_until(lambda: admin.ask("/readyz")[0] == 503, lambda: "not ready")
    assert "data.mdb" in admin.ask("/readyz")[1]
    refused(proxy, b"not taken")
    place.with_name("aside").rename(place)
    proxy.wait_event("spool_in_place", timeout=30)
    wait_until(lambda: admin.ask("/readyz")[0] == 200, lambda: "ready")
    publish(proxy, MORE[:100])
    proxy.restart()
    assert proxy.waiting() == 200
    drained(broker, proxy, BODIES[:100] + MORE[:100])


def test_who_publishes_while_data_is_moved_can_be_held(broker, make_watched):
    proxy, _ = make_watched(broker.url, {**SMALL, "spool.overflow": "block"})
    spool(broker, proxy, BODIES[:10])
    time.sleep(1)  # it has nothing to do any more, and looks at its files by itself
    data = proxy.spool / "data.mdb"
    data.rename(data.with_name("aside"))
    proxy.wait_event("spool_misplaced", timeout=30)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"held", "q")
        client.expect("connection.blocked", 0)
        data.with_name("aside").rename(data)
        client.expect("connection.unblocked", 0)
        client.acked_up_to(1)
        client.close()
    assert proxy.waiting() == 11
    drained(broker, proxy, [*BODIES[:10], b"held"])


@pytest.mark.provokes("delete_failed", "spool_failed", "read_failed")
def test_a_disk_that_fails_while_data_is_moved(broker, make_watched, tmp_path):
    """LMDB has to be opened again then: nothing is made in the place of what waits."""
    disk = Disk(tmp_path)
    proxy, _ = make_watched(broker.url, SMALL, environment=disk.environment)
    spool(broker, proxy, BODIES[:500])
    aside = proxy.spool.with_name("aside")
    proxy.spool.rename(aside)
    proxy.wait_event("spool_misplaced", timeout=30)
    disk.become("meta")
    broker.up()
    proxy.wait_event("delete_failed")
    disk.mend()
    assert not proxy.spool.exists()
    aside.rename(proxy.spool)
    proxy.wait_event("drain_finished")
    assert {m.body for m in broker.messages} == set(BODIES[:500])
    proxy.restart()
    assert proxy.waiting() == 0


def test_data_that_is_removed_is_delivered_by_who_has_it_open(broker, make_watched):
    proxy, admin = make_watched(broker.url, {**SMALL, "spool.overflow": "reject"})
    spool(broker, proxy, BODIES)
    (proxy.spool / "data.mdb").unlink()
    proxy.wait_event("spool_misplaced", timeout=30)
    refused(proxy, b"not taken")
    broker.up()
    proxy.wait_event("drain_finished")
    assert [m.body for m in broker.messages] == BODIES


def test_data_that_is_removed_can_be_copied_from_the_process(broker, make_watched):
    """As operations.md has it."""
    proxy, _ = make_watched(broker.url, SMALL)
    spool(broker, proxy, BODIES)
    data = proxy.spool / "data.mdb"
    data.unlink()
    proxy.wait_event("spool_misplaced", timeout=30)
    opened = [fd for fd in pathlib.Path(f"/proc/{proxy.pid}/fd").iterdir()
              if os.readlink(fd) == f"{data} (deleted)"]
    shutil.copy(opened[0], proxy.folder / "copy")
    proxy.term()
    (proxy.folder / "copy").rename(data)
    proxy.start()
    assert proxy.waiting() == len(BODIES)
    drained(broker, proxy, BODIES)
