"""RabbitMQ's end: what a run finds there, what it leaves, and taking it away again."""

import time

from support import amqp

from .sequence import EXCHANGES, NEW, QUEUES
from .side import Side

TYPES = {"xd": "direct", "xf": "fanout", "xt": "topic"}
BINDINGS = [("q0", "xd", "k0"), ("q1", "xd", "k1"), ("q1", "xf", ""), ("q2", "xf", ""), ("q2", "xt", "a.#")]
LATER_S = 1  # what an upstream of a client's own held comes back when that is closed, not before


class BrokerEnd(Side):
    """A connection of the runner's own, straight to RabbitMQ, with a channel for each queue."""

    def __init__(self, port, vhost):
        super().__init__(port, vhost)
        self.socket.settimeout(60)
        self.opened = set()

    def call(self, channel, *calls):
        """The answers to calls (name, args) on it; the last may be a channel.close."""
        data = b"" if channel in self.opened else amqp.method_frame(channel, "channel.open")
        answers, wanted = [], len(calls) + bool(data)
        self.opened.add(channel)
        self._send(data + b"".join(amqp.method_frame(channel, name, **args) for name, args in calls))
        while wanted:
            frame = self.stream.read()
            assert frame and frame.name != "connection.close", frame and frame.args
            if frame.type != amqp.METHOD:
                answers.append(frame)
                continue
            wanted -= 1
            if frame.name != "channel.open-ok":
                answers.append(frame)
            if frame.name == "channel.close":
                self._send(amqp.method_frame(channel, "channel.close-ok"))
                self.opened.remove(channel)
                break
        return answers

    def prepare(self, name, only=QUEUES + EXCHANGES):
        """The queues, exchanges and bindings that each sequence finds."""
        calls = [("exchange.declare", {"exchange": name + x, "type": TYPES[x], "durable": True})
                 for x in EXCHANGES if x in only]
        calls += [("queue.declare", {"queue": name + q, "durable": True}) for q in QUEUES if q in only]
        calls += [("queue.bind", {"queue": name + q, "exchange": name + x, "routing_key": key})
                  for q, x, key in BINDINGS if q in only or x in only]
        for answer in self.call(9, *calls):
            assert answer.name.endswith("-ok"), answer.args

    def remove(self, name, only=QUEUES + EXCHANGES + NEW):
        for what, names in (("queue", QUEUES + NEW), ("exchange", EXCHANGES + NEW)):
            for one in names:
                if one in only:
                    self.call(9, (f"{what}.delete", {what: name + one}))

    def count(self, name, queue):
        answer = self.call(1, ("queue.declare", {"queue": name + queue, "passive": True}))[-1]
        return answer.args.get("message_count", answer.args.get("reply_code"))

    def contents(self, name, queues, expected=None):
        """Lines: what each queue holds, in its order; all of it is taken out."""
        counts = {queue: self.count(name, queue) for queue in queues}
        until = time.monotonic() + LATER_S
        while expected is not None and counts != expected and time.monotonic() < until:
            time.sleep(0.005)
            counts = {queue: self.count(name, queue) for queue in queues}
        lines = []
        for queue, count in counts.items():
            lines.append(f"queue {queue}: {count}")
            if count in (404, 405):
                continue
            get = ("basic.get", {"queue": name + queue, "no_ack": True})
            for frame in self.call(2, *[get] * count) if count else ():
                frame.args.pop("delivery_tag", None)  # of the runner's own channel
                shown = f"{frame.name} {frame.args}" if frame.type == amqp.METHOD else f"{frame.type} {frame.payload!r}"
                lines.append(f"queue {queue}: " + shown.replace(name, "@"))
        return lines, counts
