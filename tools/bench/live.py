"""Live, into a broker that keeps nothing."""

import resource
import subprocess
import tempfile
import time
import pathlib

from support.ports import free_port

from ways import BUILD, Way, load, start_amqpbuf, start_broker, start_haproxy


FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100


class Live:
    def __init__(self, results):
        self.results = results
        self.folder = tempfile.TemporaryDirectory(prefix="amqpbuf-bench-")
        path, port = pathlib.Path(self.folder.name), free_port()
        self.broker = start_broker(port)
        self.ways = [Way("direct", port), start_amqpbuf(path, port), start_haproxy(path, port)]
        self.between = self.ways[1:]

    def close(self):
        for way in self.between:
            way.process.kill()
        self.broker.kill()
        self.folder.cleanup()

    def alternate(self, title, unit, measure, ways=None, bound="HAProxy"):
        self.results.alternate(title, unit, {way.name: lambda way=way: measure(way)
                                             for way in ways or self.ways}, bound)

    def stream(self):
        for size, messages in ((100, 2_000_000), (1024, 1_000_000), (16384, 100_000)):
            def cpu(way, size=size, messages=messages):
                before = way.cpu_seconds()
                load("stream", way.port, 4, size, messages)
                return (way.cpu_seconds() - before) * 1e6 / messages
            self.alternate(f"stream of {size} B, 4 connections", "CPU s per 1M messages", cpu,
                           self.between)
            self.alternate(f"stream of {size} B, 4 connections", "messages a second",
                           lambda way, size=size, messages=messages:
                           load("stream", way.port, 4, size, messages)[0])

    def confirms(self):
        for column, unit in ((0, "messages a second"), (1, "p50 in microseconds")):
            self.alternate("confirms, 1 KiB, window 100", unit,
                           lambda way, column=column:
                           load("confirms", way.port, 1, 1024, 300_000, 100)[column])

    def paced(self):
        for column, name in ((1, "p50"), (2, "p99"), (3, "p99.9")):
            self.alternate("1,000 messages a second, 1 KiB, publish to ack",
                           f"{name} in microseconds",
                           lambda way, column=column:
                           load("paced", way.port, 1024, 5000, 1000)[column], bound="direct")

    def sessions(self):
        for at_a_time in (1, 16, 64):
            self.alternate(f"sessions, {at_a_time} at a time", "sessions a second",
                           lambda way, n=at_a_time: load("sessions", way.port, n, 5000)[0],
                           bound="direct")

    def memory(self):
        """One run: a second one would find the memory of the first."""
        for connections in (1000, 10_000):
            grown, whole = {}, {}
            for way in self.between:
                if way.files_each * connections > FILES:
                    continue
                before = way.resident_kib()
                idle = subprocess.Popen(
                    [str(BUILD / "bench_load"), "idle", str(way.port), str(connections)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                idle.stdout.readline()
                whole[way.name] = [way.resident_kib() / 1024]
                grown[way.name] = [(way.resident_kib() - before) / connections]
                idle.stdin.close()
                idle.wait()
                time.sleep(1)  # the other side notices
            title = f"an idle connection with a channel, of {connections:,}"
            self.results.add(title, "KiB resident", grown, "HAProxy")
            self.results.add(f"{connections:,} of them", "MiB resident of the process", whole,
                             "HAProxy")
