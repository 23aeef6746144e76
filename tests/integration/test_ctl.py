"""amqpbuf-ctl: what a person changes in a running amqpbuf."""

import contextlib
import os
import select
import socket
import stat
import subprocess

import pytest

from support import amqp
from support.disk import Disk
from support.proxy import CTL
from support.raw import RawClient
from support.wait import wait_until


def run(*arguments):
    done = subprocess.run([str(CTL), *map(str, arguments)], stdin=subprocess.DEVNULL, timeout=30,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Refusing:
    """Makes a scripted broker refuse these bodies until it is told otherwise."""

    def __init__(self, broker, *bodies):
        self.bodies = set(bodies)
        broker.on_frame = self

    def __call__(self, connection, frame):
        if frame.type != amqp.BODY or frame.payload not in self.bodies:
            return False
        connection.send_method(frame.channel, "channel.close", reply_code=404,
                               reply_text="NOT_FOUND - scripted", class_id=60, method_id=40)
        connection._partial.clear()
        return True


def spool(broker, proxy, *bodies):
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        for body in bodies:
            client.publish(body, "q")
        client.acked_up_to(len(bodies))
        client.close()


@pytest.fixture
def rejecting(broker, make_proxy):
    """(proxy, broker, refusing): of m0 to m9 the even ones were refused. m4 is long."""
    proxy = make_proxy(broker.url)
    bodies = [b"m%d" % n for n in range(10)]
    bodies[4] = b"m4" + b"x" * 50000
    spool(broker, proxy, *bodies)
    refusing = Refusing(broker, *bodies[::2])
    broker.up()
    proxy.wait_event("drain_finished")
    assert len(proxy.dump("--rejected")) == 5
    assert {refusal["reason"] for refusal in proxy.events("drain_refused")} == \
        {"NOT_FOUND - scripted"}
    return proxy, broker, refusing


def test_list_shows_the_rejected(rejecting):
    proxy, _, _ = rejecting
    assert proxy.ctl("list").count("scripted") == 5
    assert proxy.ctl("list", 1, "--json").count('"seq"') == 5


def test_retry_one(rejecting):
    proxy, broker, refusing = rejecting
    refusing.bodies.clear()
    assert proxy.ctl("retry", 1, 5) == "1 messages\n"
    proxy.wait_empty()
    assert broker.messages[-1].body == b"m4" + b"x" * 50000
    assert [record["seq"] for record in proxy.dump("--rejected")] == [1, 3, 7, 9]
    proxy.wait_empty()
    proxy.inspect("verify")


def test_retry_all(rejecting):
    proxy, broker, refusing = rejecting
    refusing.bodies.clear()
    assert proxy.ctl("retry", 1) == "5 messages\n"
    proxy.wait_empty()
    assert [message.body[:2] for message in broker.messages[-5:]] == \
        [b"m0", b"m2", b"m4", b"m6", b"m8"]
    assert proxy.dump("--rejected") == []
    proxy.wait_empty()
    proxy.inspect("verify")


def test_retry_with_nobody_connected(rejecting):
    proxy, broker, refusing = rejecting
    refusing.bodies.clear()
    proxy.restart()  # nothing waits and nobody comes: no connection to RabbitMQ
    assert proxy.ctl("retry", 1) == "5 messages\n"
    proxy.wait_empty()
    assert broker.messages[-1].body == b"m8"


def test_retried_and_refused_again(rejecting):
    proxy, _, _ = rejecting
    assert proxy.ctl("retry", 1) == "5 messages\n"
    wait_until(lambda: len(proxy.dump("--rejected")) == 5 and proxy.waiting() == 0,
               "they are rejected again, and that is the end of it")
    proxy.inspect("verify")


def test_retry_takes_no_more_than_there_is_room_for(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 4})
    spool(broker, proxy, *[b"%d" % n for n in range(4)])
    refusing = Refusing(broker, *[b"%d" % n for n in range(4)])
    broker.up()
    proxy.wait_event("drain_finished")
    spool(broker, proxy, b"new", b"newer")
    status, out, err = run("-s", proxy.spool, "retry", 1)
    assert (status, out) == (1, "") and "full" in err and "2 messages before" in err
    assert proxy.bodies() == ["new", "newer", "0", "1"]
    assert [record["body"] for record in proxy.dump("--rejected")] == ["2", "3"]
    refusing.bodies.clear()
    broker.up()
    broker.wait_messages(4)


