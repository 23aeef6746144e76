"""The place that the spool is in: one process at a time whatever is removed, a boot that can be told,
readers in other containers."""

import os
import pathlib
import signal
import subprocess

import pytest

import support.proxy
from support.outage import spool
from support.ports import free_port
from support.proxy import BINARY, CTL, INSPECT
from support.raw import RawClient
from support.wait import wait_until

NAMESPACES = ["unshare", "--map-root-user", "--mount"]
PROCESSES = [*NAMESPACES, "--pid", "--fork", "--mount-proc", "--kill-child"]
HIDE_BOOT = "mount --bind /dev/null /proc/sys/kernel/random/boot_id && exec \"$0\" \"$@\""


class OrdinaryUser:
    """Starts it without root's right to read everything, if the tests have that."""

    @staticmethod
    def command(program):
        return ["setpriv", "--bounding-set=-all", *program] if os.geteuid() == 0 else program

    @staticmethod
    def descriptors():
        return ()


def run(*command):
    return subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=60, check=False)


def start_hidden(proxy):
    """Starts it where the machine's boot id cannot be read; (exit status, what it wrote)."""
    proxy._write_configuration()
    proxy.log_path.touch()
    done = run(*NAMESPACES, "sh", "-c", HIDE_BOOT, BINARY, "-c", proxy.folder / "proxy.ini")
    return done.returncode, done.stderr


def test_interval_without_a_boot_id_is_refused(broker, make_proxy):
    proxy = make_proxy(broker.url, {"spool.sync": "interval", "spool.sync_interval": "10m"},
                       start=False)
    status, text = start_hidden(proxy)
    assert status == 1 and "boot_id" in text and "ProcSubset" in text


@pytest.mark.parametrize("sync", ["commit", "interval"])
def test_checkpoint_without_a_boot_id_is_left_alone(broker, make_proxy, sync):
    """A killed process has lost nothing: nobody may go back to the checkpoint who cannot tell."""
    proxy = make_proxy(broker.url, {"spool.sync": "interval", "spool.sync_interval": "10m"})
    bodies = [b"%d" % n for n in range(50)]
    spool(broker, proxy, bodies)
    proxy.kill9()
    proxy.options["spool.sync"] = sync
    status, text = start_hidden(proxy)
    assert status == 1 and "boot_id" in text
    proxy.start()
    assert not proxy.events("spool_restored")
    assert proxy.bodies() == [body.decode() for body in bodies]
    broker.up()
    proxy.wait_empty()
    assert [m.body for m in broker.messages] == bodies


def test_inspect_beside_a_proxy_whose_boot_it_cannot_tell(broker, make_proxy):
    proxy = make_proxy(broker.url, {"spool.sync": "interval", "spool.sync_interval": "10m"})
    spool(broker, proxy, [b"one"])
    command = [*NAMESPACES, "sh", "-c", HIDE_BOOT, INSPECT, "-s", proxy.spool, "list"]
    beside = run(*command)
    assert beside.returncode == 0, beside.stderr
    proxy.kill9()
    alone = run(*command)
    assert alone.returncode == 3 or alone.returncode == 1, alone
    assert "the machine went down" in alone.stderr
    proxy.start()


def test_parent_that_may_be_searched_and_not_read(broker, make_proxy, tmp_path):
    """The way into a folder that is one's own need not be."""
    parent = tmp_path / "parent"
    (parent / "spool").mkdir(parents=True)
    (parent / "spool").chmod(0o700)
    proxy = make_proxy(broker.url, {"spool.path": parent / "spool"}, start=False)
    proxy.spool = parent / "spool"
    parent.chmod(0o311)
    try:
        proxy.start(OrdinaryUser())
        spool(broker, proxy, [b"one"])
    finally:
        parent.chmod(0o700)
    assert proxy.bodies() == ["one"]


