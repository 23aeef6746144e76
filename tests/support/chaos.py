"""A broker and clients that keep to no rules, at any time: whatever they do, no client hangs, the
proxy lives and breaks no rule itself, and what waits goes out once the broker behaves."""

import collections
import pathlib
import random
import ssl
import struct
import tempfile
import threading
import time

from . import amqp
from .broker import FakeBroker, Lost
from .certificates import Authority
from .ports import free_port, release_port
from .proxy import Proxy
from .raw import TIMEOUT_S, RawClient
from .wait import wait_until

CLIENTS, CHANNELS = 8, [1, 1, 2, 5]
SIZES = [0, 1, 100, 100, 5000, 200_000]
DRAIN_TIMEOUT_S = 300
ENDED = (OSError, AssertionError, KeyError, IndexError, struct.error)  # told, or cut off

OPTIONS = {
    "pool.publish_buffer_size": [200, 100_000],
    "pool.upstreams": [1, "auto", 4],
    "pool.idle_timeout": ["1s", "60s"],
    "pool.window": [4, 32, 256, "auto"],
    "pool.window_bytes": ["64KiB", "8MiB"],
    "drain.window": [4, 32, 256, "auto"],
    "drain.expiration": ["keep", "shorten"],
    "spool.overflow": ["disconnect", "reject", "block"],
    "listen.max_memory": ["40MiB", "1GiB"],
}
FIXED = {
    "spool.max_message_size": "16MiB",
    "upstream.heartbeat": "1s",
    "upstream.reconnect_min": "10ms",
    "upstream.reconnect_max": "50ms",
}


class UnrulyBroker(FakeBroker):
    """While `behaves` it confirms what it takes."""

    def __init__(self, chance):
        super().__init__(channel_max=chance.choice([20, 2047]),
                         frame_max=chance.choice([4096, 131072]))
        self.chance, self.behaves = chance, True
        self.on_frame, self.on_message = self._method, self._message

    def happens(self, probability):
        return not self.behaves and self.chance.random() < probability

    def _method(self, connection, frame):
        if frame.type != amqp.METHOD or frame.name == "basic.publish":
            return False
        if frame.channel and self.happens(0.08):
            self._close_channel(connection, frame.channel)
            return True
        if self.happens(0.06):
            connection.send_method(0, "connection.close", class_id=60, method_id=40,
                                   reply_code=self.chance.choice([320, 504, 530, 541]),
                                   reply_text="FORCED - scripted")
            return True
        return self.happens(0.06)  # no answer

    def _close_channel(self, connection, channel):
        connection.close_channel(channel, self.chance.choice([403, 404, 406, 541]),
                                 self.chance.choice(["NOT_FOUND - no exchange 'x' in vhost '/'",
                                                     "FORCED - scripted", ""]))

    def _message(self, connection, message):
        channel, tag = message.channel, message.tag
        self.messages.clear()
        connection.frames.clear()
        if self.happens(0.02):
            self._close_channel(connection, channel)
            return
        if self.happens(0.02):
            connection.die()
            return
        if message.args["mandatory"] and self.happens(0.5):
            self._content(connection, message, "basic.return", reply_code=312, reply_text="NO_ROUTE")
        if self.happens(0.02):
            self._content(connection, message, "basic.deliver", consumer_tag="c", delivery_tag=1)
        if not tag or self.happens(0.3):
            return  # not now
        if self.happens(0.04):  # an answer that nobody has asked for
            connection.send_method(channel, self.chance.choice(["basic.ack", "basic.nack"]),
                                   delivery_tag=self.chance.choice([0, 1, tag + 5, 1 << 60]),
                                   multiple=self.chance.random() < 0.5)
        connection.send_method(channel, "basic.nack" if self.happens(0.04) else "basic.ack",
                               delivery_tag=tag, multiple=self.chance.random() < 0.7)

    def _content(self, connection, message, method, **args):
        connection.send(
            amqp.method_frame(message.channel, method, exchange=message.args["exchange"],
                              routing_key=message.args["routing_key"], **args) +
            amqp.content_frames(message.channel, message.body, frame_max=self.frame_max))

    def confirm_all(self):
        for connection in self.open_connections():
            for channel, tag in list(connection.last_tags.items()):
                try:
                    connection.send_method(channel, "basic.ack", delivery_tag=tag, multiple=True)
                except Lost:
                    pass

    def cut(self):
        for connection in self.open_connections():
            connection.die()

    def restart(self, seconds):
        self.down()
        time.sleep(seconds)
        self.connections[:] = [c for c in self.connections if c.is_alive()]
        self.up()


