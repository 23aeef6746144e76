"""A disk that is full, fails, or is read-only: publishers are told, what was accepted stays, and
service goes on by itself once there is room."""

import subprocess

import pytest

from support.disk import Disk
from support.outage import spool
from support.proxy import INSPECT
from support.raw import RawClient
from support.small_disk import SmallDisk
from support.wait import wait_until

BODY = b"x" * 10000
pytestmark = pytest.mark.provokes("spool_failed", "sync_failed", "delete_failed")


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


@pytest.fixture
def away(broker, make_proxy, disk):
    """away(options): a proxy that has lost its broker, its spool on that disk."""
    def make(options=None):
        proxy = make_proxy(broker.url, options, environment=disk.environment)
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.close()
        broker.down()
        proxy.wait_event("buffering_started")
        return proxy
    return make


def publish_until_refused(proxy):
    """Bodies that were acked, in order, and the text of the refusal."""
    acked = []
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        while True:
            body = b"%d " % len(acked) + BODY
            client.publish(body, "q")
            answer = client.read()
            if answer.name != "basic.ack":
                assert answer.name == "connection.close", answer
                assert answer.args["reply_code"] == 506
                return acked, answer.args["reply_text"]
            acked.append(body)


def goes_on(proxy):
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"again", "q")
        return client.read().name == "basic.ack"


@pytest.mark.parametrize("fault, sync", [
    ("full", "commit"), ("sync", "commit"), ("readonly", "commit"),
    ("full", "interval"), ("sync", "interval")])
def test_accepted_messages_stay_and_service_resumes(broker, away, disk, fault, sync):
    proxy = away({"spool.sync": sync, "spool.sync_interval": "20ms"})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number in range(20):
            client.publish(b"before %d" % number, "q")
        client.acked_up_to(20)
        client.close()
    disk.become(fault)
    acked, text = publish_until_refused(proxy)
    assert "room" in text or "cannot take it" in text
    if sync == "commit":
        assert bool(acked) == (fault == "full")  # what was claimed ahead, and nothing else
    disk.mend()
    wait_until(lambda: goes_on(proxy), lambda: proxy.failure("service resumes"))
    proxy.inspect("verify")
    proxy.crash_and_start()
    broker.up()
    proxy.wait_empty()
    arrived = list(dict.fromkeys(message.body for message in broker.messages))
    assert arrived == [b"before %d" % n for n in range(20)] + acked + [b"again"]


def test_drain_on_a_full_disk(broker, away, disk):
    """Deletions need pages too, and have them."""
    proxy = away()
    disk.become("full")
    acked, _ = publish_until_refused(proxy)
    assert len(acked) > 50
    broker.up()
    proxy.wait_empty()
    assert [message.body for message in broker.messages] == acked
    assert proxy.events("delete_failed") == []


def test_confirmed_and_not_deleted_is_not_sent_again(broker, make_proxy, disk):
    """One of many is confirmed and cannot be deleted; then RabbitMQ closes the channel over one of
    the others. What goes out again are those alone, and what waits is counted right."""
    proxy = make_proxy(broker.url, environment=disk.environment)
    bodies = [b"%d" % number for number in range(20)]
    spool(broker, proxy, bodies)
    broker.acks = False
    broker.up()
    broker.wait_messages(len(bodies))
    drain = broker.connections[-1]
    disk.become("sync")
    drain.send_method(1, "basic.ack", delivery_tag=3)
    proxy.wait_event("delete_failed")
    broker.acks = True
    disk.mend()
    drain.send_method(1, "channel.close", reply_code=541, reply_text="INTERNAL_ERROR - scripted")
    proxy.wait_event("drain_finished")
    again = bodies[:2] + bodies[3:]
    assert broker.wait_messages(2 * len(bodies) - 1) == bodies + again
    assert proxy.waiting() == 0 and proxy.dump("--rejected") == []


