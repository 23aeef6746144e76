"""Into the spool without a broker, then out of it into one that keeps nothing; beside LMDB alone."""

import pathlib
import tempfile
import time

from support.ports import free_port
from support.wait import wait_until

from ways import load, run, start_amqpbuf, start_broker

# Of a record beside the body: its head, method and content header (docs/spool-format.md).
RECORD_OVERHEAD = 80


def fields_of(line):
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def wait_drained(folder, count=1):
    """The drain's own account of itself, from the log."""
    def lines():
        return [line for line in (folder / "log").read_text().splitlines()
                if "event=drain_finished" in line]
    wait_until(lambda: len(lines()) >= count, "the drain", 1200)
    return fields_of(lines()[-1])


class Disk:
    def __init__(self, results):
        self.results = results

    def close(self):
        pass

    def spool(self):
        appended, alone, single, commit, drained = [], [], [], [], []
        for _ in range(self.results.runs):
            with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
                folder, port = pathlib.Path(name), free_port()
                way = start_amqpbuf(folder, port, ["spool.unverified_logins=accept"])
                commits = way.metric("amqpbuf_spool_commit_seconds_count")
                appended.append(load("confirms", way.port, 16, 1024, 480_000, 100)[0])
                batch = 480_000 / (way.metric("amqpbuf_spool_commit_seconds_count") - commits)
                single.append(load("confirms", way.port, 1, 1024, 2000, 1)[1])
                broker = start_broker(port)
                fields = wait_drained(folder)
                drained.append(int(fields["drained"]) * 1000 / int(fields["ms"]))
                way.process.kill()
                broker.kill()
                size = 1024 + RECORD_OVERHEAD
                (folder / "lmdb").mkdir()
                alone += run("lmdb_limit", "append", folder / "lmdb", size, 480_000, round(batch))
                commit.append(1e6 / run("lmdb_limit", "append", folder / "lmdb", size, 2000, 1)[0])
        add = self.results.add
        add(f"append, 16 publishers, 1 KiB, window 100 (the last by {batch:.0f} a commit)",
            "messages a second", {"amqpbuf": appended, "LMDB alone": alone}, "LMDB alone")
        add("append, 1 publisher, 1 KiB, window 1", "p50 in microseconds",
            {"amqpbuf": single, "LMDB alone": commit}, "LMDB alone")
        add("drain, 1 KiB", "messages a second", {"amqpbuf": drained})

    def depth(self, messages=10_000_000, step=500_000):
        """100 B; a step at the top and one at the bottom, each way."""
        with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
            folder, port = pathlib.Path(name), free_port()
            sets = ["spool.unverified_logins=accept", "pool.publish_buffer_size=20000000",
                    "spool.max_size=60GiB"]
            way = start_amqpbuf(folder, port, sets)

            def append(count):
                return load("confirms", way.port, 16, 100, count, 1000)[0]
            append(10_000)
            shallow = append(step)
            append(messages - 2 * step - 10_000)
            deep = append(step)
            self.results.add("append, 100 B, window 1000", "messages a second",
                             {"at 10^4": [shallow], f"at {messages:.0e}": [deep]}, "at 10^4")
            memory = way.resident_kib("RssAnon")
            way.process.terminate()
            way.process.wait()
            begin = time.monotonic()
            way = start_amqpbuf(folder, port, sets)
            self.results.add(f"start with {messages:.0e} messages", "seconds until it accepts",
                             {"amqpbuf": [time.monotonic() - begin]})
            broker = start_broker(port)
            moments = self.watch_drain(way, messages, step)
            self.results.add(f"memory of its own with {messages:.0e} messages", "KiB",
                             {"after appending": [memory],
                              "after draining": [way.resident_kib("RssAnon")]})
            self.results.add("drain, 100 B", "messages a second",
                             {"at 10^4": [step / (moments[3] - moments[2])],
                              f"at {messages:.0e}": [step / (moments[1] - moments[0])]}, "at 10^4")
            way.process.kill()
            broker.kill()

    def watch_drain(self, way, messages, step):
        """When the first message was drained, a step more, all but a step, and all."""
        moments = []
        for wanted in (1, step, messages - step, messages):
            while (found := way.metric("amqpbuf_messages_drained_total")) < wanted:
                time.sleep(0.01)
            del found
            moments.append(time.monotonic())
        return moments
