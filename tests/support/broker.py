"""A scripted broker: answers like RabbitMQ as long as nothing else was asked for, records every
frame, and dies, refuses or keeps silent exactly where a test wants it to."""

import dataclasses
import socket
import struct
import threading
import time

from . import amqp
from .ports import free_port, release_port
from .wait import wait_until

CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
    "per_consumer_qos": True,
}

# What is answered to a method if the test says nothing about it.
ANSWERS = {
    "channel.open": ("channel.open-ok", {}),
    "channel.close": ("channel.close-ok", {}),
    "confirm.select": ("confirm.select-ok", {}),
    "exchange.declare": ("exchange.declare-ok", {}),
    "exchange.delete": ("exchange.delete-ok", {}),
    "queue.bind": ("queue.bind-ok", {}),
    "queue.delete": ("queue.delete-ok", {}),
    "basic.qos": ("basic.qos-ok", {}),
    "basic.consume": ("basic.consume-ok", {"consumer_tag": "consumer"}),
    "tx.select": ("tx.select-ok", {}),
    "tx.commit": ("tx.commit-ok", {}),
    "tx.rollback": ("tx.rollback-ok", {}),
    "connection.close": ("connection.close-ok", {}),
}


@dataclasses.dataclass
class Message:
    """A publish that the broker has taken whole."""

    channel: int
    args: dict
    header: bytes
    body: bytes = b""
    tag: int = 0


class Lost(Exception):
    """The connection is over."""


