"""One side: sends a sequence to a port and notes what comes back, in a form that can be compared."""

import re
import socket
import time

from support import amqp

from .sequence import NAME

PING = 11  # a channel for questions of the runner's own
_MADE = re.compile(r"amq\.(gen|ctag)-[\w-]{22}")
CAPABILITIES = {"capabilities": {name: True for name in (
    "basic.nack", "consumer_cancel_notify", "authentication_failure_close", "connection.blocked")}}


class Side:
    """A connection that serves sequences until one of them ends it."""

    def __init__(self, port, vhost, quiet=0.4):
        self.port, self.vhost, self.quiet = port, vhost, quiet
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = amqp.FrameStream(self.socket)
        self.is_open = True
        self._begin()

    def _begin(self):
        self.socket.sendall(amqp.PROTOCOL_HEADER)
        self.greeting = [self.stream.read().args]
        self.socket.sendall(amqp.method_frame(
            0, "connection.start-ok", client_properties=CAPABILITIES, mechanism="PLAIN",
            response=b"\0guest\0guest", locale="en_US"))
        self.greeting.append(self.stream.read().args)
        self.socket.sendall(amqp.method_frame(0, "connection.tune-ok", channel_max=2047, frame_max=131072)
                            + amqp.method_frame(0, "connection.open", vhost=self.vhost))
        assert self.stream.read().name == "connection.open-ok"

    def close(self):
        self.is_open = False
        self.socket.close()

    def run(self, sequence, name):
        """The lines of what came back."""
        self.name, self.lines, self.made = name, [], {}
        self.content = {}  # number: what the next header and bodies belong to
        self.channels = {}  # number: _Channel, of those that are open
        self.segment, self.patient = {}, sequence.patient
        self.unfinished = set()  # numbers with content that may go on
        self.closing = set()  # numbers that RabbitMQ has closed and that wait for close-ok
        for burst in sequence.bursts:
            if not self.is_open:
                break
            self._burst(burst, sequence.cuts)
            if sequence.patient and sequence.consumes() and self.is_open:
                self._settle()
        self._end(sequence.closes)
        return self.lines

    # ---- sending ----

    def _send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # what it said before it went is still to be read

    def _burst(self, burst, cuts):
        data = b""
        for action in burst:
            if self._may_send(action):
                data += action.data.replace(NAME, self.name)
                self._expect(action)
                if not action.whole:
                    self.unfinished.add(action.channel)
        if cuts.random() < 0.2 and len(data) > 2:
            at = cuts.randrange(1, len(data))
            self._send(data[:at])
            time.sleep(cuts.choice([0, 0.001]))
            data = data[at:]
        self._send(data)
        self._wait()
        numbers = {action.channel for action in burst if action.whole and not action.waits}
        if self.patient and numbers:
            self._ask(numbers)
        self._note_segment()

    def _may_send(self, action):
        """Few clients go on with a channel that RabbitMQ has closed: that ends their connection."""
        return action.channel in self.channels or action.blind or action.name == "channel.open"

    def _expect(self, action):
        channel = self.channels.get(action.channel)
        if not channel:
            channel = self.channels[action.channel] = _Channel()
            channel.owed = action.name != "channel.open"  # connection.close
        channel.owed += action.waits
        if action.name == "confirm.select" and not channel.has_tx:
            channel.confirms = True
        channel.has_tx |= action.name == "tx.select"
        channel.unconfirmed += action.messages if channel.confirms else 0

    def _owes(self):
        return any(channel.owed > 0 or channel.unconfirmed > 0 for channel in self.channels.values())

    # ---- reading ----

    def _wait(self):
        """Until all is answered, or nothing comes any more."""
        while self.is_open and self._owes():
            self.socket.settimeout(self.quiet)
            try:
                frame = self.stream.read()
            except TimeoutError:
                for channel in self.channels.values():
                    channel.owed = channel.unconfirmed = 0
                break
            self._take(frame)
        for number in self.closing:
            self._send(amqp.method_frame(number, "channel.close-ok"))
        self.closing.clear()

    def _take(self, frame):
        if frame is None:
            self._note(0, "replies", "end of the connection")
            return self.close()
        if frame.type == amqp.HEARTBEAT:
            return None
        if frame.type != amqp.METHOD:
            shown = frame.payload.hex() if frame.type == amqp.HEADER else repr(frame.payload)
            return self._note(frame.channel, self.content.get(frame.channel), f"{frame.type} {shown}")
        channel, name = self.channels.get(frame.channel), frame.name
        if name == "connection.close":
            self.segment = {}  # which answers still came before it is chance with RabbitMQ too
            self._note(0, "replies", f"{name} {frame.args}")
            self._send(amqp.method_frame(0, "connection.close-ok"))
            return self.close()
        if name in ("basic.ack", "basic.nack") and channel:
            return self._confirm(frame, channel)
        kind = "replies"
        if name in ("basic.deliver", "basic.cancel"):
            kind = f"consumer {frame.args['consumer_tag']}"
        self.content[frame.channel] = kind
        self._note(frame.channel, kind, f"{name} {frame.args}")
        if channel and kind == "replies" and name != "basic.return":
            channel.owed -= 1
            if name in ("channel.close", "channel.close-ok"):
                del self.channels[frame.channel]
            if name == "channel.close":
                self.closing.add(frame.channel)
        return None

    def _confirm(self, frame, channel):
        tag, multiple = frame.args["delivery_tag"], frame.args["multiple"]
        tags = range(channel.confirmed_to + 1, tag + 1) if multiple else [tag]
        for one in tags:
            if one in channel.confirmed:
                if not multiple:
                    self._note(frame.channel, "confirms", f"again {one}")
                continue
            channel.confirmed.add(one)
            channel.unconfirmed -= 1
            self._note(frame.channel, "confirms", f"{frame.name} {one}")
        while channel.confirmed_to + 1 in channel.confirmed:
            channel.confirmed_to += 1

    def _note(self, channel, kind, text):
        key = channel, self._plain(kind)
        self.segment.setdefault(key, []).append(self._plain(text))

    def _note_segment(self, last=False):
        if not (self.patient or last or not self.is_open):
            return
        self.lines.append("--")
        for (channel, kind), texts in sorted(self.segment.items()):
            if kind == "confirms":
                texts = sorted(texts)
            self.lines += [f"{channel} {kind}: {text}" for text in texts]
        self.segment = {}

    def _plain(self, text):
        """Without what differs from run to run: the run's name, the vhost, names that RabbitMQ makes."""
        text = text.replace(self.name.decode(), "@").replace(f"vhost '{self.vhost}", "vhost 'VHOST").replace(
            f"vhost \\'{self.vhost}", "vhost \\'VHOST")
        return _MADE.sub(lambda m: self.made.setdefault(m[0], f"amq.{m[1]}-{len(self.made)}"), text)

    # ---- the runner's own ----

    def _settle(self):
        """All that consumers have to get is here: each channel, then each queue, then each channel again
        has answered a question that is handled behind all before it."""
        numbers = list(self.channels)
        self._ask(numbers)
        for queue in (b"q0", b"q1", b"q2", b"n0", b"n1"):
            if not self.is_open:
                break
            self.channels[PING] = _Channel()
            self.channels[PING].owed = 2
            self._send(amqp.method_frame(PING, "channel.open") + amqp.method_frame(
                PING, "queue.declare", queue=self.name + queue, passive=True))
            self._wait()
            if PING in self.channels and self.is_open:
                self.channels[PING].owed = 1
                self._send(amqp.method_frame(PING, "channel.close", reply_code=200))
                self._wait()
            self.channels.pop(PING, None)
        self._ask(numbers)
        self._note_segment()

    def _ask(self, numbers):
        for number in numbers:
            if number in self.channels:
                self.channels[number].owed += 1
                self._send(amqp.method_frame(number, "exchange.declare", exchange="amq.direct", passive=True))
        self._wait()

    def _end(self, closes):
        if self.is_open and not self.patient:  # or a close of RabbitMQ's crosses the client's
            self._ask([number for number in self.channels if number not in self.unfinished])
        if not self.is_open:
            return
        if closes:
            self.channels[0] = _Channel()
            self.channels[0].owed = 1
            self._send(amqp.method_frame(0, "connection.close", reply_code=200, reply_text="bye"))
        for number, channel in self.channels.items() if not closes else ():
            channel.owed += 1
            self._send(amqp.method_frame(number, "channel.close", reply_code=200, reply_text="bye"))
        self._wait()
        self._note_segment(True)
        if closes or self.channels:  # a channel that does not close would be in the way of the next
            self.close()


class _Channel:
    def __init__(self):
        self.owed = self.unconfirmed = self.confirmed_to = 0
        self.confirmed, self.confirms, self.has_tx = set(), False, False
