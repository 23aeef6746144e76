"""What publishers feel while disk space is given back: a backlog of 100,000 messages has been drained, whose
pages stand between those of another one, so that each is given back alone."""

import collections
import contextlib
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from support.ports import free_port
from support.wait import wait_until

from ways import BUILD, load, start_amqpbuf

RUNS = 100_000
ROUNDS = 10
PATIENCE_S = 0.5  # with nothing to do, it gives something back within that
PUBLISHERS = {"1 publisher, window 1": (1, 1024, 500, 1),
              "16 publishers, window 100": (16, 1024, 16_000, 100)}
SHARES = {"p50": 1, "p99": 2}  # of what `load` prints


@contextlib.contextmanager
def own_disk():
    """The machine's own; or whatever it has there."""
    with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
        yield pathlib.Path(name)


@contextlib.contextmanager
def tmpfs():
    with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-", dir="/dev/shm") as name:
        yield pathlib.Path(name)


@contextlib.contextmanager
def loop():
    """ext4 in a file."""
    with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
        image, folder = pathlib.Path(name, "image"), pathlib.Path(name, "mount")
        folder.mkdir()
        with open(image, "wb") as file:
            file.truncate(4 << 30)
        subprocess.run(["mkfs.ext4", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop,discard", image, folder], check=True)
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def file_system(folder):
    kind = subprocess.run(["findmnt", "-no", "FSTYPE,OPTIONS", "-T", folder], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.split(None, 1)
    return kind[0] + (" with discard" if "discard" in kind[1].strip().split(",") else "")


class GiveBack:
    def __init__(self, results):
        self.results = results

    def close(self):
        pass

    def give_back(self):
        places = {"": own_disk, ", on a loop device": loop, ", in memory": tmpfs}
        if os.geteuid() != 0:
            del places[", on a loop device"]
        for where, place in places.items():
            runs = []
            for _ in range(self.results.runs):
                with place() as folder:
                    title = file_system(folder) + where
                    runs.append(Spool(folder).measure())
            for publishers in PUBLISHERS:
                for share in SHARES:
                    self.results.add(f"{title}: {publishers}", f"{share} in microseconds",
                                     {when: [run[publishers, share, when] for run in runs]
                                      for when in ("meanwhile", "otherwise")}, "otherwise")


class Spool:
    """A proxy that has lost its broker, and has space to give back from its start on."""

    def __init__(self, folder):
        subprocess.run([BUILD / "bench_every_other", folder / "spool", str(RUNS)], check=True)
        self.data = folder / "spool" / "data.mdb"
        self.before = self.blocks()
        self.way = start_amqpbuf(folder, free_port(), ["spool.unverified_logins=accept",
                                                       "spool.max_size=4GiB"])

    def blocks(self):
        return self.data.stat().st_blocks

    def gives_back(self):
        before, deadline = self.blocks(), time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.blocks() >= before:
            time.sleep(0.002)
        return self.blocks() < before

    def round(self, found, when):
        for publishers, arguments in PUBLISHERS.items():
            values = load("confirms", self.way.port, *arguments)
            for share, place in SHARES.items():
                found[publishers, share, when].append(values[place])

    def measure(self):
        """{(publishers, share, when): microseconds}, medians of rounds."""
        found = collections.defaultdict(list)
        for _ in range(ROUNDS):
            self.round(found, "meanwhile")
            if not self.gives_back():
                break
        wait_until(lambda: not self.gives_back(), "all is given back", progress=self.blocks)
        for _ in range(ROUNDS):
            self.round(found, "otherwise")
        self.way.process.kill()
        self.way.process.wait()
        return {key: statistics.median(values) for key, values in found.items()}
