"""A broker that keeps nothing, and is far away."""

import pathlib
import tempfile

from support.ports import free_port
from support.process import spawn

from disk import wait_drained
from ways import BUILD, Way, load, start_amqpbuf, start_broker, start_haproxy

ROUND_TRIPS_MS = 10, 50, 200
SECONDS = 10  # of a stream that goes as fast as its socket lets it
SOCKET_BYTES = 4 << 20  # delay.c


class Far:
    """What stands between publishers and a broker so far away."""

    def __init__(self, folder, round_trip_ms):
        self.round_trip_ms, near, far = round_trip_ms, free_port(), free_port()
        self.broker = start_broker(near)
        self.relay = spawn([str(BUILD / "bench_delay"), str(far), str(near), str(round_trip_ms)])
        self.ways = [Way("direct", far), start_amqpbuf(folder, far), start_haproxy(folder, far)]

    def close(self):
        for process in (self.relay, self.broker, *(way.process for way in self.ways[1:])):
            process.kill()

    def messages(self, size, connections):
        return min(5_000_000, round(SECONDS * connections * SOCKET_BYTES * 1000
                                    / self.round_trip_ms / size))


class Distance:
    def __init__(self, results):
        self.results = results

    def close(self):
        pass

    def alternate(self, far, title, unit, measure, bound):
        self.results.alternate(f"{far.round_trip_ms} ms away: {title}", unit,
                               {way.name: lambda way=way: measure(way) for way in far.ways}, bound)

    def streams(self, far):
        for size in (100, 1024, 16384):
            for connections in (1, 4):
                self.alternate(far, f"stream of {size} B, {connections} connections",
                               "messages a second",
                               lambda way, size=size, connections=connections:
                               load("stream", way.port, connections, size,
                                    far.messages(size, connections))[0], "HAProxy")

    def confirms(self, far):
        self.alternate(far, "confirms, 1 KiB, window 1000", "messages a second",
                       lambda way: load("confirms", way.port, 1, 1024,
                                        round(SECONDS * 1_000_000 / far.round_trip_ms), 1000)[0],
                       "direct")

    def sessions(self, far):
        self.alternate(far, "sessions, 1 at a time", "sessions a second",
                       lambda way: load("sessions", way.port, 1,
                                        max(10, 2000 // far.round_trip_ms))[0], "direct")

    def distance(self):
        for round_trip_ms in ROUND_TRIPS_MS:
            with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
                far = Far(pathlib.Path(name), round_trip_ms)
                try:
                    self.streams(far)
                    self.confirms(far)
                    self.sessions(far)
                finally:
                    far.close()

    def far_drain(self, messages=500_000):
        """Beside one publisher with the largest window that it may have, straight there."""
        for round_trip_ms in (0, *ROUND_TRIPS_MS):
            drained, best = [], []
            for _ in range(self.results.runs):
                with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
                    folder, near, far = pathlib.Path(name), free_port(), free_port()
                    way = start_amqpbuf(folder, far, ["spool.unverified_logins=accept"])
                    load("confirms", way.port, 4, 1024, messages, 1000)
                    broker = start_broker(near)
                    relay = spawn([str(BUILD / "bench_delay"), str(far), str(near),
                                   str(round_trip_ms)])
                    fields = wait_drained(folder)
                    drained.append(int(fields["drained"]) * 1000 / int(fields["ms"]))
                    way.process.kill()
                    best.append(max(load("confirms", far, 1, 1024, messages, window)[0]
                                    for window in (1024, 8192, 65535)))
                    relay.kill()
                    broker.kill()
            self.results.add(f"{round_trip_ms} ms away: drain, 1 KiB", "messages a second",
                             {"amqpbuf": drained, "a confirming publisher": best},
                             "a confirming publisher")
