"""What the service manager hears."""

import os
import signal
import socket
import threading
import time

import pytest

from support import names
from support.disk import DOUBT
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until


@pytest.fixture
def manager(tmp_path):
    """(its socket, the environment that names it)"""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        heard.settimeout(60)
        yield heard, {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "900000"}


def hear(manager, word):
    """The next message that has this word, and what came before it."""
    before = []
    while word not in (message := manager.recv(4096).decode()):
        before.append(message)
    return before


def test_ready_alive_reloading_and_stopping(broker, make_proxy, manager):
    manager, environment = manager
    proxy = make_proxy(broker.url, environment=environment)
    assert hear(manager, "READY=1") == []
    with RawClient(proxy.port) as client:  # it serves by now
        client.close()
    hear(manager, "WATCHDOG=1")
    hear(manager, "WATCHDOG=1")
    os.kill(proxy.pid, signal.SIGHUP)
    hear(manager, "RELOADING=1")
    hear(manager, "READY=1")
    proxy.term()
    hear(manager, "STOPPING=1")


def test_an_end_that_takes_long_is_waited_for(broker, make_proxy, manager):
    """Its own time is for all that stop: a unit's TimeoutStopSec= would kill it before."""
    manager, environment = manager
    proxy = make_proxy(broker.url, {"listen.shutdown_timeout": "24h"}, environment=environment)
    hear(manager, "READY=1")
    proxy.signal_term()
    while "STOPPING=1" not in (lines := manager.recv(4096).decode().split("\n")):
        pass
    asked = dict(line.split("=") for line in lines)
    assert int(asked["EXTEND_TIMEOUT_USEC"]) > 24 * 3600 * 1000000
    proxy.wait_end()


class SlowFile:
    """Its configuration comes through a pipe, when the test writes it."""

    def __init__(self, path):
        self.path = path
        os.mkfifo(path)

    def command(self, command):
        return [*command[:-1], str(self.path)]

    def descriptors(self):
        return ()


@pytest.fixture
def reading(broker, make_proxy, tmp_path):
    """A proxy that reads its configuration, and the writing end of that."""
    proxy = make_proxy(broker.url, start=False)
    slow = SlowFile(tmp_path / "proxy.ini")
    proxy.begin(slow)
    with open(slow.path, "w", encoding="utf-8") as end:  # waits for its reader
        yield proxy, slow.path, end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_reads_its_files(reading, number):
    """Process 1 of a container is ended by no signal that it has no handler for."""
    proxy, _, _ = reading
    os.kill(proxy.pid, number)
    assert proxy.wait_status() == 0


def test_a_reload_while_it_reads_its_files(reading):
    """What it has read may be what has changed since."""
    proxy, path, end = reading
    text = (proxy.folder / "proxy.ini").read_text()
    path.unlink()
    path.write_text(text)
    os.kill(proxy.pid, signal.SIGHUP)
    end.write(text)
    end.close()
    proxy.wait_event("reloaded")


def test_many_reloads_are_one_and_put_off_no_end(broker, make_proxy):
    """amqps: each reads the system's CAs."""
    proxy = make_proxy(f"{broker.url},amqps://127.0.0.1:1")
    for _ in range(1000):
        os.kill(proxy.pid, signal.SIGHUP)
        time.sleep(0.0005)  # else the kernel makes one of them
    proxy.wait_event("reloaded")
    proxy.term()
    assert len(proxy.events("reloaded")) < 500


def test_a_reload_does_not_move_the_end(broker, make_proxy):
    proxy, client = unanswered(broker, make_proxy, "2s")
    proxy.signal_term()
    proxy.wait_event("stopping")
    proxy.options["listen.shutdown_timeout"] = "24h"
    proxy._write_configuration()
    os.kill(proxy.pid, signal.SIGHUP)
    client.acked_up_to(5)
    client.expect_close(320)
    proxy.wait_end(20)
    assert proxy.events("reloaded") == []


@pytest.mark.provokes("reload_failed", "config_mistake")
def test_a_file_that_is_being_written_changes_nothing(broker, make_proxy):
    """Emptied, not filled yet: its defaults would turn buffering off."""
    proxy = make_proxy(broker.url)
    (proxy.folder / "proxy.ini").write_text("")
    os.kill(proxy.pid, signal.SIGHUP)
    proxy.wait_event("reload_failed")
    assert "sets nothing any more" in proxy.wait_event("config_mistake")["reason"]
    (proxy.folder / "proxy.ini").write_text("[listen]\nport = x\nprot = 1\n")
    os.kill(proxy.pid, signal.SIGHUP)
    proxy.wait_event("reload_failed", 2)
    assert len(proxy.events("config_mistake")) == 3
    assert proxy.events("reloaded") == [] and proxy.events("reload_ignored") == []


