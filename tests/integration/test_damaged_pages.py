"""Spools with a page or a bit changed: nothing ends over it, and what can be read is delivered.

AMQPBUF_TEST_SPOOLS: how many, AMQPBUF_TEST_SEED: which."""

import itertools
import json
import os
import random
import shutil
import struct
import subprocess

import pytest

from support.outage import spool
from support.pages import PAGE, Pages
from support.proxy import INSPECT, Proxy
from support.broker import FakeBroker
from support.raw import RawClient
from support.spool import MakeSpool, header, method, publish, short_string
from support.wait import wait_until

SPOOLS = int(os.environ.get("AMQPBUF_TEST_SPOOLS", "24"))
SEED = int(os.environ.get("AMQPBUF_TEST_SEED", random.randrange(1 << 30)))
DAMAGE_EVENTS = ("record_damaged", "records_set_aside", "unbalanced", "queue_damaged", "spool_damaged",
                 "queue_entry_damaged", "counters_mended", "spool_unreadable", "spool_unusable",
                 "login_unreadable", "spool_write_failed", "client_refused")


def inspect(folder, *arguments):
    done = subprocess.run([INSPECT, "-s", folder, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, timeout=120)
    assert done.returncode in (0, 1), (arguments, done.returncode, done.stderr[-2000:])
    assert b"Sanitizer" not in done.stderr and b"ssertion" not in done.stderr, done.stderr[-2000:]
    return done.returncode, [json.loads(line) for line in done.stdout.decode().splitlines()
                             if line.startswith("{")]


def fill(made, queue, generator, count, sizes):
    for _ in range(count):
        body = b"%d %d " % (queue, generator.randrange(1 << 40))
        body += generator.choice(b"abcdefgh").to_bytes(1, "big") * generator.choice(sizes)
        made.put(queue, 1, publish("", "q"), header(len(body)), body)


def few(made, generator):
    fill(made, 1, generator, 12, (10, 900, 2500))


def long_ones(made, generator):
    fill(made, 1, generator, 40, (100, 5000, 30000, 300000))


def many(made, generator):
    fill(made, 1, generator, 1500, (10, 100, 1000))


def with_holes(made, generator):
    fill(made, 1, generator, 400, (10, 1000, 9000))
    for seq in generator.sample(range(2, 401), 250):
        made.delete(1, seq)
    fill(made, 1, generator, 60, (10, 1000, 9000))


def with_rejected(made, generator):
    fill(made, 1, generator, 120, (10, 1000, 5000))
    for seq in generator.sample(range(2, 121), 40):
        made.reject(1, seq, 404, 1, b"NOT_FOUND - no exchange")
    made.declare(1, 1, method(50, 10, short_string("made"), b"\x00", b"\0\0\0\0"))


def many_queues(made, generator):
    for queue in range(1, 31):
        fill(made, queue, generator, generator.randrange(1, 12), (10, 500, 4000))


SHAPES = {"few": (few, 1), "long": (long_ones, 1), "many": (many, 1), "holes": (with_holes, 1),
          "rejected": (with_rejected, 1), "queues": (many_queues, 30)}


def make_shape(name, seed, folder):
    """A spool, what waits in it, what was rejected, and its pages; RabbitMQ has seen the logins."""
    build, vhosts = SHAPES[name]
    with FakeBroker() as broker, Proxy(broker.url, {"pool.publish_buffer_size": 100000}) as proxy:
        for number in range(1, vhosts):
            RawClient(proxy.port, vhost=f"v{number}").close()
        spool(broker, proxy, [b"first"])
        for number in range(1, vhosts):
            with RawClient(proxy.port, vhost=f"v{number}") as client:
                client.open_channel(confirms=True)
                client.publish(b"first", "q")
                client.acked_up_to(1)
                client.close()
        proxy.term()
        maker = MakeSpool(proxy.spool)
        build(maker, random.Random(f"{seed} {name}"))
        maker.close()
        shutil.copytree(proxy.spool, folder)
    (folder / "lock.mdb").unlink(missing_ok=True)
    waiting, rejected = inspect(folder, "dump")[1], inspect(folder, "dump", "--rejected")[1]
    return folder, waiting, rejected, Pages((folder / "data.mdb").read_bytes())


@pytest.fixture
def shapes(tmp_path):
    """shapes(name, seed)"""
    made = {}
    def shape(name, seed):
        if name not in made:
            made[name] = make_shape(name, seed, tmp_path / name)
        return made[name]
    return shape


def change_bit(data, page, generator, _):
    at = page * PAGE + generator.randrange(PAGE)
    data[at] ^= 1 << generator.randrange(8)


def change_bytes(data, page, generator, _):
    at = page * PAGE + generator.randrange(PAGE - 64)
    data[at:at + 64] = generator.randbytes(64)


def clear_page(data, page, _, __):
    data[page * PAGE:(page + 1) * PAGE] = bytes(PAGE)


def fill_page(data, page, generator, _):
    data[page * PAGE:(page + 1) * PAGE] = generator.randbytes(PAGE)


def another_page(data, page, generator, pages):
    other = generator.randrange(pages.last + 1)
    data[page * PAGE:(page + 1) * PAGE] = data[other * PAGE:(other + 1) * PAGE]


CHANGES = [change_bit, change_bytes, clear_page, fill_page, another_page]


def key(message):
    return message["queue"], message["seq"]


def content(message):
    """All but the login, which is elsewhere."""
    return {name: value for name, value in message.items() if name not in ("user", "vhost")}


def due(messages, pages, paths, changed, rejected=False):
    """Those that no changed page has to do with."""
    return [m for m in messages
            if not pages.of_message(paths, *key(m), rejected=rejected) & changed]


def check_recovered(folder, waiting, rejected, pages, changed, where):
    """All that is on pages of its own that are as they were, and nothing that never was."""
    for messages, option in ((waiting, []), (rejected, ["--rejected"])):
        _, found = inspect(folder, "dump", "--recover", *option)
        whole = {key(m): m for m in found if "damage" not in m}
        assert len(found) == len({key(m) for m in found}), where
        known = {key(m): m for m in messages}
        for m in due(messages, pages, pages.own_of, changed, bool(option)):
            assert key(m) in whole, f"{where}: {key(m)} is not recovered"
        for place, m in whole.items():
            if place in known:
                assert content(m) == content(known[place]), f"{where}: {place} is another"


def check_delivered(proxy, broker, waiting, pages, changed, where):
    """Each whose way through the tree is as it was is delivered once, in order, and nothing else is
    that never was."""
    entry = {m["queue"]: pages.path_of["queues", m["queue"].to_bytes(4, "big")] for m in waiting}
    expected = [m for m in due(waiting, pages, pages.path_of, changed)
                if not entry[m["queue"]] & changed and m.get("kind") != "declare"]
    wanted = {m["body"] for m in expected}
    def all_there():
        assert proxy.is_running(), proxy.failure(f"{where}: it has ended")
        return wanted <= {m.body.decode() for m in list(broker.messages)}
    wait_until(all_there, lambda: proxy.failure(
        f"{where}: {len(wanted - {m.body.decode() for m in broker.messages})} of "
        f"{len(wanted)} are not delivered"))
    bodies = [m.body.decode() for m in broker.messages]
    assert set(bodies) <= {m["body"] for m in waiting if "body" in m}, where
    for queue in {m["queue"] for m in expected}:
        known = [m["body"] for m in expected if m["queue"] == queue and m["body"] != "first"]
        got = [body for body in bodies if body in set(known)]
        assert got == known, f"{where}: queue {queue} is out of order, or repeated"


def drains(proxy):
    return proxy.events("drain_finished") + proxy.events("drain_stopped")


def start(proxy):
    """True if it serves; else it has said why not."""
    proxy.begin()
    wait_until(lambda: proxy.events("listening") or not proxy.is_running(),
               lambda: proxy.failure("it neither starts nor ends"))
    if proxy.is_running():
        return True
    status = proxy.wait_status()
    assert status == 1, proxy.failure(f"it ended in status {status}")
    assert proxy.events("spool_unreadable") or proxy.events("spool_unusable"), proxy.failure("why?")
    return False


def try_one(name, change, seed, number, shape, generator):
    """False if it cannot be started on."""
    folder, waiting, rejected, pages = shape
    page = generator.randrange(pages.last + 1)
    where = f"seed {seed}, spool {number} ({name}): {change.__name__} of page {page}"
    print(where)
    data = bytearray((folder / "data.mdb").read_bytes())
    before = bytes(data)
    change(data, page, generator, pages)
    changed = {page} if data != before else set()
    with FakeBroker() as broker, Proxy(broker.url, {"pool.publish_buffer_size": 100000}, start=False,
                                       provokes=DAMAGE_EVENTS) as proxy:
        shutil.copytree(folder, proxy.spool)
        (proxy.spool / "data.mdb").write_bytes(data)
        for command in ("summary", "list", "dump", "verify"):
            inspect(proxy.spool, command)
        check_recovered(proxy.spool, waiting, rejected, pages, changed, where)
        if start(proxy):
            check_delivered(proxy, broker, waiting, pages, changed, where)
            if not changed & pages.used:
                wait_until(lambda: all(event["messages"] == "0" for event in drains(proxy)) and
                           len(drains(proxy)) == len({m["queue"] for m in waiting}),
                           lambda: proxy.failure(f"{where}: nothing was wrong, and something is left"))
                assert not proxy.events("queue_damaged") and not proxy.events("record_damaged"), where
            return True
        assert changed & pages.essential, proxy.failure(where)
        return False


def choices(seed):
    generator = random.Random(seed)
    while True:
        name, change = generator.choice(list(SHAPES)), generator.choice(CHANGES)
        yield name, change, random.Random(generator.randrange(1 << 60))


def test_spools_with_a_changed_page(shapes):
    refused = 0
    for number, (name, change, generator) in zip(range(SPOOLS), choices(SEED)):
        refused += not try_one(name, change, SEED, number, shapes(name, SEED), generator)
    print(f"{SPOOLS} spools, seed {SEED}; {refused} could not be started on, all with a page of "
          "LMDB's heads, of the databases' names, or of the queues' entries")


# Random bytes in a page led into the middle of a good one further on; a branch had become its own
# parent; a leaf had become a branch that led far behind, or one of the rejected list's; the newest head
# had become the one before.
@pytest.mark.parametrize("seed,number", [(301, 21), (303, 131), (315, 11), (350, 39), (360, 93)])
def test_spools_that_have_shown_a_fault(shapes, seed, number):
    name, change, generator = next(itertools.islice(choices(seed), number, None))
    assert try_one(name, change, seed, number, shapes(name, seed), generator)


# Nothing is deleted from such a queue: each outage had all of it delivered again, and counted out of
# what waits once more, so that the queue was full.
def test_what_stays_is_delivered_once_until_a_restart(shapes):
    folder, waiting, _, pages = shapes("many", SEED)
    leaf = pages.own_of["messages", struct.pack(">IQ", *key(waiting[len(waiting) // 2]))]
    changed = {max(leaf - pages.essential)}
    data = bytearray((folder / "data.mdb").read_bytes())
    for page in changed:
        clear_page(data, page, None, None)
    with FakeBroker() as broker, Proxy(broker.url, {"pool.publish_buffer_size": 2000}, start=False,
                                       provokes=DAMAGE_EVENTS) as proxy:
        shutil.copytree(folder, proxy.spool)
        (proxy.spool / "data.mdb").write_bytes(data)
        proxy.start()
        check_delivered(proxy, broker, waiting, pages, changed, f"seed {SEED}")
        wait_until(lambda: proxy.events("drain_finished"), lambda: proxy.failure("the drain ends"))
        before = len(broker.messages)
        assert before < len(waiting) and proxy.events("queue_damaged")
        spool(broker, proxy, [b"later"])
        broker.up()
        wait_until(lambda: len(proxy.events("drain_finished")) == 2,
                   lambda: proxy.failure("the second drain ends"))
        assert [m.body for m in broker.messages[before:]] == [b"later"]
        assert [event["messages"] for event in proxy.events("drain_finished")] == ["0", "0"]
        assert not proxy.events("queue_full")