def test_discard(rejecting):
    proxy, _, _ = rejecting
    assert proxy.ctl("discard", 1, 5) == "1 messages\n"
    assert [record["seq"] for record in proxy.dump("--rejected")] == [1, 3, 7, 9]
    assert proxy.ctl("discard", 1, "--all") == "4 messages\n"
    assert proxy.dump("--rejected") == []
    assert proxy.ctl("discard", 1, "--all") == "0 messages\n"
    proxy.crash_and_start()
    assert proxy.dump("--rejected") == []
    proxy.inspect("verify")


def post(proxy, path, body=""):
    """To the control socket, without amqpbuf-ctl: the status."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(proxy.spool / "control.sock"))
        control.sendall(f"POST {path} HTTP/1.1\r\nHost: amqpbuf\r\nContent-Length: {len(body)}\r\n"
                        f"Connection: close\r\n\r\n{body}".encode())
        return int(control.makefile("rb").readline().split()[1])


BAD_PARAMETERS = ("?seq", "?seq=", "?seq=0", "?seq=+5", "?seq=5x", "?seq=5%00", "?seq=18446744073709551621",
                  "?seq=5&seq=7", "?seq=5&seq", "?seq=5&all=1", "?SEQ=5", "?sequence=5", "?all", "?all=",
                  "?all=0", "?all=yes", "?5")


def test_discard_of_all_has_to_be_said(rejecting):
    """A message's number that was left out takes nothing away."""
    proxy, _, _ = rejecting
    for parameters in ("", *BAD_PARAMETERS):
        assert post(proxy, "/queues/1/discard" + parameters) == 400, parameters
    assert len(proxy.dump("--rejected")) == 5
    assert post(proxy, "/queues/1/discard?all=1") == 200
    assert proxy.dump("--rejected") == []


def test_a_message_that_is_not_said_well_is_not_all_of_them(rejecting):
    proxy, _, _ = rejecting
    for parameters in (*BAD_PARAMETERS, "?all=1"):
        assert post(proxy, "/queues/1/retry" + parameters) == 400, parameters
    assert post(proxy, "/queues/1/retry", body="seq=5") == 400
    for parameters in ("?seq=5", "?all=1", "?seq"):
        assert post(proxy, "/queues/1/pause" + parameters) == 400, parameters
    assert len(proxy.dump("--rejected")) == 5 and not proxy.events("drain_paused")
    assert post(proxy, "/queues/1/discard?seq=5") == 200
    assert [record["seq"] for record in proxy.dump("--rejected")] == [1, 3, 7, 9]


def test_pause_and_resume(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, *[b"%d" % n for n in range(10)])
    assert proxy.ctl("pause", 1) == "paused\n"
    broker.up()
    proxy.wait_event("upstream_connected", 2)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"behind", "q")
        client.acked_up_to(1)  # from the spool: it may not overtake
        assert proxy.waiting() == 11 and broker.messages == []
        assert proxy.ctl("resume", 1) == "resumed\n"
        assert broker.wait_messages(11) == [b"%d" % n for n in range(10)] + [b"behind"]
        client.close()
    proxy.wait_empty()