@pytest.mark.tick_wakes("room in the spool is looked for by the tick")
def test_overflow_block_holds_publishers_until_there_is_room(broker, away, disk):
    proxy = away({"spool.overflow": "block"})
    disk.become("readonly")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"found out", "q")  # accepted before anybody knew: refused
        client.expect_close(506)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"held", "q")
        blocked = client.expect("connection.blocked", 0)
        assert "room" in blocked.args["reason"]
        disk.mend()
        client.expect("connection.unblocked", 0)
        client.acked_up_to(1)
        client.close()
    assert proxy.bodies() == ["held"]


def test_overflow_reject_nacks(broker, away, disk):
    proxy = away({"spool.overflow": "reject"})
    disk.become("sync")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number in range(3):
            client.publish(b"%d" % number, "q")
            assert client.expect("basic.nack").args["delivery_tag"] == number + 1
        disk.mend()

        def is_taken():
            client.publish(b"taken", "q")
            return client.read().name == "basic.ack"
        wait_until(is_taken, "it is taken again")
        client.close()
    assert proxy.bodies() == ["taken"]


def test_live_publishing_does_not_mind(broker, make_proxy, disk):
    proxy = make_proxy(broker.url, environment=disk.environment)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        disk.become("readonly")
        client.publish(b"live", "q")
        client.acked_up_to(1)
        client.close()
    disk.mend()
    assert [message.body for message in broker.messages] == [b"live"]


@pytest.mark.provokes("login_not_stored")
def test_a_nack_that_nobody_hears_while_the_disk_takes_nothing(broker, make_proxy, disk):
    """Not even its login is stored: a close-ok would say that the message is safe (P1)."""
    proxy = make_proxy(broker.url, environment=disk.environment)
    disk.become("readonly")
    broker.on_message = lambda connection, message: connection.nack(message)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"nacked", "q")
        client.send_method(1, "channel.close", reply_code=200, reply_text="bye")
        close = client.expect("connection.close")
        assert close.args["reply_code"] == 506 and "nacked" in close.args["reply_text"]
    disk.mend()


@pytest.mark.parametrize("sync", ["never", "interval"])
def test_disk_space_goes_back_after_a_backlog(broker, make_proxy, sync):
    proxy = make_proxy(broker.url, {"spool.sync": sync})
    body, count = b"x" * 1_000_000, 150
    data = proxy.spool / "data.mdb"
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        for tag in range(1, count + 1):
            client.publish(body, "q")
            client.acked_up_to_tags({tag})
        client.close()
    full = data.stat().st_blocks * 512
    assert full > count * len(body)
    broker.up()
    proxy.wait_empty()
    wait_until(lambda: data.stat().st_blocks * 512 < full / 5,
               lambda: f"blocks go back, {data.stat().st_blocks * 512} of {full} are left")
    broker.down()  # and all of it can be used again
    proxy.wait_event("buffering_started", 2)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for tag in range(1, 31):
            client.publish(body, "q")
            client.acked_up_to_tags({tag})
        client.close()
    proxy.inspect("verify")
    proxy.crash_and_start()
    assert proxy.waiting() == 30
    broker.up()
    proxy.wait_empty()


def fill(path):
    with open(path, "ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))


@pytest.mark.provokes("spool_unusable")
def test_a_start_that_has_no_room_for_lmdbs_lock(broker, make_proxy, tmp_path):
    """LMDB maps it and writes there: the reason is said, and what waits is left as it is."""
    with SmallDisk(tmp_path / "disk", "16m") as disk:
        proxy = make_proxy(broker.url, {"spool.path": disk.path / "spool"}, start=False)
        proxy.spool = disk.path / "spool"
        proxy.start()
        spool(broker, proxy, [BODY] * 20)
        proxy.term()
        (proxy.spool / "lock.mdb").unlink()
        fill(disk.path / "fill")
        proxy.begin()
        assert proxy.wait_status() == 1
        assert "lock.mdb: No space left" in proxy.wait_event("spool_unusable")["reason"]
        beside = subprocess.run([INSPECT, "-s", proxy.spool, "verify"], capture_output=True, text=True,
                                check=False)
        assert beside.returncode == 0, beside.stderr
        (disk.path / "fill").unlink()
        proxy.start()
        broker.up()
        proxy.wait_empty()
        assert len(broker.messages) == 20
        proxy.term()
