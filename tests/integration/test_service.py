"""What the service manager hears."""

import os
import signal
import socket

import pytest

from support.raw import RawClient


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