def unanswered(broker, make_proxy, timeout):
    """RabbitMQ has five publishes and confirms none: SIGTERM has something to wait for."""
    proxy = make_proxy(broker.url, {"listen.shutdown_timeout": timeout})
    broker.acks = False
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    for number in range(5):
        client.publish(b"%d" % number, "q")
    broker.wait_messages(5)
    return proxy, client


def test_sigterm_waits_no_longer_than_its_timeout(broker, make_proxy):
    """What nobody has confirmed by then is in the spool, and answered from there."""
    proxy, client = unanswered(broker, make_proxy, "200ms")
    os.kill(proxy.pid, signal.SIGTERM)
    client.acked_up_to(5)
    client.expect_close(320)
    proxy.wait_end()
    assert proxy.bodies() == ["0", "1", "2", "3", "4"]
    proxy.start()


def test_second_sigterm_is_at_once(broker, make_proxy):
    proxy, _ = unanswered(broker, make_proxy, "24h")
    os.kill(proxy.pid, signal.SIGTERM)
    proxy.wait_event("stopping")
    assert proxy.is_running()
    os.kill(proxy.pid, signal.SIGTERM)
    proxy.wait_end()
    proxy.start()


@pytest.fixture
def standing_still(broker):
    """RabbitMQ answers no goodbye, and amqpbuf would give it an hour for that."""
    goes_on = threading.Event()
    broker.on_frame = lambda _, frame: frame.name == "connection.close" and goes_on.wait(600)
    yield {"AMQPBUF_TEST_LEAVE_MS": "3600000"}
    goes_on.set()


def stopping(proxy):
    """A client whose publish is confirmed, and which then reads nothing; SIGTERM has come."""
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.publish(b"one", "q")
    client.acked_up_to(1)
    proxy.signal_term()
    proxy.wait_event("stopping")
    return client


@pytest.mark.parametrize("last", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_further_signals_change_nothing_about_the_end(broker, make_proxy, standing_still, last):
    proxy = make_proxy(broker.url, {"listen.shutdown_timeout": "24h"}, environment=standing_still)
    with stopping(proxy):
        for number in (signal.SIGTERM, last, last):
            os.kill(proxy.pid, number)
        proxy.wait_end()


def test_nobody_waits_for_a_rabbitmq_that_stands_still(broker, make_proxy, standing_still):
    proxy = make_proxy(broker.url, {"listen.shutdown_timeout": "1s"}, environment=standing_still)
    with stopping(proxy) as client:
        proxy.wait_end()
        client.expect_close(320)


def test_a_second_sigterm_waits_for_nobody(broker, make_proxy, standing_still):
    proxy = make_proxy(broker.url, {"listen.shutdown_timeout": "24h"}, environment=standing_still)
    with stopping(proxy):
        proxy.signal_term()
        proxy.wait_end()


def test_nobody_waits_for_a_name(make_proxy):
    """The DNS is away, for an hour."""
    proxy = make_proxy("amqp://shop:a@broker.test:5672", {"listen.shutdown_timeout": "1s"},
                       environment=names.hanging("broker.test"))
    proxy.term()


def test_a_start_that_writes_all_again_is_waited_for(broker, make_proxy, manager):
    """A process that was killed in a sync did not hear how it ended."""
    manager, environment = manager
    proxy = make_proxy(broker.url, {"spool.sync": "interval"}, environment=environment)
    spool(broker, proxy, [b"x" * 60000] * 50)
    hear(manager, "READY=1")
    proxy.kill9()
    with open(proxy.spool / "checkpoint", "r+b") as checkpoint:
        checkpoint.seek(DOUBT)
        checkpoint.write(b"\1")
    proxy.start()
    assert any("EXTEND_TIMEOUT_USEC=" in message for message in hear(manager, "READY=1"))
    assert int(proxy.wait_event("sync_doubted")["bytes"]) > 50 * 60000
    proxy.restart()
    assert not proxy.events("sync_doubted")


def test_a_wait_that_a_reload_shortens_is_over_sooner(broker, make_proxy):
    """What has begun to wait by the old settings goes on by the new ones."""
    proxy = make_proxy(broker.url, {"upstream.reconnect_min": "1h", "upstream.reconnect_max": "1h",
                                    "pool.cleanup_interval": "24h", "pool.idle_timeout": "24h"})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("retry_scheduled")
        client.publish(b"waits", "q")
        client.acked_up_to(1)
        broker.up()
        proxy.options.update({"upstream.reconnect_min": "20ms", "upstream.reconnect_max": "100ms"})
        proxy.reload()
        assert broker.wait_messages(1) == [b"waits"]
        client.close()
    proxy.options.update({"pool.cleanup_interval": "50ms", "pool.idle_timeout": "100ms"})
    proxy.reload()
    wait_until(lambda: not any(connection.is_open for connection in broker.connections),
               "the idle connection is closed")