class UnrulyClient(threading.Thread):
    """One short session after the other. What it waits for comes, or its connection ends."""

    def __init__(self, chaos):
        super().__init__(daemon=True)
        self.chaos, self.chance = chaos, chaos.chance

    def run(self):
        while not self.chaos.stopping.is_set():
            try:
                self.session()
                self.chaos.ends["in order"] += 1
            except TimeoutError:
                self.chaos.hung = True
            except ENDED:
                self.chaos.ends["cut off"] += 1

    def session(self):
        client = self.chaos.connect(self.chance.random() < 0.3)
        try:
            kinds = self.open_channels(client)
            for _ in range(self.chance.randint(1, 30)):
                channel = self.chance.randint(1, len(kinds))
                self.step(client, channel, kinds[channel - 1])
            if self.chance.random() < 0.3:
                client.die()
            else:
                self.close(client)
        finally:
            client.socket.close()

    def open_channels(self, client):
        kinds = []
        for channel in range(1, self.chance.choice(CHANNELS) + 1):
            client.call(channel, "channel.open")
            kinds.append(self.chance.choice(["plain", "confirm.select", "confirm.select",
                                             "tx.select"]))
            if kinds[-1] != "plain":
                client.call(channel, kinds[-1])
        return kinds

    def step(self, client, channel, kind):
        pick = self.chance.random()
        if pick < 0.7:
            self.publish(client, channel)
        elif pick < 0.75 and kind == "tx.select":
            client.send_method(channel, self.chance.choice(["tx.commit", "tx.rollback"]))
        elif pick < 0.88:
            self.method(client, channel)
        elif pick < 0.89:
            client.send_method(channel, "channel.close", reply_code=200, reply_text="bye")
            client.send_method(channel, "channel.open")
        else:
            time.sleep(self.chance.choice([0, 0.001, 0.02]))

    def publish(self, client, channel):
        frames = amqp.publish_frames(channel, bytes(self.chance.choice(SIZES)), routing_key="q",
                                     exchange=self.chance.choice(["", "", "x"]),
                                     mandatory=self.chance.random() < 0.1,
                                     frame_max=client.frame_max)
        if self.chance.random() < 0.02:
            client.send(frames[:self.chance.randrange(len(frames))])
            client.die()
            raise ConnectionError("in the middle of a message")
        client.send(frames)

    def method(self, client, channel):
        number, name, args = self.chance.choice([
            (channel, "queue.declare", {"queue": self.chance.choice(["q", "", "e"]),
                                        "exclusive": self.chance.random() < 0.3}),
            (channel, "exchange.declare", {"exchange": "x", "type": "direct"}),
            (channel, "basic.consume", {"queue": "q", "consumer_tag": "c"}),
            (channel, "basic.qos", {"prefetch_count": 5}),
            (channel, "confirm.select", {}),
            (0, "connection.update-secret", {"new_secret": "guest", "reason": "renewed"}),
        ])
        client.send_method(number, name, **args)

    def close(self, client):
        client.send_method(0, "connection.close", reply_code=200, reply_text="bye")
        while (frame := client.read()) is not None:
            if frame.name == "connection.close":
                client.send_method(0, "connection.close-ok")
            elif frame.name == "connection.close-ok":
                return


class Chaos:
    def __init__(self, seconds, seed):
        self.seconds, self.seed = seconds, seed
        self.chance = random.Random(seed)
        self.options = {name: self.chance.choice(values) for name, values in OPTIONS.items()}
        self.stopping, self.hung = threading.Event(), False
        self.ends = collections.Counter()

    def failure(self, text):
        return self.proxy.failure(f"seed {self.seed}, {self.options}: {text}")

    def shake(self):
        begin = time.monotonic()
        while time.monotonic() - begin < self.seconds:
            self.broker.behaves = self.chance.random() < 0.6
            pick = self.chance.random()
            if pick < 0.3:
                self.broker.restart(self.chance.choice([0.01, 0.1, 0.5, 2]))
            elif pick < 0.5:
                self.broker.cut()
            elif pick < 0.6:
                self.broker.blocked_for(0.1)
            elif pick < 0.65:
                self.proxy.reload()
            elif pick < 0.7:
                self.broker.refuse_login = True
                time.sleep(0.1)
                self.broker.refuse_login = False
            deadline = time.monotonic() + self.chance.choice([0.05, 0.2, 1])
            while time.monotonic() < deadline:
                time.sleep(0.02)
                self.broker.confirm_all()
            assert not self.hung, self.failure(f"a client hangs for {TIMEOUT_S} s")

    def connect(self, with_tls):
        if with_tls:
            return RawClient(self.tls_port, tls=self.context)
        return RawClient(self.proxy.port)

    def is_drained(self):
        self.broker.confirm_all()
        return self.proxy.waiting() == 0

    def tls_options(self, folder):
        authority = Authority(pathlib.Path(folder))
        certificate, key = authority.sign("server")
        self.context = ssl.create_default_context(cafile=authority.certificate)
        return {"listen.tls_port": self.tls_port, "listen.tls_certificate": certificate,
                "listen.tls_private_key": key}

    def run(self):
        self.tls_port = free_port()
        try:
            with tempfile.TemporaryDirectory(prefix="amqpbuf-ca-") as folder:
                return self.run_with({**FIXED, **self.options, **self.tls_options(folder)})
        finally:
            release_port(self.tls_port)

    def run_with(self, options):
        with UnrulyBroker(self.chance) as self.broker, \
                Proxy(self.broker.url, options, provokes=["client_refused"]) as self.proxy:
            self.connect(with_tls=False).close()
            clients = [UnrulyClient(self) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            try:
                self.shake()
            finally:
                self.stopping.set()
                self.broker.behaves = True
            self.broker.cut()  # what it has never answered is over
            for client in clients:
                wait_until(lambda c=client: self.broker.confirm_all() or not c.is_alive(),
                           lambda: self.failure("a client hangs"), 2 * TIMEOUT_S)
            assert not self.hung, self.failure(f"a client has hung for {TIMEOUT_S} s")
            wait_until(self.is_drained, lambda: self.failure("all goes out"), DRAIN_TIMEOUT_S)
            self.proxy.inspect("verify")
            return {"seed": self.seed, **self.ends}
