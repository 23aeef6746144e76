"""The rejected list has a bound of its own: what is beyond it leaves the spool, and nothing vanishes."""

import json
import pathlib

import pytest

from support import amqp
from support.disk import Disk, image, read_journal
from support.raw import RawClient
from support.small_disk import SmallDisk
from support.wait import wait_until

REASON = "NOT_FOUND - no exchange 'missing' in vhost '/'"


@pytest.fixture
def broker(broker):
    """One that knows all exchanges but one."""
    def take(connection, message):
        if message.args["exchange"] == "missing":
            connection.close_channel(message.channel, 404, REASON)
        elif message.tag:
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)

    broker.on_message = take
    return broker


def job(proxy, body, user):
    """Connects, publishes to an exchange that is not there, closes. False if it has heard of it
    before the proxy had read its close: then nothing is kept."""
    with RawClient(proxy.port, user) as client:
        client.open_channel()
        client.send(amqp.publish_frames(1, body, routing_key="k", exchange="missing",
                                        frame_max=client.frame_max) +
                    amqp.method_frame(0, "connection.close", reply_code=200, reply_text="bye"))
        told = client.read()
        assert told.name in ("connection.close-ok", "channel.close"), proxy.failure(told.args)
        return told.name == "connection.close-ok"


def refused(proxy, bodies, user="guest"):
    for body in bodies:
        while not job(proxy, body, user):
            pass


def listed(proxy):
    return sum(queue["rejected"] for queue in proxy.summary()["queues"])


def wait_listed(proxy, count):
    wait_until(lambda: listed(proxy) == count, lambda: proxy.failure(f"{count} are listed"))


def file_of(proxy):
    return pathlib.Path(proxy.spool) / "rejected.jsonl"


def lines(proxy):
    """Those that are complete."""
    path = file_of(proxy)
    return path.read_text().split("\n")[:-1] if path.exists() else []


def numbers(proxy):
    """Of all that RabbitMQ has refused, wherever it is. Some go to the file meanwhile."""
    in_list = proxy.dump("--rejected")
    return {record["seq"] for record in in_list + [json.loads(line) for line in lines(proxy)]}


def test_the_oldest_go_to_the_file_as_dump_prints_them(broker, make_watched):
    proxy, admin = make_watched(broker.url, {"pool.rejected_size": 0})
    bodies = [b"plain", "ümläut\u202e".encode(), b"\xff\x00", b"", b"x" * 20000] + [b"more"] * 7
    refused(proxy, bodies)
    wait_listed(proxy, len(bodies))
    dumped = proxy.inspect("dump", "--rejected").decode().splitlines()
    assert not file_of(proxy).exists()
    proxy.options["pool.rejected_size"] = 5
    proxy.reload()
    wait_listed(proxy, 5)
    assert lines(proxy) == dumped[:-5]
    assert proxy.inspect("dump", "--rejected").decode().splitlines() == dumped[-5:]
    wait_until(lambda: admin.metrics()["amqpbuf_rejected_exported_total"] == 7,
               lambda: proxy.failure("they are counted"))
    assert sum(int(event["messages"]) for event in proxy.events("rejected_exported")) == 7
    assert file_of(proxy).stat().st_mode & 0o777 == 0o600


def test_drop(broker, make_watched):
    proxy, admin = make_watched(broker.url, {"pool.rejected_size": 3,
                                             "pool.rejected_overflow": "drop"})
    refused(proxy, [b"%d" % number for number in range(8)])
    wait_until(lambda: admin.metrics()["amqpbuf_rejected_dropped_total"] == 5,
               lambda: proxy.failure("five are dropped"))
    assert [record["body"] for record in proxy.dump("--rejected")] == ["5", "6", "7"]
    assert not file_of(proxy).exists()
    assert proxy.events("rejected_dropped")


