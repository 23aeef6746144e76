"""What stands between publishers and broker, and the publishers."""

import os
import pathlib
import shutil
import subprocess

from support.http import Admin
from support.ports import free_port
from support.process import spawn
from support.raw import RawClient
from support.wait import wait_until

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build"
TICK = os.sysconf("SC_CLK_TCK")


def accepts(port):
    try:
        RawClient(port).close()
        return True
    except OSError:
        return False


class Way:
    """What stands between publishers and broker; `process` is None for nothing."""

    def __init__(self, name, port, process=None):
        self.name, self.port, self.process = name, port, process
        self.files_each = 1  # descriptors for each client
        wait_until(lambda: accepts(port), f"{name} accepts")

    def cpu_seconds(self):
        if not self.process:
            return 0.0
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def resident_kib(self, what="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split(f"{what}:")[1].split()[0])

    def metric(self, name):
        """Of amqpbuf: the sum over its labels."""
        return sum(value for series, value in Admin(self.admin_port).metrics().items()
                   if series.split("{")[0] == name)


def start_amqpbuf(folder, broker_port, sets=()):
    port, admin_port = free_port(), free_port()
    process = spawn([str(BUILD / "amqpbuf"), "--set", f"listen.port={port}",
                     "--set", f"admin.port={admin_port}",
                     "--set", f"upstream.url=amqp://127.0.0.1:{broker_port}",
                     "--set", f"spool.path={folder}/spool", "--set", "listen.max_connections=20000",
                     "--set", "pool.publish_buffer_size=1000000",
                     *(word for pair in sets for word in ("--set", pair))],
                    stderr=open(folder / "log", "ab"))
    way = Way("amqpbuf", port, process)
    way.admin_port = admin_port
    return way


def start_haproxy(folder, broker_port):
    port = free_port()
    (folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 9000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen amqp
  bind 127.0.0.1:{port}
  server broker 127.0.0.1:{broker_port}
""")
    process = spawn([shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-f",
                     str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    way = Way("HAProxy", port, process)
    way.files_each = 2
    return way


def start_broker(port):
    """One that keeps nothing."""
    return spawn([str(BUILD / "bench_fake_broker"), str(port)])


def run(program, *arguments, login="guest guest /", transient=False):
    """The numbers that a program of the benchmark prints."""
    done = subprocess.run([str(BUILD / f"bench_{program}"), *map(str, arguments)], check=True,
                          stdout=subprocess.PIPE, timeout=1200,
                          env=os.environ | {"BENCH_LOGIN": login}
                          | ({"BENCH_TRANSIENT": "1"} if transient else {}))
    return [float(word) for word in done.stdout.split()]


def load(*arguments, **options):
    return run("load", *arguments, **options)
