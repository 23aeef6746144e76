"""Into RabbitMQ."""

import datetime
import pathlib
import tempfile

from support import rabbit as rabbit_support
from support.jobs import AMQPLIB, EXTENSION, php_job, run_jobs
from support.wait import wait_until

from disk import fields_of
from ways import Way, load, start_amqpbuf, start_haproxy

LOGINS = ("guest guest /", "guest guest shop", "shop shop-secret /", "shop shop-secret shop")
BACKLOG = 60_000


class IntoRabbit:
    def __init__(self, results):
        self.results = results
        rabbit_support.ERL_ARGS = rabbit_support.ERL_ARGS.replace("+S 1:1", "+S 2:2")
        self.folder = tempfile.TemporaryDirectory(prefix="amqpbuf-bench-")
        self.path = pathlib.Path(self.folder.name)
        self.rabbit = rabbit_support.Rabbit().start()
        for vhost in rabbit_support.VHOSTS:
            self.rabbit.declare("q", vhost, arguments={"x-max-length": 100_000})
        self.amqpbuf = start_amqpbuf(self.path, self.rabbit.port)
        self.ways = [Way("direct", self.rabbit.port), self.amqpbuf,
                     start_haproxy(self.path, self.rabbit.port)]

    def close(self):
        for way in self.ways[1:]:
            way.process.kill()
        self.rabbit.close()
        self.folder.cleanup()

    def alternate(self, title, unit, measure):
        self.results.alternate(title, unit, {way.name: lambda way=way: measure(way)
                                             for way in self.ways}, "direct")

    def rabbit_sessions(self):
        for at_a_time in (1, 16, 64):
            self.alternate(f"sessions into RabbitMQ, {at_a_time} at a time", "sessions a second",
                           lambda way, n=at_a_time: load("sessions", way.port, n, 2000)[0])

    def rabbit_stream(self):
        """Without confirms of the publisher's: RabbitMQ confirms to amqpbuf, unless it need not."""
        folder = self.path / "forgets"
        folder.mkdir()
        forgets = start_amqpbuf(folder, self.rabbit.port, ["pool.confirm_transient=no"])
        forgets.name = "amqpbuf, confirm_transient = no"
        self.ways.append(forgets)
        for transient in (False, True):
            measures = {way.name: lambda way=way: load("stream", way.port, 1, 100, 200_000,
                                                       transient=transient)[0]
                        for way in self.ways}
            # What confirms cost in RabbitMQ, whoever asks for them.
            measures["direct, with confirms"] = lambda: load(
                "confirms", self.rabbit.port, 1, 100, 200_000, 1000, transient=transient)[0]
            self.results.alternate(
                f"stream into RabbitMQ, 100 B, {'transient' if transient else 'persistent'}",
                "messages a second", measures, "direct")

    def php(self):
        for script in (AMQPLIB, EXTENSION):
            for at_once in (1, 8):
                def measure(way, script=script, at_once=at_once):
                    begin = datetime.datetime.now()
                    run_jobs(lambda _: php_job(script, way.port, "q"), 60, at_once)
                    return 60 / (datetime.datetime.now() - begin).total_seconds()
                self.alternate(f"PHP jobs, {script}, {at_once} at a time", "jobs a second", measure)

    def outage(self, logins):
        """Fills the queues of these logins while RabbitMQ is away, and lets it come back. Messages
        a second from the first drain's start to the last one's end."""
        for login in logins:
            load("confirms", self.amqpbuf.port, 1, 1024, 1, 1, login=login)  # it has seen them
        self.rabbit.ctl("stop_app")
        for login in logins:
            load("confirms", self.amqpbuf.port, 1, 1024, BACKLOG, 1000, login=login)
        log = self.path / "log"
        before = log.stat().st_size

        def events(name):
            return [fields_of(line) for line in log.read_text()[before:].splitlines()
                    if f"event={name}" in line]
        self.rabbit.ctl("start_app")
        wait_until(lambda: len(events("drain_finished")) >= len(logins), "the drains", 600)
        moments = [datetime.datetime.fromisoformat(event["ts"].replace("Z", "+00:00"))
                   for name in ("drain_started", "drain_finished") for event in events(name)]
        return len(logins) * BACKLOG / (max(moments) - min(moments)).total_seconds()

    def rabbit_drain(self):
        def best():
            return max(load("confirms", self.rabbit.port, 1, 1024, BACKLOG, window)[0]
                       for window in (256, 1000))
        self.results.alternate(
            "drain into RabbitMQ, 1 KiB", "messages a second",
            {"one confirming publisher": best, "drain of one queue": lambda: self.outage(LOGINS[:1]),
             "drain of four queues": lambda: self.outage(LOGINS)}, "one confirming publisher")