def test_pause_in_the_middle_of_a_drain(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.window": 10, "drain.window": 10})
    spool(broker, proxy, *[b"%d" % n for n in range(100)])
    broker.acks = False
    broker.up()
    broker.wait_messages(10)
    proxy.ctl("pause", 1)
    broker.connections[-1].send_method(1, "basic.ack", delivery_tag=10, multiple=True)
    proxy.wait_event("drain_stopped")
    assert len(broker.messages) == 10 and proxy.waiting() == 90
    broker.acks = True
    proxy.ctl("resume", 1)
    assert broker.wait_messages(100) == [b"%d" % n for n in range(100)]  # none of them twice


@pytest.mark.parametrize("arguments, words", [
    (["retry", 1, 999], "no such rejected message"),
    (["retry", 99], "no such queue"),
    (["discard", 1, 2], "no such rejected message"),
    (["pause", 99], "no such queue"),
])
def test_what_is_not_there(rejecting, arguments, words):
    proxy, _, _ = rejecting
    status, out, err = run("-s", proxy.spool, *arguments)
    assert (status, out) == (1, "") and words in err


@pytest.mark.parametrize("arguments", [
    [], ["explode"], ["retry"], ["retry", "first"], ["retry", 0], ["retry", 1, "x"],
    ["retry", 1, 2, 3], ["discard", 1], ["discard", 1, 2, "--all"], ["pause", 1, 2],
    ["pause", 1, "--json"], ["retry", 1, "--all"], ["--unknown"], ["-t", 0, "pause", 1],
    ["-t", "soon", "pause", 1], ["--timeout", 86401, "pause", 1],
])
def test_wrong_usage(arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "") and "usage:" in err


def test_no_proxy_there(tmp_path):
    status, out, err = run("-s", tmp_path, "retry", 1)
    assert (status, out) == (3, "") and str(tmp_path) in err


def test_who_says_nothing_does_not_keep_the_socket(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, b"one")
    idle = [socket.socket(socket.AF_UNIX) for _ in range(64)]
    for one, connection in enumerate(idle):
        connection.connect(str(proxy.spool / "control.sock"))
        connection.sendall(b"POST /queues/1/pause HTTP/1.1\r\n"[:one % 20])  # or half a request
    assert run("-s", proxy.spool, "pause", 1)[0] == 0
    for connection in idle:
        connection.close()


@pytest.mark.provokes("spool_stalled")
def test_a_command_that_is_under_way_has_its_time(broker, make_proxy, tmp_path):
    """And who came behind it and says nothing is cut off all the same."""
    disk = Disk(tmp_path)
    proxy = make_proxy(broker.url, environment=disk.environment)
    spool(broker, proxy, b"refused")
    Refusing(broker, b"refused")
    broker.up()
    proxy.wait_event("drain_finished")
    path = str(proxy.spool / "control.sock")
    disk.become("hang")
    with socket.socket(socket.AF_UNIX) as asking, socket.socket(socket.AF_UNIX) as idle:
        for connection in (asking, idle):
            connection.settimeout(60)
            connection.connect(path)
            connection.sendall(b"POST /queues/1/discard?all=1 HTTP/1.1\r\nHost: amqpbuf\r\n")
        asking.sendall(b"\r\n")
        assert idle.recv(1) == b""
        disk.mend()
        assert asking.recv(12) == b"HTTP/1.1 200"


def test_no_answer_is_said_before_it_has_come(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with proxy.suspended():
        asking = subprocess.Popen([str(CTL), "-s", str(proxy.spool), "pause", "1"],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True)
        selected, _, _ = select.select([asking.stderr], [], [], 30)
        assert selected and "does not answer" in asking.stderr.readline()
    out, err = asking.communicate(timeout=60)
    assert (asking.returncode, out, err) == (1, "", "amqpbuf-ctl: there is no such queue\n")


def test_a_crowd_before_a_stopped_proxy(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with proxy.suspended(), contextlib.ExitStack() as crowd:
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = crowd.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(proxy.spool / "control.sock"))
        status, out, err = run("-s", proxy.spool, "pause", 1)
        assert (status, out) == (3, "") and "stands still" in err


def test_output_that_cannot_be_written(rejecting):
    proxy, _, _ = rejecting
    with open("/dev/full", "wb") as full:
        for arguments in (["--help"], ["-s", proxy.spool, "discard", "1", "--all"]):
            done = subprocess.run([str(CTL), *arguments], stdin=subprocess.DEVNULL, stdout=full,
                                  stderr=subprocess.PIPE, timeout=30, check=False)
            assert done.returncode == 1 and b"No space left" in done.stderr


def test_no_answer_is_not_waited_for(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with proxy.suspended():
        status, out, err = run("-s", proxy.spool, "-t", 1, "pause", 1)
    assert (status, out) == (3, "") and "no answer within 1 s" in err


def test_socket_is_for_its_own_user_and_goes_with_the_proxy(broker, make_proxy):
    proxy = make_proxy(broker.url, start=False)
    before = os.umask(0)  # which it inherits
    proxy.start()
    os.umask(before)
    path = proxy.spool / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    proxy.crash_and_start()  # the old one is in the way
    assert proxy.ctl("list") is not None
    idle = socket.socket(socket.AF_UNIX)
    idle.connect(str(path))  # who says nothing holds nobody up
    proxy.term()
    assert not path.exists()
    idle.close()
