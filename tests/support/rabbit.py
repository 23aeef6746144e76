"""A RabbitMQ of its own: private folder, ports, cookie and epmd; the system's service is untouched."""

import functools
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile

import pika

from .ports import free_port, release_port
from .process import spawn
from .wait import wait_until

# Debian's wrapper in /usr/sbin changes to the user rabbitmq and to /var/lib/rabbitmq.
SCRIPTS = pathlib.Path("/usr/lib/rabbitmq/bin")
# AMQPBUF_TEST_RABBIT: "debian13" for that release's RabbitMQ 4.0; without it the machine's own.
WHICH = os.environ.get("AMQPBUF_TEST_RABBIT", "")
DEBIAN13 = str(pathlib.Path(__file__).with_name("debian13"))
# AMQPBUF_TEST_RABBIT_SETTINGS: "KEY=VALUE ...", lines that every rabbitmq.conf has.
SETTINGS = dict(word.split("=", 1)
                for word in os.environ.get("AMQPBUF_TEST_RABBIT_SETTINGS", "").split())

USERS = {"guest": "guest", "shop": "shop-secret", "audit": "audit-secret"}
VHOSTS = ["/", "shop"]

# One scheduler and no busy waiting: the tests share the machine's few cores.
ERL_ARGS = "-noinput +S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}"

START_TIMEOUT_S = 120


@functools.cache
def _debian13():
    """The folder of that release's root, which is made if it is missing."""
    return subprocess.run([DEBIAN13, "root"], check=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True).stdout.strip()


def _command(script, *arguments):
    """What runs one of RabbitMQ's scripts, and its environment beside RabbitMQ's own."""
    command = [str(SCRIPTS / script), *arguments]
    if not WHICH:
        return command, {}
    assert WHICH == "debian13", f"AMQPBUF_TEST_RABBIT: {WHICH!r} is not known"
    # A change of namespaces can end what spawn() has asked for.
    return ([DEBIAN13, "run", "setpriv", "--pdeathsig", "KILL", *command],
            {"AMQPBUF_TEST_DEBIAN13": _debian13()})