@pytest.mark.parametrize("name", ["lock", "checkpoint"])
def test_links_are_not_written_through(broker, make_proxy, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("of somebody else")
    proxy = make_proxy(broker.url, {"spool.sync": "interval"}, start=False)
    proxy.spool.mkdir(mode=0o700)
    (proxy.spool / name).symlink_to(victim)
    proxy._write_configuration()
    proxy.log_path.touch()
    refused = run(BINARY, "-c", proxy.folder / "proxy.ini")
    assert refused.returncode == 1 and "symbolic link" in refused.stderr
    assert victim.read_text() == "of somebody else"


def test_tools_look_where_the_environment_says(broker, make_proxy, tmp_path, monkeypatch):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, [b"one"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AMQPBUF_SPOOL_PATH", str(proxy.spool))
    assert "one" in run(INSPECT, "dump").stdout
    assert run(CTL, "pause", 1).returncode == 0
    monkeypatch.setenv("AMQPBUF_SPOOL_PATH", str(tmp_path))
    assert "one" in run(INSPECT, "-s", proxy.spool, "dump").stdout
    assert run(INSPECT, "dump").returncode == run(CTL, "pause", 1).returncode == 3


def test_files_removed_beside_the_proxy(broker, make_proxy):
    proxy = make_proxy(broker.url)
    spool(broker, proxy, [b"one"])
    (proxy.spool / "lock").unlink()
    second = run(BINARY, "--set", f"spool.path={proxy.spool}", "--set", f"listen.port={free_port()}",
                 "--set", "pool.publish_buffer_size=10")
    assert second.returncode == 1 and "in use by another amqpbuf" in second.stderr


def test_readers_in_other_containers(broker, make_proxy, monkeypatch, tmp_path):
    """Proxy and inspector, each process 1 of its own."""
    wrapped = tmp_path / "amqpbuf"
    wrapped.write_text(f"#!/bin/sh\nexec {' '.join(PROCESSES)} {BINARY} \"$@\"\n")
    wrapped.chmod(0o755)
    monkeypatch.setattr(support.proxy, "BINARY", wrapped)
    proxy = make_proxy(broker.url)
    spool(broker, proxy, [b"one"])
    for command in ("summary", "list", "dump", "verify"):
        done = run(*PROCESSES, INSPECT, "-s", proxy.spool, command)
        assert done.returncode == 0, (command, done)
    with subprocess.Popen([*map(str, [*PROCESSES, INSPECT, "-s", proxy.spool, "list", "-f"])],
                          stdout=subprocess.PIPE) as follower:
        assert b"one" in follower.stdout.readline() or follower.stdout.readline()
        proxy._process.kill()
        proxy._process.wait()
        proxy._process = None
        wait_until(lambda: run("flock", "-n", proxy.spool, "true").returncode == 0,
                   lambda: "the proxy of the other namespace is gone")
        proxy.start()
        assert proxy.bodies() == ["one"]
        follower.kill()
    proxy._process.kill()
    proxy._process.wait()
    proxy._process = None


def publish(client, first, count, body):
    for _ in range(count):
        client.publish(body, "q")
    client.acked_up_to_tags(set(range(first, first + count)))


READ_ONLY = ("mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && shift && "
             "exec \"$@\"")


def test_inspect_on_a_read_only_mount_beside_a_busy_proxy(broker, make_proxy):
    """LMDB locks nothing there. It is stopped in the middle of a look, and goes on when the pages
    that it was about to read are used again: that is never shown, nor called damage."""
    proxy = make_proxy(broker.url, {"spool.sync": "never"})
    count = 600
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for outage in range(1, 8):
            broker.down()
            proxy.wait_event("buffering_started", outage)
            publish(client, count * (outage - 1) + 1, count, b"x" * (200 if outage == 1 else 6000))
            if outage == 1:
                look = subprocess.Popen(
                    [*NAMESPACES, "sh", "-c", READ_ONLY, "sh", proxy.spool, INSPECT, "-s",
                     proxy.spool, "verify"], text=True, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, env=os.environ | {"AMQPBUF_TEST_STOP_AT": "in_read:2"})
                wait_until(lambda: "\nState:\tT" in pathlib.Path(
                    f"/proc/{look.pid}/status").read_text(), "it has stopped")
            if outage < 7:
                broker.up()
                proxy.wait_empty()
        look.send_signal(signal.SIGCONT)
        out, err = look.communicate(timeout=60)
        assert look.returncode == 0 and " 0 damaged" in out, (out, err)
        client.die()