class Connection(threading.Thread):
    """One connection from the proxy, served on a thread of its own."""

    def __init__(self, broker, sock):
        super().__init__(daemon=True)
        self.broker, self.socket = broker, sock
        self.frames = []  # what came after connection.open-ok, without heartbeats
        self.heartbeats = 0
        self.messages = []
        self.asked = None  # (user, password)
        self.login = None  # (mechanism, user, password, vhost), if those were accepted
        self.client_properties = {}
        self.tuned = {}
        self.is_open = False
        self.error = None
        self.last_tags = {}
        self._partial, self._closing = {}, set()
        self._stream = amqp.FrameStream(sock)
        self._write_lock = threading.Lock()

    # ---- for tests ----

    def sequence(self):
        """Every frame so far as `channel:name`, for comparing."""
        return [str(frame) for frame in self.frames]

    def wait_for(self, *expected):
        """Until exactly these frames have come: `channel:name`, `channel:header(size)`..."""
        wait_until(lambda: len(self.sequence()) >= len(expected),
                   lambda: f"frames {expected}, got {self.sequence()}")
        assert self.sequence() == list(expected)

    def send(self, data):
        with self._write_lock:
            try:
                self.socket.sendall(data)
            except OSError as error:
                raise Lost from error

    def send_method(self, channel, name, **args):
        self.send(amqp.method_frame(channel, name, **args))

    def close_channel(self, channel, code, text, cause=(60, 40)):
        """As RabbitMQ does it: what comes on it until the close-ok is thrown away."""
        self._closing.add(channel)
        self._partial.pop(channel, None)
        self.last_tags.pop(channel, None)
        self.send_method(channel, "channel.close", reply_code=code, reply_text=text,
                         class_id=cause[0], method_id=cause[1])

    def give_back(self, message, code=312, text="NO_ROUTE", header=None):
        """basic.return; a broker may have changed the header."""
        header = message.header if header is None else header
        self.send_method(message.channel, "basic.return", reply_code=code, reply_text=text,
                         exchange=message.args["exchange"],
                         routing_key=message.args["routing_key"])
        self.send(amqp.frame(amqp.HEADER, message.channel, header))
        if message.body:
            self.send(amqp.frame(amqp.BODY, message.channel, message.body))

    def ack(self, message, **args):
        self.send_method(message.channel, "basic.ack", delivery_tag=message.tag, **args)

    def nack(self, message, **args):
        self.send_method(message.channel, "basic.nack", delivery_tag=message.tag, **args)

    def die(self):
        """Goes away like a killed process whose machine is still there: with a reset."""
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            return  # it is over already
        if threading.current_thread() is self:
            self.socket.close()
        else:
            self.close()  # our thread sits in recv(): only a shutdown gets it out of there

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    # ---- the thread ----

    def run(self):
        try:
            if self._handshake():
                self._serve()
        except Lost:
            pass
        except Exception as error:  # shown by the test that closes the broker
            self.error = error
        finally:
            self.is_open = False
            self.close()

    def _read(self):
        frame = self._stream.read()
        if frame is None:
            raise Lost
        return frame

    def _expect(self, name):
        frame = self._read()
        assert frame.name == name, f"expected {name}, got {frame}"
        return frame.args

    def _handshake(self):
        broker = self.broker
        if broker.hangs_up:
            return False
        if broker.silent_before == "connection.start":
            self._read()  # until the other side gives up
        preamble = self._stream.take(8)
        if preamble is None:
            raise Lost
        assert preamble == amqp.PROTOCOL_HEADER, preamble
        self.send_method(0, "connection.start", version_minor=9, mechanisms="PLAIN AMQPLAIN",
                         locales="en_US", server_properties=broker.server_properties)
        start_ok = self._expect("connection.start-ok")
        if broker.silent_before == "connection.tune":
            self._read()
        self.client_properties = start_ok["client_properties"]
        user, password = start_ok["response"].split(b"\0")[1:]
        if len(start_ok["response"]) > broker.login_max:
            return False
        self.asked = (user.decode(), password.decode())
        while self.asked[1] in broker.silent_logins:
            time.sleep(0.01)
        if broker.refuse_login or password.decode() in broker.refused_passwords:
            self.send_method(0, "connection.close", reply_code=403,
                             reply_text="ACCESS_REFUSED - scripted", class_id=10, method_id=11)
            return False
        self.send_method(0, "connection.tune", channel_max=broker.channel_max,
                         frame_max=broker.frame_max, heartbeat=broker.heartbeat)
        self.tuned = self._expect("connection.tune-ok")
        vhost = self._expect("connection.open")["vhost"]
        if broker.gate:
            broker.gate.wait(60)
        if broker.silent_before == "connection.open-ok":
            self._read()
        self.login = (start_ok["mechanism"], user.decode(), password.decode(), vhost)
        if broker.refuse_vhost:
            text = broker.refuse_vhost
            self.send_method(0, "connection.close", class_id=10, method_id=40,
                             reply_code=broker.refuse_vhost_code,
                             reply_text="NOT_ALLOWED - scripted" if text is True else text)
            return False
        self.is_open = True  # before the proxy, and so the test, can know of it
        self.send_method(0, "connection.open-ok")
        return True

    def _serve(self):
        while True:
            frame = self._read()
            if frame.type == amqp.HEARTBEAT:
                self.heartbeats += 1
                continue
            limit = self.tuned["frame_max"]
            # What cannot be cut may be as long as RabbitMQ itself takes it.
            around = 8 if frame.type == amqp.BODY else 0
            assert limit == 0 or len(frame.payload) + around <= limit, f"above {limit}: {frame}"
            number = len(self.frames) + 1
            if self.broker.dies(self, number, "before"):
                self.die()
                return
            self.frames.append(frame)
            self._take(frame)
            if self.broker.dies(self, number, "after"):
                self.die()
                return
            if frame.name == "connection.close":
                return

    def _take(self, frame):
        if frame.channel in self._closing:
            if frame.name == "channel.close-ok":
                self._closing.discard(frame.channel)
            elif frame.name == "channel.close":  # they cross: both are answered
                self.send_method(frame.channel, "channel.close-ok")
            return
        if self.broker.on_frame and self.broker.on_frame(self, frame):
            return
        if frame.type == amqp.METHOD:
            self._take_method(frame)
        else:
            self._take_content(frame)

    def _take_method(self, frame):
        if frame.name == "basic.publish":
            self._partial[frame.channel] = Message(frame.channel, frame.args, b"")
        elif frame.name == "confirm.select":
            self.last_tags.setdefault(frame.channel, 0)
        elif frame.name == "channel.open":
            self.last_tags.pop(frame.channel, None)
        if frame.name in self.broker.silent_on or frame.args.get("no_wait"):
            return
        if frame.name == "queue.declare":
            self.send_method(frame.channel, "queue.declare-ok", queue=frame.args["queue"])
        elif frame.name == "basic.cancel":
            self.send_method(frame.channel, "basic.cancel-ok",
                             consumer_tag=frame.args["consumer_tag"])
        elif frame.name in ANSWERS:
            name, args = ANSWERS[frame.name]
            self.send_method(frame.channel, name, **args)

    def _take_content(self, frame):
        message = self._partial[frame.channel]
        if frame.type == amqp.HEADER:
            assert not message.header
            message.header = frame.payload
        else:
            message.body += frame.payload
        size = struct.unpack_from(">Q", message.header, 4)[0]
        assert len(message.body) <= size
        if len(message.body) == size:
            del self._partial[frame.channel]
            self._take_message(message)

    def _take_message(self, message):
        with self.broker.lock:
            self.messages.append(message)
            self.broker.messages.append(message)
        if message.channel in self.last_tags:
            self.last_tags[message.channel] += 1
            message.tag = self.last_tags[message.channel]
        if self.broker.on_message:
            self.broker.on_message(self, message)
        elif self.broker.acks and message.tag:
            self.send_method(message.channel, "basic.ack", delivery_tag=message.tag)


