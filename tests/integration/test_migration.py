"""A spool of format 1 is changed at the first start: whatever ends that, nothing is lost, and what was
there goes to RabbitMQ in its order."""

import os
import random
import subprocess

import pytest

from support.disk import Disk, image, of_another_boot, read_journal
from support.proxy import BINARY, INSPECT
from support.raw import RawClient
from support.spool import MAKE_SPOOL_V1
from support.wait import wait_until

IMAGES = int(os.environ.get("AMQPBUF_TEST_IMAGES", "150")) // 3  # a start for each
QUEUES, MESSAGES = 40, 25


def make_v1(spool, queues=QUEUES, messages=MESSAGES, size=600):
    subprocess.run([MAKE_SPOOL_V1, spool, str(queues), str(messages), str(size)], check=True)


def expected(queues=QUEUES, messages=MESSAGES):
    return {queue: [f"{queue} {number}" for number in range(1, messages + 1)]
            for queue in range(1, queues + 1)}


def run(proxy, environment=None):
    """A start that ends by itself: (exit status, what it said)."""
    proxy._write_configuration()
    done = subprocess.run([BINARY, "-c", proxy.folder / "proxy.ini"], cwd=proxy.folder, check=False,
                          env=dict(os.environ, **(environment or {})), stderr=subprocess.PIPE,
                          text=True, timeout=60)
    return done.returncode, done.stderr


def in_spool(proxy):
    """{queue: bodies}, in their order."""
    there = {}
    for line in proxy.dump():
        there.setdefault(line["queue"], []).append(line["body"].rstrip())
    return there


def test_what_waited_is_delivered(broker, make_proxy):
    proxy = make_proxy(broker.url, start=False, provokes=["login_unreadable"])
    make_v1(proxy.spool, 1, 2000, 3500)
    done = subprocess.run([INSPECT, "-s", proxy.spool], stderr=subprocess.PIPE, text=True,
                          check=False)
    assert done.returncode == 3 and "format version 1" in done.stderr
    proxy.start()
    assert proxy.wait_event("migration_started")["of"] == "2000"
    assert proxy.wait_event("migration_finished")["messages"] == "2000"
    proxy.inspect("verify")
    with RawClient(proxy.port, user="user-1", password="secret") as client:  # with a login, they go out
        client.open_channel()
        wait_until(lambda: len(broker.messages) == 2000, lambda: proxy.failure("all are delivered"))
        client.close()
    assert [m.body.decode().rstrip() for m in broker.messages] == expected(1, 2000)[1]


@pytest.mark.parametrize("sync", ["commit", "interval"])
def test_disk_that_is_full(broker, make_proxy, tmp_path, sync):
    """It ends with a clear error, as often as it is started; with room the next start goes on."""
    disk = Disk(tmp_path)
    proxy = make_proxy(broker.url, {"spool.sync": sync}, start=False,
                       provokes=["login_unreadable", "spool_unusable"])
    make_v1(proxy.spool, size=20000)
    stop = dict(disk.environment, AMQPBUF_TEST_CRASH_AT="in_migration:7")
    status, _ = run(proxy, stop)  # in the middle of it
    assert status == -9
    disk.become("full")
    for _ in range(3):
        status, said = run(proxy, disk.environment)
        assert status == 1, said
        assert "event=spool_unusable" in said and "No space left on device" in said, said
    disk.mend()
    proxy.environment = disk.environment
    proxy.start()
    proxy.inspect("verify")
    assert in_spool(proxy) == expected()


@pytest.mark.parametrize("sync", ["commit", "interval"])
def test_power_cuts(broker, make_proxy, tmp_path, sync):
    """Whatever the kernel had not written yet may be missing: every message is there all the same."""
    disk = Disk(tmp_path, keeps_journal=True)
    options = {"spool.sync": sync}
    proxy = make_proxy(broker.url, options, start=False, environment=disk.environment,
                       provokes=["login_unreadable"])
    make_v1(proxy.spool, 30, 20, 5000)
    before = (proxy.spool / "data.mdb").read_bytes()
    proxy.start()
    proxy.term()
    entries = [(0, b"D", 0, before)] + read_journal(disk.journal)
    after = make_proxy(broker.url, options, start=False, provokes=["login_unreadable"])
    after.spool.mkdir(mode=0o700)
    seed = random.randrange(1 << 30)
    generator = random.Random(seed)
    first = 1 if sync == "commit" else [kind for _, kind, _, _ in entries].index(b"s") + 1
    resumed = 0
    for _ in range(IMAGES):
        upto = generator.randrange(first, len(entries) + 1)
        share = generator.choice([0, 0.1, 0.5, 0.9, 1])
        (after.spool / "data.mdb").write_bytes(
            image(entries, upto, lambda: generator.random() < share))
        if sync == "interval":
            (after.spool / "checkpoint").write_bytes(of_another_boot(
                image(entries, upto, lambda: generator.random() < share, b"w", b"s")))
        where = f"seed {seed}, {upto} of {len(entries)} entries, {share} of the rest kept"
        after.start()
        resumed += bool(after.events("migration_started"))
        after.inspect("verify")
        assert in_spool(after) == expected(30, 20), where
        after.term()
    assert resumed > 0
