"""A spool that is not whole: a clear message, or what is damaged is set aside and the rest goes on."""

import json
import subprocess

import pytest

from support.proxy import BINARY, CTL, INSPECT
from support.outage import spool
from support.raw import RawClient
from support.spool import MakeSpool
from support.wait import wait_until


@pytest.fixture
def stopped(broker, make_proxy):
    """stopped(bodies): a proxy that has these in its spool, and has ended."""
    def make(bodies):
        proxy = make_proxy(broker.url)
        spool(broker, proxy, bodies)
        proxy.term()
        return proxy
    return make


def publish(proxy, body):
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(body, "q")
        client.acked_up_to(1)
        client.close()


def inspect(proxy, *arguments):
    return subprocess.run([INSPECT, "-s", proxy.spool, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, timeout=60)


@pytest.mark.provokes("record_damaged", "records_set_aside", "unbalanced")
@pytest.mark.parametrize("damaged", [[1], [3], [5], [1, 2, 5], [1, 2, 3, 4, 5]])
def test_damaged_records_are_set_aside(broker, stopped, damaged):
    bodies = [b"%d " % n + b"x" * 100 for n in range(1, 6)]
    proxy = stopped(bodies)
    spool = MakeSpool(proxy.spool)
    for seq in damaged:
        spool.damage(1, seq)
    spool.close()
    broker.up()
    proxy.start()
    whole = [body for seq, body in enumerate(bodies, 1) if seq not in damaged]
    wait_until(lambda: [m.body for m in broker.messages] == whole and
               proxy.events("records_set_aside"),
               lambda: proxy.failure("the rest is delivered"))
    publish(proxy, b"live")  # and nothing is in its way
    assert [m.body for m in broker.messages] == whole + [b"live"]
    broker.down()
    proxy.wait_event("buffering_started")
    publish(proxy, b"later")
    broker.up()
    wait_until(lambda: [m.body for m in broker.messages] == whole + [b"live", b"later"],
               lambda: proxy.failure("a later backlog is delivered too"))
    proxy.term()
    done = inspect(proxy, "verify")
    assert done.returncode == 1
    for seq in damaged:
        assert f"queue 1, message {seq}: " in done.stdout


@pytest.mark.parametrize("what, moved", [(["retry", 1], 3), (["discard", 1, "--all"], 4)])
def test_damaged_rejected_message_stops_no_sweep(stopped, what, moved):
    proxy = stopped([b"%d" % number for number in range(1, 6)])
    made = MakeSpool(proxy.spool)
    for seq in range(1, 5):
        made.reject(1, seq, 404, 1, b"NOT_FOUND")
    made.damage("r/1", 2)
    made.close()
    proxy.start()
    assert proxy.ctl(*what) == f"{moved} messages\n"
    assert proxy.waiting() == (1 + moved if what[0] == "retry" else 1)


@pytest.mark.provokes("record_damaged")
def test_a_damaged_message_is_discarded(broker, stopped):
    """It is listed, and can be exported, while the proxy is stopped; it is dropped by its number."""
    bodies = [b"%d" % number for number in range(1, 6)]
    proxy = stopped(bodies)
    made = MakeSpool(proxy.spool)
    made.damage(1, 2)
    made.close()
    assert "queue 1, message 2 is damaged: wrong checksum" in inspect(proxy, "list").stderr
    lines = inspect(proxy, "dump", "--recover").stdout.splitlines()
    assert [json.loads(line).get("damage") for line in lines] == [None, "wrong checksum"] + [None] * 3
    proxy.start()
    refused = subprocess.run([CTL, "-s", proxy.spool, "discard", "1", "3"], check=False, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert refused.returncode == 1 and "3 waits for RabbitMQ, and is whole" in refused.stderr
    assert proxy.ctl("discard", 1, 2) == "1 messages\n"
    assert inspect(proxy, "verify").returncode == 0 and proxy.waiting() == 4
    broker.up()
    wait_until(lambda: proxy.events("drain_finished"), lambda: proxy.failure("the rest goes out"))
    assert [m.body for m in broker.messages] == [b"1", b"3", b"4", b"5"]
    publish(proxy, b"live")
    assert [m.body for m in broker.messages][4:] == [b"live"]


@pytest.mark.provokes("queue_entry_damaged")
def test_a_queue_of_which_nobody_knows_whose_it_is(broker, stopped):
    """Its messages stay, and can be got out; the login goes on with a new queue."""
    bodies = [b"%d" % number for number in range(5)]
    proxy = stopped(bodies)
    made = MakeSpool(proxy.spool)
    made.spoil(1)
    made.close()
    broker.up()  # it has to prove the login again
    proxy.start()
    assert proxy.wait_event("queue_entry_damaged")["queue"] == "1"
    publish(proxy, b"live")
    broker.down()
    proxy.wait_event("buffering_started")
    publish(proxy, b"later")
    assert [(m["queue"], m["body"]) for m in proxy.dump("--queue", "2")] == [(2, "later")]
    broker.up()
    wait_until(lambda: [m.body for m in broker.messages] == [b"live", b"later"],
               lambda: proxy.failure("what is known goes on"))
    proxy.term()
    assert [m["body"].encode() for m in proxy.dump("--queue", "1")] == bodies


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_truncated_file(stopped, share):
    proxy = stopped([b"%d " % n + b"x" * 3000 for n in range(500)])
    data = proxy.spool / "data.mdb"
    pages = data.stat().st_size // 4096
    with open(data, "r+b") as file:
        file.truncate(int(pages * share) * 4096)
    done = inspect(proxy, "verify")
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "shorter than" in done.stderr
    done = subprocess.run([BINARY, "-c", proxy.folder / "proxy.ini"], cwd=proxy.folder, check=False,
                          stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "event=spool_un" in done.stderr and "shorter than" in done.stderr
