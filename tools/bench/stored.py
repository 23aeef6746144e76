"""spool.mode: a publisher waits for this disk alone, however far and slow the broker is."""

import pathlib
import tempfile
import time

from support.ports import free_port
from support.process import spawn
from support.wait import wait_until

from disk import RECORD_OVERHEAD
from ways import BUILD, Way, load, run, start_amqpbuf, start_broker

ROUND_TRIPS_MS = 0, 50
ALWAYS = ["spool.mode=always"]


class Place:
    """A broker so far away, amqpbuf before it, and LMDB alone on the same disk."""

    def __init__(self, folder, round_trip_ms, sets):
        self.folder, near, far = folder, free_port(), free_port()
        self.broker = start_broker(near)
        self.relay = spawn([str(BUILD / "bench_delay"), str(far), str(near), str(round_trip_ms)])
        self.near = Way("direct", near)
        self.way = start_amqpbuf(folder, far if round_trip_ms else near, sets)
        (folder / "lmdb").mkdir()

    def commit_us(self):
        return 1e6 / run("lmdb_limit", "append", self.folder / "lmdb", 1024 + RECORD_OVERHEAD,
                         1000, 1)[0]

    def close(self):
        for process in (self.way.process, self.relay, self.broker):
            process.kill()


class Stored:
    def __init__(self, results):
        self.results = results

    def close(self):
        pass

    def at(self, round_trip_ms, sets, measure):
        """{name: value} of each run."""
        runs = []
        for _ in range(self.results.runs):
            with tempfile.TemporaryDirectory(prefix="amqpbuf-bench-") as name:
                place = Place(pathlib.Path(name), round_trip_ms, sets)
                try:
                    runs.append(measure(place))
                finally:
                    place.close()
        return {name: [values[name] for values in runs] for name in runs[0]}

    def always(self):
        for ms in ROUND_TRIPS_MS:
            self.results.add(
                f"{ms} ms away: always, 1 publisher, 1 KiB, window 1", "p50 in microseconds",
                self.at(ms, ALWAYS, lambda place: {
                    "amqpbuf": load("confirms", place.way.port, 1, 1024, 2000, 1)[1],
                    "one commit": place.commit_us()}), "one commit")
            self.results.add(
                f"{ms} ms away: always, a session", "microseconds",
                self.at(ms, ALWAYS, lambda place: {
                    "amqpbuf": 1e6 / load("sessions", place.way.port, 1, 1000)[0],
                    "near, and a commit": 1e6 / load("sessions", place.near.port, 1, 1000)[0]
                                          + place.commit_us()}), "near, and a commit")
        self.results.add("always, 16 publishers flat out, 1 KiB", "messages a second",
                         self.at(0, ALWAYS, self.flat_out), "LMDB's append and delete")

    def flat_out(self, place, messages=200_000):
        commits = place.way.metric("amqpbuf_spool_commit_seconds_count")
        begin = time.monotonic()
        rate = load("confirms", place.way.port, 16, 1024, messages, 100)[0]
        wait_until(lambda: place.way.metric("amqpbuf_queue_messages") == 0, "the drain", 600)
        drained = messages / (time.monotonic() - begin)
        batch = round(messages / (place.way.metric("amqpbuf_spool_commit_seconds_count") - commits))
        size, folder = 1024 + RECORD_OVERHEAD, place.folder / "lmdb"
        append = run("lmdb_limit", "append", folder, size, messages, batch)[0]
        take = run("lmdb_limit", "take", folder, messages, batch)[0]
        return {"amqpbuf, answered": rate, "amqpbuf, drained": drained,
                "LMDB's append and delete": 1 / (1 / append + 1 / take)}

    def slow(self):
        """The broker is 2 s away: what a publisher waits for."""
        self.results.add(
            "2 s away: slow, 1 publisher, 1 KiB, window 1", "p50 in microseconds",
            self.at(2000, ["spool.mode=slow", "upstream.connect_timeout=60s"], lambda place: {
                "amqpbuf": load("confirms", place.way.port, 1, 1024, 2000, 1)[1],
                "one commit": place.commit_us()}), "one commit")
