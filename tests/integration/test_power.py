"""Power cuts: whatever the kernel had not written yet may be missing; what was acked is not."""

import json
import os
import random
import subprocess

from support.disk import Disk, image, of_another_boot, read_journal
from support.proxy import INSPECT
from support.raw import RawClient

IMAGES = int(os.environ.get("AMQPBUF_TEST_IMAGES", "150"))


def look_at(spool, *arguments):
    done = subprocess.run([str(INSPECT), "-s", str(spool), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def publish(proxy, disk, numbers):
    """Each alone, until it is acked: {body: length of the journal by then}."""
    acked = {}
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number in numbers:
            body = "%d " % number + "x" * random.choice([10, 1000, 3000, 9000])
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
        assert not (after_reboot.spool / "checkpoint").exists()
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
