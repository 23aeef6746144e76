"""Power cuts: whatever the kernel had not written yet may be missing; what was acked is not."""

import json
import os
import random
import subprocess
import threading

import pytest

from support.disk import Disk, image, of_another_boot, read_journal
from support.proxy import INSPECT
from support.raw import RawClient
from support.wait import wait_until

IMAGES = int(os.environ.get("AMQPBUF_TEST_IMAGES", "150"))


def look_at(spool, *arguments):
    done = subprocess.run([str(INSPECT), "-s", str(spool), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def publish(proxy, disk, numbers, sizes=(10, 1000, 3000, 9000)):
    """Each alone, until it is acked: {body: length of the journal by then}."""
    acked = {}
    with RawClient(proxy.port, handshake=False) as client:
        client.begin("guest", "guest", properties={"product": "waits, and hears nothing of it"})
        client.tune_ok(0, 0, 0)
        client.send_method(0, "connection.open", vhost="/")
        client.expect("connection.open-ok")
        client.open_channel(confirms=True)
        for number in numbers:
            body = "%d " % number + "x" * random.choice(sizes)
            client.publish(body.encode(), "q")
            client.acked_up_to_tags({number - numbers[0] + 1})
            acked[body] = disk.written()
        client.close()
    return acked


def bodies(folder, where):
    """What waits in a spool that is whole."""
    status, _, err = look_at(folder, "verify")
    assert status == 0, f"{where}: {err}"
    status, out, err = look_at(folder, "dump")
    assert status == 0, f"{where}: {err}"
    there = [json.loads(line)["body"] for line in out.splitlines()]
    assert len(set(there)) == len(there)
    return there


def check_order(there, acked, where):
    """In order, and nothing between the first and the last is missing."""
    known = list(acked)
    places = [known.index(body) for body in there]
    assert places == list(range(places[0], places[0] + len(places))) if places else True, where


def test_images_of_power_cuts(broker, make_proxy, tmp_path):
    disk = Disk(tmp_path, keeps_journal=True)
    proxy = make_proxy(broker.url, environment=disk.environment)
    with RawClient(proxy.port) as client:  # RabbitMQ has seen the login
        client.open_channel()
        client.close()
    broker.down()
    proxy.wait_event("buffering_started")
    acked = publish(proxy, disk, range(1, 121))
    broker.up()
    proxy.wait_empty()
    delivered = {message.body.decode() for message in broker.messages}
    assert delivered == set(acked)
    drained_from = max(acked.values())
    proxy.term()
    entries = read_journal(disk.journal)
    assert len(entries) > 300
    first = next(n for n, entry in enumerate(entries) if entry[0] >= min(acked.values()))
    seed = random.randrange(1 << 30)
    generator = random.Random(seed)
    folder = tmp_path / "image"
    folder.mkdir(mode=0o700)
    for _ in range(IMAGES):
        upto = generator.randrange(first, len(entries) + 1)
        share = generator.choice([0, 0.1, 0.5, 0.9, 1])
        (folder / "data.mdb").write_bytes(
            image(entries, upto, lambda: generator.random() < share))
        where = f"seed {seed}, {upto} of {len(entries)} entries, {share} of the rest kept"
        there = bodies(folder, where)
        moment = entries[upto - 1][0]
        due = [body for body, at in acked.items() if at <= moment]
        if moment <= drained_from:  # nothing was taken out yet
            missing = [body[:10] for body in due if body not in there]
            assert not missing, f"{where}: acked and lost: {missing[:5]}"
        check_order(there, acked, where)
    print(f"{IMAGES} images of {len(entries)} writes and syncs")


# ---- spool.sync = interval ----

def last_sync(entries, upto):
    """Length of the journal at the data's last sync that a whole checkpoint stands for."""
    sync, saved = 0, 0
    for end, kind, _, _ in entries[:upto]:
        if kind == b"S":
            sync = end
        elif kind == b"s":
            saved = sync
    return saved


def outage(broker, proxy):
    """RabbitMQ has seen the login, and goes away."""
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.close()
    broker.down()
    proxy.wait_event("buffering_started")


def wait_synced(proxy, disk):
    """All that was written to data.mdb is synced, and so is the checkpoint behind it."""
    def is_synced():
        kinds = b"".join(kind for _, kind, _, _ in read_journal(disk.journal))
        return kinds.rfind(b"W") < kinds.rfind(b"S") < kinds.rfind(b"w") < kinds.rfind(b"s")
    wait_until(is_synced, lambda: proxy.failure("no checkpoint was taken"))


def lay_out(proxy, files):
    """The proxy's spool as a power cut has left it, and only that."""
    for path in proxy.spool.iterdir():
        if path.name != "credential.key":
            path.unlink()
    for name, content in files.items():
        (proxy.spool / name).write_bytes(content)
        (proxy.spool / name).chmod(0o600)


@pytest.mark.provokes("sync_failed")
def test_a_failed_sync_is_not_believed(broker, make_proxy, tmp_path):
    """A good sync that follows one that failed does not write what the failed one has dropped."""
    disk = Disk(tmp_path, keeps_journal=True)
    proxy = make_proxy(broker.url, {"spool.sync": "interval", "spool.sync_interval": "20ms",
                                    "spool.overflow": "block"}, environment=disk.environment)

    def mend():
        proxy.wait_event("sync_failed")
        disk.mend()
    outage(broker, proxy)
    acked = publish(proxy, disk, range(1, 41))
    wait_synced(proxy, disk)
    disk.become("sync")
    mender = threading.Thread(target=mend)
    mender.start()
    acked.update(publish(proxy, disk, range(41, 42), [2000000]))  # the file grows
    acked.update(publish(proxy, disk, range(42, 121)))
    mender.join()
    wait_synced(proxy, disk)
    proxy.kill9()
    entries = read_journal(disk.journal)
    assert any(kind == b"F" for _, kind, _, _ in entries)
    check_after_power_cut(proxy, entries, acked)


def check_after_power_cut(proxy, entries, acked):
    """Nothing is kept but what was synced: all of it was."""
    lay_out(proxy, {
        "data.mdb": image(entries, len(entries), lambda: False),
        "checkpoint": of_another_boot(
            image(entries, len(entries), lambda: False, b"w", b"s"))})
    proxy.environment = {}
    proxy.start()
    proxy.wait_event("spool_restored")
    assert bodies(proxy.spool, "a failed sync") == list(acked)


@pytest.mark.provokes("sync_failed")
@pytest.mark.parametrize("sync", ["interval", "commit"])
def test_a_failed_sync_is_not_believed_by_the_next_process(broker, make_proxy, tmp_path, sync):
    """The process is killed before it has written again what the failed sync has dropped."""
    disk = Disk(tmp_path, keeps_journal=True)
    proxy = make_proxy(broker.url, {"spool.sync": "interval", "spool.sync_interval": "20ms"},
                       environment={**disk.environment,
                                    "AMQPBUF_TEST_CRASH_AT": "after_failed_sync:1"})
    outage(broker, proxy)
    acked = publish(proxy, disk, range(1, 41))
    wait_synced(proxy, disk)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        disk.become("sync")
        client.publish(b"41 " + 20000 * b"x", "q")
        proxy.wait_killed()
    there = proxy.bodies()
    assert there[:40] == list(acked)
    disk.mend()
    del proxy.environment["AMQPBUF_TEST_CRASH_AT"]
    proxy.options["spool.sync"] = sync
    proxy.start()
    acked = {body: 0 for body in there} | publish(proxy, disk, range(101, 141))
    if sync == "interval":
        wait_synced(proxy, disk)
    proxy.kill9()
    entries = read_journal(disk.journal)
    if sync == "interval":
        check_after_power_cut(proxy, entries, acked)
    else:
        lay_out(proxy, {"data.mdb": image(entries, len(entries), lambda: False)})
        assert bodies(proxy.spool, "a failed sync") == list(acked)


def test_a_power_cut_takes_no_more_than_the_interval(broker, make_proxy, tmp_path):
    disk = Disk(tmp_path, keeps_journal=True)
    proxy = make_proxy(broker.url, {"spool.sync": "interval", "spool.sync_interval": "20ms"},
                       environment=disk.environment)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.close()
    broker.down()
    proxy.wait_event("buffering_started")
    first = publish(proxy, disk, range(1, 101))
    drained_from = disk.written()
    broker.up()
    proxy.wait_empty()
    broker.down()
    proxy.wait_event("buffering_started", count=2)
    second_from = disk.written()
    second = publish(proxy, disk, range(101, 201))
    proxy.kill9()
    assert set(proxy.bodies()) == set(second), "the end of the process alone takes nothing"
    entries = read_journal(disk.journal)
    after_reboot = make_proxy(broker.url, start=False)
    seed = random.randrange(1 << 30)
    generator = random.Random(seed)
    start = next(n for n, entry in enumerate(entries) if entry[0] >= min(first.values()))
    after_reboot.spool.mkdir(mode=0o700)
    key = (proxy.spool / "credential.key").read_bytes()
    restored = 0
    for _ in range(max(1, IMAGES // 3)):
        upto = generator.randrange(start, len(entries) + 1)
        share = generator.choice([0, 0.1, 0.5, 0.9])
        where = f"seed {seed}, {upto} of {len(entries)} entries, {share} of the rest kept"
        for path in after_reboot.spool.iterdir():
            path.unlink()
        (after_reboot.spool / "data.mdb").write_bytes(
            image(entries, upto, lambda: generator.random() < share))
        (after_reboot.spool / "checkpoint").write_bytes(of_another_boot(
            image(entries, upto, lambda: generator.random() < share, b"w", b"s")))
        (after_reboot.spool / "credential.key").write_bytes(key)
        (after_reboot.spool / "credential.key").chmod(0o600)
        status, _, err = look_at(after_reboot.spool, "summary")
        assert status != 0 and "machine went down" in err, where
        after_reboot.start()
        restored += len(after_reboot.events("spool_restored"))
        after_reboot.term()
        status, _, err = look_at(after_reboot.spool, "summary")
        assert status == 0, f"{where}: {err}"
        there = bodies(after_reboot.spool, where)
        safe = last_sync(entries, upto)
        if safe < drained_from:
            missing = [body[:10] for body, at in first.items() if at <= safe and body not in there]
            assert not missing, f"{where}: lost before the interval: {missing[:5]}"
        if safe > second_from:
            missing = [body[:10] for body, at in second.items() if at <= safe and body not in there]
            assert not missing, f"{where}: lost before the interval: {missing[:5]}"
        check_order(there, {**first, **second}, where)
    assert restored > 0