class FakeBroker:
    """Listens from the start unless `up` is false. Attributes may be changed at any time.

    `port` is one that somebody else has reserved.

    confirms        whether publisher_confirms is among the capabilities it offers
    acks            whether it confirms what it takes
    login_max       longer ones end the connection without a word (initial_frame_max)
    silent_logins   passwords that get no answer while they are in it
    refuse_login    answers start-ok with connection.close 403
    refused_passwords
                    those that it answers so, and no others
    refuse_vhost    answers connection.open with connection.close; a text is what it says, and
    refuse_vhost_code   with which code
    hangs_up        closes each new connection without a word
    silent_on       names of methods that get no answer
    silent_before   connection.start, .tune or .open-ok: new connections get to there
    gate            a threading.Event that new connections wait for before connection.open-ok
    on_frame        called with (connection, frame); true: the frame is dealt with
    on_message      called with (connection, message) instead of confirming it
    death           (k, "before" | "after"): the next connection that gets to its k-th frame ends
                    before it has looked at it, or once it has answered it; then this is None
    """

    def __init__(self, confirms=True, frame_max=131072, channel_max=2047, heartbeat=0, up=True,
                 address="127.0.0.1", port=None):
        self.address, self.port = address, port or free_port()
        self._reserved = port is None
        self.server_properties = {
            "product": "scripted", "version": "0",
            "capabilities": dict(CAPABILITIES, publisher_confirms=confirms)}
        if not confirms:
            del self.server_properties["capabilities"]["publisher_confirms"]
        self.frame_max, self.channel_max, self.heartbeat = frame_max, channel_max, heartbeat
        self.acks, self.refuse_login, self.refuse_vhost = True, False, False
        self.refuse_vhost_code = 530
        self.refused_passwords, self.hangs_up = set(), False
        self.login_max, self.silent_logins = 16384, set()
        self.silent_on, self.death = set(), None
        self.silent_before = self.gate = None
        self.on_frame = self.on_message = None
        self.lock = threading.Lock()
        self.connections = []
        self.messages = []  # of all connections, in the order of arrival
        self._listener = None
        if up:
            self.up()

    @property
    def url(self):
        return f"amqp://{self.address}:{self.port}"

    def dies(self, _connection, number, side):
        with self.lock:
            if self.death != (number, side):
                return False
            self.death = None
            return True

    def up(self):
        assert self._listener is None
        self._listener = socket.create_server((self.address, self.port), backlog=64)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def down(self):
        """Stops listening and resets every connection."""
        if self._listener:
            try:
                self._listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._listener.close()
            self._listener = None
            self._acceptor.join(30)  # it may just have taken one more
        for connection in self.connections:
            connection.die()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock)
            self.connections.append(connection)
            connection.start()

    def open_connections(self):
        return [connection for connection in self.connections if connection.is_open]

    def everywhere(self, name, **args):
        """Sends a method of channel 0 on every connection."""
        for connection in self.open_connections():
            try:
                connection.send_method(0, name, **args)
            except Lost:
                pass

    def ack_all(self):
        """Confirms what it owes, and from now on what it takes."""
        self.acks = True
        for connection in self.open_connections():
            for channel, tag in list(connection.last_tags.items()):
                connection.send_method(channel, "basic.ack", delivery_tag=tag, multiple=True)

    def blocked_for(self, seconds):
        """An alarm, and its end."""
        self.everywhere("connection.blocked", reason="scripted")
        time.sleep(seconds)
        self.everywhere("connection.unblocked")

    def wait_connection(self, number=1):
        """The number-th connection ever, once it is open or already over again."""
        wait_until(lambda: len(self.connections) >= number and
                   (self.connections[number - 1].is_open
                    or not self.connections[number - 1].is_alive()),
                   lambda: f"connection {number} at the broker, got {len(self.connections)}")
        return self.connections[number - 1]

    def wait_messages(self, count):
        wait_until(lambda: len(self.messages) >= count,
                   lambda: f"{count} messages at the broker, got {len(self.messages)}",
                   progress=lambda: len(self.messages))
        return [message.body for message in self.messages]

    def close(self):
        self.down()
        for connection in self.connections:
            connection.join(30)
        if self._reserved:
            release_port(self.port)
        errors = [connection.error for connection in self.connections if connection.error]
        assert not errors, f"the proxy broke the protocol: {errors}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