def test_age(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.rejected_age": "10ms", "pool.cleanup_interval": "20ms"})
    refused(proxy, [b"one", b"two", b"three"])
    wait_listed(proxy, 0)
    assert [json.loads(line)["body"] for line in lines(proxy)] == ["one", "two", "three"]


def test_they_give_way_to_those_that_wait(broker, make_proxy):
    """One user's misspelt exchange, and another one's next outage."""
    proxy = make_proxy(broker.url, {"spool.max_size": "24MiB"})
    refused(proxy, [b"y" * 100_000] * 250, "misspelt")
    RawClient(proxy.port).close()
    lost = len(proxy.events("upstream_lost"))
    broker.down()
    proxy.wait_event("upstream_lost", lost + 1)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for tag in range(1, 21):
            client.publish(b"order" * 10_000, "q")
            client.acked_up_to_tags({tag})
        client.close()
    assert proxy.waiting() == 20
    assert numbers(proxy) == set(range(1, 251))
    broker.up()
    proxy.wait_empty()


def fill(proxy):
    """Publishes until the spool is full, one in twenty to an exchange that is there: their bodies,
    and how many were stored."""
    sent = []
    for size, most in ((100, 100), (3_072, 100), (9_000, 40), (300_000, 4), (1_790, 10_000)):
        until = len(sent) + most
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            while len(sent) < until:
                body, known = b"%d " % len(sent) + b"x" * size, len(sent) % 20 == 19
                client.publish(body, "q", exchange="" if known else "missing")
                if client.read().name != "basic.ack":
                    break
                sent.append(body)
    return sent[19::20], len(sent)


@pytest.mark.provokes("spool_failed")
@pytest.mark.parametrize("overflow", ["file", "drop"])
def test_a_full_spool_that_is_refused(broker, make_proxy, overflow):
    """Moving a message takes room as well, and there is none: the drain goes on to its end."""
    proxy = make_proxy(broker.url, {"spool.max_size": "4MiB", "pool.rejected_overflow": overflow})
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("buffering_started")
    known, stored = fill(proxy)
    assert proxy.waiting() == stored > 300 and len(known) == stored // 20
    broker.up()
    proxy.wait_empty()
    arrived = [message.body for message in broker.messages if message.args["exchange"] == ""]
    assert list(dict.fromkeys(arrived)) == known
    if overflow == "file":
        wait_until(lambda: len(numbers(proxy)) == stored - len(known),
                   lambda: proxy.failure("all others are kept"))
    assert not proxy.events("reject_failed") + proxy.events("rejected_not_bounded")
    proxy.inspect("verify")


def publish_until_refused(proxy):
    """One in twenty to an exchange that is there: their bodies, and how many were stored."""
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for count in range(100_000):
            body, known = b"%d " % count + b"x" * 1_850, count % 20 == 19
            client.publish(body, "q", exchange="" if known else "missing")
            if client.read().name != "basic.ack":
                return [b"%d " % n + b"x" * 1_850 for n in range(19, count, 20)], count
    raise AssertionError("it takes more than there is room for")


def is_taken(proxy, body):
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(body, "q")
        return client.read().name == "basic.ack"


@pytest.mark.provokes("spool_failed")
def test_a_full_disk_that_is_refused(broker, make_proxy, tmp_path):
    """With RabbitMQ's words a message takes a page more, and the disk has none: the drain goes on to
    its end, and a discard makes room."""
    words = REASON + "." * 200
    broker.on_message = lambda connection, message: \
        connection.close_channel(message.channel, 404, words) \
        if message.args["exchange"] == "missing" else connection.ack(message)
    with SmallDisk(tmp_path / "disk", "5m") as disk:
        proxy = make_proxy(broker.url, {"spool.max_size": "16MiB"}, start=False)
        proxy.spool = proxy.options["spool.path"] = disk.path / "spool"
        proxy.start()
        RawClient(proxy.port).close()
        broker.down()
        proxy.wait_event("buffering_started")
        known, stored = publish_until_refused(proxy)
        assert stored > 500
        broker.up()
        proxy.wait_empty()
        arrived = [message.body for message in broker.messages if message.args["exchange"] == ""]
        assert arrived == known
        rejected = proxy.dump("--rejected")
        assert len(rejected) == stored - len(known)
        assert {record["rejected"]["code"] for record in rejected} == {404}
        assert {record["rejected"]["text"] for record in rejected} == {words, ""}
        proxy.inspect("verify")
        proxy.ctl("discard", "1", "--all")
        broker.down()
        proxy.wait_event("buffering_started", 2)
        wait_until(lambda: is_taken(proxy, b"again"), "what was discarded has made room")
        assert proxy.bodies() == ["again"]
        proxy.term()


@pytest.mark.provokes("rejected_not_bounded")
def test_a_file_that_cannot_be_written(broker, make_proxy):
    """They stay in the list until it can."""
    proxy = make_proxy(broker.url, {"pool.rejected_size": 2})
    file_of(proxy).mkdir()
    refused(proxy, [b"%d" % number for number in range(5)])
    assert "rejected.jsonl" in proxy.wait_event("rejected_not_bounded")["reason"]
    assert listed(proxy) == 5
    file_of(proxy).rmdir()
    wait_listed(proxy, 2)
    assert [json.loads(line)["body"] for line in lines(proxy)] == ["0", "1", "2"]


@pytest.mark.provokes("rejected_not_bounded", "spool_failed")
def test_a_commit_that_fails_and_is_on_the_disk(broker, make_proxy, tmp_path):
    """LMDB writes its old head back then, and nobody knows which one a power cut leaves."""
    disk = Disk(tmp_path, keeps_journal=True)
    proxy = make_proxy(broker.url, {"pool.rejected_size": 0}, environment=disk.environment)
    refused(proxy, [b"%d" % number for number in range(6)])
    wait_listed(proxy, 6)
    disk.become("late")
    proxy.options["pool.rejected_size"] = 2
    proxy.reload()
    proxy.wait_event("rejected_not_bounded")
    in_file = {json.loads(line)["seq"] for line in lines(proxy)}
    after_power_cut = tmp_path / "image"
    after_power_cut.mkdir(mode=0o700)
    entries = read_journal(disk.journal)
    (after_power_cut / "data.mdb").write_bytes(image(entries, len(entries), lambda: False))
    proxy.spool, there = after_power_cut, proxy.spool
    in_list = {record["seq"] for record in proxy.dump("--rejected")}
    assert in_list == {5, 6}
    assert in_list | in_file == {1, 2, 3, 4, 5, 6}
    proxy.spool = there
    disk.mend()
    wait_listed(proxy, 2)
    assert numbers(proxy) == {1, 2, 3, 4, 5, 6}
    proxy.inspect("verify")


def test_killed_between_the_file_and_the_spool(broker, make_proxy):
    """A line may come twice, and none is missing."""
    proxy = make_proxy(broker.url, {"pool.rejected_size": 0})
    refused(proxy, [b"%d" % number for number in range(6)])
    wait_listed(proxy, 6)
    proxy.options["pool.rejected_size"] = 2
    proxy.environment["AMQPBUF_TEST_CRASH_AT"] = "in_trim:1"
    proxy.term()
    proxy.start()
    proxy.wait_killed()
    assert len(lines(proxy)) == 4 and listed(proxy) == 6
    del proxy.environment["AMQPBUF_TEST_CRASH_AT"]
    proxy.start()
    wait_listed(proxy, 2)
    assert numbers(proxy) == {1, 2, 3, 4, 5, 6}
    proxy.inspect("verify")