class Rabbit:
    """Data and port stay the same from one start to the next."""

    def __init__(self, peer=None, vhosts=VHOSTS, **settings):
        """`settings` go into rabbitmq.conf; an underscore pair stands for a dot. Each user may do
        all in each of the vhosts.

        With a `peer`, a running Rabbit that ends later, it can `join` that one's cluster.
        """
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="amqpbuf-rabbit-"))
        self.port, self._dist = free_port(), free_port()
        self._peer, self._vhosts = peer, vhosts
        self._epmd_port = peer._epmd_port if peer else free_port()
        self.node = f"rabbit{self.port}@localhost"
        self._server = self._epmd = None
        self._log = open(self.folder / "output.log", "ab")
        self._write_configuration(settings)
        self._write_cookie()

    def _write_configuration(self, settings):
        lines = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "load_definitions": self.folder / "definitions.json",
            "vm_memory_high_watermark.absolute": "2GB",
            "disk_free_limit.absolute": "50MB",
            "log.console": "false",
        }
        lines.update(SETTINGS)
        lines.update({key.replace("__", "."): value for key, value in settings.items()})
        (self.folder / "rabbitmq.conf").write_text(
            "".join(f"{key} = {value}\n" for key, value in lines.items()))
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "definitions.json").write_text(json.dumps({
            "users": [{"name": name, "password": password, "tags": ["administrator"]}
                      for name, password in USERS.items()],
            "vhosts": [{"name": name} for name in self._vhosts],
            "permissions": [{"user": user, "vhost": vhost,
                             "configure": ".*", "write": ".*", "read": ".*"}
                            for user in USERS for vhost in self._vhosts],
        }))

    def _write_cookie(self):
        """Erlang's shared secret: nodes with the same one may talk to each other."""
        self._cookie = self._peer._cookie if self._peer else secrets.token_hex(16)
        path = self.folder / ".erlang.cookie"
        path.write_text(self._cookie)
        path.chmod(0o400)

    def _environment(self):
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._dist),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": ERL_ARGS,
            # Makes the script become the Erlang machine, so that our child is the server itself.
            "RABBITMQ_ALLOW_INPUT": "1",
        }

    # ---- life ----

    def start(self):
        self.launch()
        wait_until(self.is_accepting, f"RabbitMQ accepts on port {self.port}; see {self.folder}",
                   START_TIMEOUT_S)
        return self

    def launch(self):
        """Starts without waiting."""
        if self._epmd is None and self._peer is None:
            # Started here, not by Erlang: that one would become a daemon which nobody ends.
            self._epmd = spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                               stdout=self._log, stderr=self._log)
            wait_until(lambda: _connects(self._epmd_port), "epmd accepts")
        assert not self.is_running()
        self._is_started = False
        command, more = _command("rabbitmq-server")
        self._server = spawn(command, env=self._environment() | more, cwd=self.folder,
                             stdout=self._log, stderr=self._log)

    def is_running(self):
        return self._server is not None and self._server.poll() is None

    def is_accepting(self):
        if not self.is_running():
            tail = (self.folder / "output.log").read_text(errors="replace")[-3000:]
            raise AssertionError(f"RabbitMQ ended with {self._server.returncode}:\n{tail}")
        try:
            self.connect().close()
        except pika.exceptions.AMQPError:
            return False
        return True

    def _end(self, number, timeout=START_TIMEOUT_S):
        if self.is_running():
            self._server.send_signal(number)
            self._server.wait(timeout)
        self._server = None

    def stop(self):
        """In an orderly way, as an operator would."""
        self._end(signal.SIGTERM)

    def kill(self):
        self._end(signal.SIGKILL)

    def suspend(self):
        """Alive for the kernel, silent for everybody: what a hung machine looks like."""
        self._server.send_signal(signal.SIGSTOP)

    def resume(self):
        self._server.send_signal(signal.SIGCONT)

    def close(self):
        """Ends all of it and removes the folder."""
        self.kill()
        if self._epmd:
            self._epmd.kill()
            self._epmd.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for port in (self.port, self._dist):
            release_port(port)
        if self._peer is None:
            release_port(self._epmd_port)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    def join(self):
        """Becomes a node of its peer's cluster, and forgets what it had."""
        self.ctl("stop_app")
        self.ctl("join_cluster", self._peer.node)
        self.ctl("start_app")

    # ---- use ----

    def ctl(self, *arguments):
        if not self._is_started:
            self._is_started = True  # it accepts connections before it can be asked
            self.ctl("await_startup")
        command, more = _command("rabbitmqctl", "-q", *arguments)
        done = subprocess.run(command, env=self._environment() | more, cwd=self.folder,
                              timeout=START_TIMEOUT_S, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        assert done.returncode == 0, f"rabbitmqctl {' '.join(arguments)}: {done.stdout}"
        return done.stdout

    def connect(self, user="guest", vhost="/"):
        """A pika connection straight to it, past any proxy."""
        return pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", self.port, vhost, pika.PlainCredentials(user, USERS[user]),
            heartbeat=0, socket_timeout=30, blocked_connection_timeout=60))

    def version(self):
        """(3, 10), (4, 0)..."""
        return tuple(int(number) for number in self.ctl("version").split(".")[:2])

    def declare(self, queue, vhost="/", **options):
        options.setdefault("durable", True)
        with self.connect(vhost=vhost) as connection:
            connection.channel().queue_declare(queue, **options)

    def delete(self, queue, vhost="/"):
        with self.connect(vhost=vhost) as connection:
            connection.channel().queue_delete(queue)

    def count(self, queue, vhost="/"):
        with self.connect(vhost=vhost) as connection:
            return connection.channel().queue_declare(queue, passive=True).method.message_count

    def take(self, queue, vhost="/"):
        """All that is in the queue now: [(method, properties, body)], and removes it."""
        taken = []
        with self.connect(vhost=vhost) as connection:
            channel = connection.channel()
            while count := channel.queue_declare(queue, passive=True).method.message_count:
                taken += _consume(channel, queue, count)
        return taken

    def wait_for(self, queue, expected, vhost="/"):
        """Takes messages until there are as many as expected, and returns their bodies.

        Whatever is there beyond that number is returned too, so that a duplicate is seen.
        """
        bodies = []

        def enough():
            bodies.extend(body for _, _, body in self.take(queue, vhost))
            return len(bodies) >= expected

        wait_until(enough, lambda: f"{expected} messages in {queue}, got {len(bodies)}: "
                                   f"{bodies[:3]}...{bodies[-3:]}",
                   progress=lambda: len(bodies))
        return bodies


def _consume(channel, queue, count):
    """Up to `count` messages, and not one more is taken out of the queue: fewer when they expire or
    go to somebody else."""
    taken, stopped = [], False
    while len(taken) < count and not stopped:
        batch = min(count - len(taken), 500)
        channel.basic_qos(prefetch_count=batch)  # no more than these are delivered before the ack
        before = len(taken)
        for message in channel.consume(queue, inactivity_timeout=1):
            stopped = message[0] is None
            if not stopped:
                taken.append(message)
            if stopped or len(taken) == before + batch:
                break
        channel.cancel()
        if len(taken) > before:
            channel.basic_ack(0, multiple=True)
    return taken


def _connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
