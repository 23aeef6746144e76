"""Power cuts: whatever the kernel had not written yet may be missing; what was acked is not."""

import json
import os
import random
import subprocess

from support.disk import Disk, image, read_journal
from support.proxy import INSPECT
from support.raw import RawClient

IMAGES = int(os.environ.get("AMQPBUF_TEST_IMAGES", "150"))


def look_at(spool, *arguments):
    done = subprocess.run([str(INSPECT), "-s", str(spool), *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_images_of_power_cuts(broker, make_proxy, tmp_path):
    disk = Disk(tmp_path, keeps_journal=True)
    proxy = make_proxy(broker.url, environment=disk.environment)
    acked, gone = {}, {}  # body: length of the journal by then
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        for number in range(1, 121):
            body = "%d " % number + "x" * random.choice([10, 1000, 3000, 9000])
            client.publish(body.encode(), "q")
            client.acked_up_to_tags({number})
            acked[body] = disk.written()
        client.close()
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
        status, _, err = look_at(folder, "verify")
        assert status == 0, f"{where}: {err}"
        status, out, err = look_at(folder, "dump")
        assert status == 0, f"{where}: {err}"
        there = [json.loads(line)["body"] for line in out.splitlines()]
        assert len(set(there)) == len(there)
        moment = entries[upto - 1][0]
        due = [body for body, at in acked.items() if at <= moment]
        if moment <= drained_from:  # nothing was taken out yet
            missing = [body[:10] for body in due if body not in there]
            assert not missing, f"{where}: acked and lost: {missing[:5]}"
        # In order, whole, and nothing between the first and the last is missing.
        known = list(acked)
        places = [known.index(body) for body in there]
        assert places == list(range(places[0], places[0] + len(places))) if places else True
    print(f"{IMAGES} images of {len(entries)} writes and syncs, {gone or 'none'} lost")
