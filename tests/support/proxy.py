"""amqpbuf with a folder and a port of its own."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import pika

from . import amqp, raw
from .log import Log, parse_line
from .ports import free_port, release_port
from .process import spawn
from .wait import wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("AMQPBUF_TEST_BIN", ROOT / "build-dev" / "amqpbuf"))
INSPECT = pathlib.Path(os.environ.get("AMQPBUF_TEST_INSPECT", BINARY.parent / "amqpbuf-inspect"))
CTL = pathlib.Path(os.environ.get("AMQPBUF_TEST_CTL", BINARY.parent / "amqpbuf-ctl"))

_REPORT = re.compile(r"AddressSanitizer|LeakSanitizer|UndefinedBehavior|runtime error:|"
                     r"SUMMARY: |Assertion|assertion")

# A small quarantine, so that resident memory says something about the program itself.
_SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:quarantine_size_mb=4:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}

# No tick wakes who is held: what lets somebody go on has to wake him itself.
_SWITCHES = {"AMQPBUF_TEST_NO_TICK_WAKES": "1"}
TICK_WAKES = {"AMQPBUF_TEST_NO_TICK_WAKES": ""}

# Quick enough for tests; what a test is about it sets itself.
DEFAULTS = {
    "upstream.reconnect_min": "20ms",
    "upstream.reconnect_max": "200ms",
    "log.level": "debug",
}


class Proxy:
    """`options` are SECTION.KEY: value. Starts at once unless `start` is false.

    `close` fails over every event of level error, over every client_refused of which no RawClient
    has read the connection.close, and over a wait for RabbitMQ that a limit of time has ended which is
    not among `options`, unless `provokes` has its name: such events are the proxy's way of saying that
    it is broken, that it has closed somebody's connection, or that it waited in vain.
    """

    def __init__(self, upstream_url, options=None, start=True, environment=None, provokes=()):
        self.environment = environment or {}
        self.provokes = set(provokes)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="amqpbuf-proxy-"))
        self.spool = self.folder / "spool"
        self.port = free_port()
        self.log_path = self.folder / "stderr.log"
        self.options = dict(DEFAULTS)
        self.options.update({
            "listen.port": self.port,
            "upstream.url": upstream_url,
            "spool.path": self.spool,
        })
        self.options.update(options or {})
        self._process = None
        self._log = Log(self.log_path)
        if start:
            self.start()

    def _write_configuration(self):
        sections = {}
        for name, value in self.options.items():
            section, key = name.split(".", 1)
            sections.setdefault(section, []).append(f"{key} = {value}\n")
        (self.folder / "proxy.ini").write_text(
            "".join(f"[{name}]\n{''.join(lines)}" for name, lines in sections.items()))

    # ---- life ----

    def start(self, manager=None):
        """`manager` holds listening sockets and passes them on (support/service.py)."""
        self.begin(manager)
        self.wait_event("listening")
        return self

    def begin(self, manager=None):
        """Like start, but does not wait until it listens."""
        assert not self.is_running()
        self._write_configuration()
        self.log_path.touch()
        self._log.mark()
        command = [str(BINARY), "-c", str(self.folder / "proxy.ini")]
        with open(self.log_path, "ab") as log:
            self._process = spawn(manager.command(command) if manager else command,
                                  pass_fds=manager.descriptors() if manager else (),
                                  cwd=self.folder, stdout=log, stderr=log,
                                  env=dict(os.environ, **{**_SANITIZERS, **_SWITCHES, **self.environment}))

    @property
    def pid(self):
        return self._process.pid

    def is_running(self):
        return self._process is not None and self._process.poll() is None

    def kill9(self):
        assert self.is_running(), self.failure("amqpbuf had ended by itself")
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._end_torn_line()

    def wait_killed(self, timeout=60):
        """It kills itself (AMQPBUF_TEST_CRASH_AT)."""
        status = self._process.wait(timeout)
        assert status == -signal.SIGKILL, self.failure(f"it ended by itself, in status {status}")
        self._process = None
        self._end_torn_line()

    def wait_status(self, timeout=60):
        """It ends by itself; in which status."""
        status = self._process.wait(timeout)
        self._process = None
        return status

    def _end_torn_line(self):
        """SIGKILL may come in the middle of a write that goes on into another page of the file."""
        text = self.log_path.read_bytes()
        os.truncate(self.log_path, text.rfind(b"\n") + 1)

    def term(self, timeout=60):
        """SIGTERM; it must end in order and with status 0."""
        self.signal_term()
        self.wait_end(timeout)

    def signal_term(self):
        assert self.is_running(), self.failure("amqpbuf had ended by itself")
        self._process.send_signal(signal.SIGTERM)

    def wait_end(self, timeout=60):
        """It has been told to end, and does, with status 0."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(self.failure(f"not ended {timeout} s after SIGTERM")) from None
        self._process = None
        assert status == 0, self.failure(f"SIGTERM ended in status {status}")

    def restart(self):
        self.term()
        self.start()

    def crash_and_start(self):
        self.kill9()
        self.start()

    @contextlib.contextmanager
    def suspended(self):
        """SIGSTOP and, behind the block, SIGCONT."""
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    def reload(self):
        """Takes over `options` as they are now."""
        before = len(self.events("reloaded"))
        self._write_configuration()
        self._process.send_signal(signal.SIGHUP)
        self.wait_event("reloaded", before + 1)

    def close(self):
        """Ends it, and fails on whatever it had to report about itself."""
        try:
            if self._process is not None:
                self.term()
            reports = [line for line in self.log_text().splitlines() if _REPORT.search(line)]
            assert not reports, self.failure("\n".join(reports[:5]))
            broken = [line for line in self.log_text().splitlines() if parse_line(line) is None]
            assert not broken, f"log lines that are not logfmt: {broken[:5]}"
            assert not amqp.wrong_confirms, self.failure("\n".join(amqp.wrong_confirms[:5]))
            unprovoked = self._unprovoked()
            assert not unprovoked, self.failure(
                "\n".join(str(fields) for fields in unprovoked[:5]) +
                "\nA test that provokes such an event says so: @pytest.mark.provokes(EVENT), "
                "Proxy(provokes=...)")
        finally:
            if self.is_running():
                self._process.kill()
                self._process.wait()
            self._clear()

    def _clear(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        release_port(self.port)
        amqp.wrong_confirms.clear()

    def _unprovoked(self):
        """Events that nobody has announced: see the class."""
        found, stopping = [], False
        for fields in self.events(whole=True):
            stopping = (stopping or fields["event"] == "stopping") and fields["event"] != "listening"
            heard = stopping or fields.get("peer") in raw.told_to_leave
            if fields["event"] in self.provokes:
                continue
            if (fields.get("level") == "error" or self._is_out_of_patience(fields) or
                    (fields["event"] == "client_refused" and not heard)):
                found.append(fields)
        return found

    def _is_out_of_patience(self, fields):
        """A limit of time ended a wait, and the test has not set it: what should have come did not."""
        return (fields["event"] == "confirms_stalled" and "pool.confirm_timeout" not in self.options or
                fields["event"] == "upstream_lost" and "heartbeats" in fields["reason"] and
                "upstream.heartbeat" not in self.options)

    def discard(self):
        """Ends it after a test that has failed already: no second complaint."""
        if self.is_running():
            self._process.kill()
            self._process.wait()
        self._process = None
        self._clear()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.discard()

    # ---- log ----

    def log_text(self):
        return self.log_path.read_text(errors="replace")

    def failure(self, text):
        return f"{text}\n--- log of amqpbuf ---\n{self.log_text()[-6000:]}"

    def events(self, name=None, whole=False):
        """Log lines as dicts: of this start, or of all starts."""
        logged = self._log.all() if whole else self._log.since_mark()
        return [fields for fields in logged if name in (None, fields["event"])]

    def wait_event(self, name, count=1, timeout=60, progress=None):
        """Until `event=name` was logged `count` times since the start; the last of them. `progress`
        as wait_until has it; the name of another event stands for how often that was logged."""
        if isinstance(progress, str):
            other = progress
            progress = lambda: len(self.events(other))  # noqa: E731

        def seen():
            found = self.events(name)
            if len(found) < count and not self.is_running():
                raise AssertionError(self.failure(f"amqpbuf ended before event={name}"))
            return len(found) >= count and found[count - 1]

        return wait_until(seen, lambda: self.failure(f"event={name} {count} times"), timeout,
                          progress)

    # ---- looking at it ----

    def resident_bytes(self):
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def own_bytes(self):
        """Resident memory without what is mapped from files, which the kernel takes as it likes."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    def _tool(self, program, *arguments):
        """Its standard output; it must end with status 0."""
        done = subprocess.run([str(program), "-s", str(self.spool), *map(str, arguments)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=120, check=False,
                              env=dict(os.environ, **_SANITIZERS))
        assert done.returncode == 0, \
            f"{program.name} {arguments}: {done.returncode} {done.stderr.decode()}"
        return done.stdout

    def inspect(self, *arguments):
        return self._tool(INSPECT, *arguments)

    def ctl(self, *arguments):
        return self._tool(CTL, *arguments).decode()

    def summary(self):
        return json.loads(self.inspect("summary", "--json"))

    def dump(self, *filters):
        return [json.loads(line) for line in self.inspect("dump", *filters).splitlines()]

    def waiting(self):
        """Number of messages in the spool."""
        return sum(queue["messages"] for queue in self.summary()["queues"])

    def bodies(self):
        """Bodies (texts) of all that waits, in the order in which it will go out."""
        return [message["body"] for message in self.dump()]

    def wait_empty(self):
        wait_until(lambda: self.waiting() == 0,
                   lambda: self.failure(f"spool empty, {self.waiting()} messages wait"),
                   progress=self.waiting)

    # ---- clients ----

    def connect(self, user="guest", password=None, vhost="/", **options):
        """A pika connection through it."""
        from .rabbit import USERS
        options.setdefault("heartbeat", 0)
        return pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", self.port, vhost, pika.PlainCredentials(user, password or USERS[user]),
            socket_timeout=60, stack_timeout=60, blocked_connection_timeout=120, **options))
