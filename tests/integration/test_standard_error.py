"""Where the log goes may be closed, or read by nobody: amqpbuf serves all the same, and ends."""

import contextlib
import os
import subprocess

import pytest

from support.proxy import INSPECT
from support.raw import RawClient
from support.wait import wait_until


class Shell:
    """What stands between: amqpbuf starts with these redirections."""

    def __init__(self, redirections, *descriptors, before="true"):
        self.redirections, self.before, self._descriptors = redirections, before, descriptors

    def command(self, command):
        return ["bash", "-c", f'{self.before}; exec "$@" {self.redirections}', "amqpbuf", *command]

    def descriptors(self):
        return self._descriptors


def start(proxy, shell):
    """It cannot say that it listens."""
    proxy.begin(shell)
    wait_until(lambda: serves(proxy), "it serves")


def serves(proxy):
    assert proxy.is_running()
    with contextlib.suppress(OSError), RawClient(proxy.port) as client:
        client.close()
        return True
    return False


def publish_offline(broker, proxy):
    broker.down()
    for number in range(20):
        with RawClient(proxy.port) as client:
            client.open_channel()
            client.publish(b"%d" % number, "q")
            client.close()


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed(broker, make_proxy, closed):
    proxy = make_proxy(broker.url, start=False)
    start(proxy, Shell(closed))
    publish_offline(broker, proxy)
    proxy.term()
    assert proxy.bodies() == [str(number) for number in range(20)]
    proxy.inspect("verify")


def test_closed_output_is_no_file_of_the_spool(broker, make_proxy):
    proxy = make_proxy(broker.url)
    RawClient(proxy.port).close()  # the login has to be known
    publish_offline(broker, proxy)
    proxy.term()
    before = (proxy.spool / "data.mdb").read_bytes()
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        for command in ("dump", "show 1 99"):
            subprocess.run(["bash", "-c", f"exec {INSPECT} -s {proxy.spool} {command} {closed}"],
                           stdout=subprocess.DEVNULL, check=False, timeout=60)
    assert (proxy.spool / "data.mdb").read_bytes() == before
    proxy.inspect("verify")


def test_a_pipe_that_nobody_reads(broker, make_proxy):
    proxy = make_proxy(broker.url, start=False)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, b"x" * 4096):
            pass
    os.set_blocking(writing, True)  # as amqpbuf inherits it
    start(proxy, Shell(f"2>&{writing}", writing))
    publish_offline(broker, proxy)
    proxy.term()
    os.close(writing)
    os.close(reading)
    assert proxy.bodies() == [str(number) for number in range(20)]


def test_a_file_that_may_not_grow(broker, make_proxy, tmp_path):
    """1 KiB for the log, and no spool. The limit's signal would end amqpbuf."""
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 0}, start=False)
    log = tmp_path / "log"
    start(proxy, Shell(f"2>{log}", before="ulimit -f 1"))
    while log.stat().st_size < 1024:
        RawClient(proxy.port).close()
    for _ in range(10):
        RawClient(proxy.port).close()
    proxy.term()
    assert log.stat().st_size == 1024
