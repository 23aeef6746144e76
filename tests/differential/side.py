"""One side: sends a sequence to a port and notes what comes back, in a form that can be compared."""

import collections
import re
import socket
import time

from support import amqp

from .sequence import NAME, PAUSE

QUIET_S = 2  # then nothing comes any more, where something was expected
PING = 11  # a channel for questions of the runner's own
_MADE = re.compile(r"amq\.(gen|ctag)-[\w-]{22}")
CAPABILITIES = {"capabilities": {name: True for name in (
    "basic.nack", "consumer_cancel_notify", "authentication_failure_close", "connection.blocked")}}


class Side:
    """A connection that serves sequences until one of them ends it."""

    def __init__(self, port, vhost, quiet=QUIET_S):
        self.port, self.vhost = port, vhost
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = amqp.FrameStream(self.socket)
        self.is_open = True
        self._begin()
        self.socket.settimeout(quiet)

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

    def run(self, sequence, name, queues):
        """The lines of what came back; `queues` are those that messages may be in."""
        self.name, self.lines, self.made = name, [], {}
        self.queues = [name + queue.encode() for queue in queues]
        self.content = {}  # number: what the next header and bodies belong to
        self.channels = {}  # number: _Channel, of those that are open
        self.segment, self.patient = {}, sequence.patient
        self.unfinished = set()  # numbers with content that may go on
        self.closing = set()  # numbers that RabbitMQ has closed and that wait for close-ok
        self.published = []  # (message, its _Channel)
        for burst in sequence.bursts:
            if not self.is_open:
                break
            self._burst(burst, sequence.cuts)
            if sequence.patient and sequence.consumes() and self.is_open:
                self._settle()  # what consumers get comes before or behind the answer on another channel
            self._note_segment()
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
            if action.name == PAUSE:
                self._send(data)
                self._wait()
                data = b""
            elif self._may_send(action):
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
        channel.closes |= action.name == "channel.close"
        channel.unconfirmed += action.messages if channel.confirms else 0
        if action.message:
            self.published.append((action.message, channel))
            channel.published.append(channel.confirms and sum(map(bool, channel.published)) + 1)
        if action.name == "tx.commit":
            channel.commits.append(len(channel.published))

    def _owes(self):
        return any(channel.owed > 0 or channel.unconfirmed > 0 for channel in self.channels.values())

    # ---- reading ----

    def _wait(self):
        """Until all is answered, or nothing comes any more."""
        while self.is_open and self._owes():
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
            self.segment = {}
            self._note(0, "replies", "end of the connection")
            return self.close()
        if frame.type == amqp.HEARTBEAT:
            return None
        if frame.type != amqp.METHOD:
            return self._take_content(frame)
        channel, name = self.channels.get(frame.channel), frame.name
        if name == "connection.close":
            self.segment = {}  # which answers still came before it is chance with RabbitMQ too
            self._note(0, "replies", f"{name} {frame.args}")
            self._send(amqp.method_frame(0, "connection.close-ok"))
            return self.close()
        if name in ("basic.ack", "basic.nack") and channel:
            return self._confirm(frame, channel)
        if channel and channel.is_closed and name == "channel.close-ok" and not self.patient:
            del self.channels[frame.channel]  # whether its close went out before RabbitMQ's was read is chance there
            return None
        kind = "replies"
        if name in ("basic.deliver", "basic.cancel"):
            kind = f"consumer {frame.args['consumer_tag']}"
        self.content[frame.channel] = kind
        self._note(frame.channel, kind, f"{name} {frame.args}")
        if channel and name in ("basic.get-ok", "basic.return", "basic.deliver"):
            channel.getting = name == "basic.get-ok"
        elif channel and kind == "replies":
            channel.owed -= 1
            if name == "tx.commit-ok" and channel.commits:
                channel.safe = channel.commits.pop(0)
            self._note_close(frame.channel, channel, name)
        return None

    def _take_content(self, frame):
        """The answer to a basic.get ends with its content."""
        shown = frame.payload.hex() if frame.type == amqp.HEADER else repr(frame.payload)
        self._note(frame.channel, self.content.get(frame.channel), f"{frame.type} {shown}")
        channel = self.channels.get(frame.channel)
        if not channel:
            return
        channel.content = frame.body_size if frame.type == amqp.HEADER else channel.content - len(frame.payload)
        if channel.content == 0 and channel.getting:
            channel.owed -= 1

    def _note_close(self, number, channel, name):
        if name == "channel.close":
            self.closing.add(number)
            if channel.closes and not channel.is_closed:  # RabbitMQ answers a close that crosses its own
                channel.owed, channel.unconfirmed, channel.is_closed = 1, 0, True
                return
        if name == "channel.close-ok" and not channel.is_closed:
            channel.safe = len(channel.published)
        if name in ("channel.close", "channel.close-ok"):
            del self.channels[number]

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

    def unsafe(self):
        """The messages that were sent, but neither confirmed nor covered by another answer."""
        found, seen = [], collections.Counter()
        for message, channel in self.published:
            at = seen[id(channel)]
            seen[id(channel)] += 1
            if at >= channel.safe and channel.published[at] not in channel.confirmed:
                found.append(tuple(part.replace(NAME.decode(), "@") if isinstance(part, str) else part for part in message))
        return found

    # ---- the runner's own ----

    def _settle(self):
        """All that consumers have to get is here: each channel, then each queue, then each channel again
        has answered a question that is handled behind all before it."""
        numbers = [number for number in self.channels if number != PING]
        self._ask(numbers)
        answered = 0
        while answered < len(self.queues) and self.is_open:  # a queue that is not there closes the channel
            asked = len(self.queues) - answered
            data = b""
            if PING not in self.channels:
                self.channels[PING] = _Channel()
                self.channels[PING].owed = 1
                data = amqp.method_frame(PING, "channel.open")
            self.channels[PING].owed += asked
            self._send(data + b"".join(amqp.method_frame(PING, "queue.declare", queue=queue, passive=True)
                                       for queue in self.queues[answered:]))
            ping = self.channels[PING]
            self._wait()
            answered += asked - (ping.owed if PING not in self.channels else 0)
        self._ask(numbers)

    def _ask(self, numbers):
        data = b""
        for number in numbers:
            if number in self.channels:
                self.channels[number].owed += 1
                data += amqp.method_frame(number, "exchange.declare", exchange="amq.direct", passive=True)
        self._send(data)
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
        self.getting, self.content = False, 0  # whether a basic.get is being answered; bytes that are still to come
        self.closes = self.is_closed = False  # by the client, by RabbitMQ
        self.published = []  # the tag of each message, False if it has none
        self.commits, self.safe = [], 0  # how many messages are before each tx.commit; are safe
