"""RabbitMQ's end: what a run finds there, what it leaves, and taking it away again."""

import time

from support import amqp

from .sequence import EXCHANGES, NAME, QUEUES
from .side import Side

TYPES = {"xd": "direct", "xf": "fanout", "xt": "topic"}
BINDINGS = [("q0", "xd", "k0"), ("q1", "xd", "k1"), ("q1", "xf", ""), ("q2", "xf", ""), ("q2", "xt", "a.#")]
LATER_S = 1  # what an upstream of a client's own held comes back when that is closed, not before


class BrokerEnd(Side):
    """A connection of the runner's own, straight to RabbitMQ."""

    def __init__(self, port, vhost):
        super().__init__(port, vhost, 60)
        self.opened = set()

    def call(self, channel, *calls):
        """The answers to calls (name, args) on it, sent at once: all of them, or those up to a channel.close."""
        data = b"" if channel in self.opened else amqp.method_frame(channel, "channel.open")
        answers, wanted = [], len(calls) + bool(data)
        rest = 0  # the header and the bytes of a message that are still to come
        self.opened.add(channel)
        self._send(data + b"".join(amqp.method_frame(channel, name, **args) for name, args in calls))
        while wanted or rest:
            frame = self.stream.read()
            assert frame and frame.name != "connection.close", frame and frame.args
            if frame.type != amqp.METHOD:
                answers.append(frame)
                rest += frame.body_size - 1 if frame.type == amqp.HEADER else -len(frame.payload)
                continue
            wanted -= 1
            rest += frame.name == "basic.get-ok"
            if frame.name != "channel.open-ok":
                answers.append(frame)
            if frame.name == "channel.close":
                self._send(amqp.method_frame(channel, "channel.close-ok"))
                self.opened.remove(channel)
                break
        return answers

    def call_each(self, channel, calls):
        """An answer for each call: what is behind one that RabbitMQ refuses is asked again."""
        answers = []
        while len(answers) < len(calls):
            answers += self.call(channel, *calls[len(answers):])
        return answers

    def prepare(self, name, only=QUEUES + EXCHANGES):
        """The queues, exchanges and bindings that each sequence finds."""
        calls = [("exchange.declare", {"exchange": name + x, "type": TYPES[x], "durable": True})
                 for x in EXCHANGES if x in only]
        calls += [("queue.declare", {"queue": name + q, "durable": True}) for q in QUEUES if q in only]
        calls += [("queue.bind", {"queue": name + q, "exchange": name + x, "routing_key": key})
                  for q, x, key in BINDINGS if q in only or x in only]
        for answer in self.call(9, *calls) if calls else ():
            assert answer.name.endswith("-ok"), answer.args

    def remove(self, queues, exchanges):
        """Those of these full names that are there. Whether all could be: one may be exclusive to a connection."""
        answers = self.call_each(9, [("queue.delete", {"queue": queue}) for queue in queues] +
                                 [("exchange.delete", {"exchange": exchange}) for exchange in exchanges])
        return all(answer.name.endswith("-ok") for answer in answers)

    def undo(self, name, bindings):
        """Takes bindings away that a sequence has made, and those back that it took."""
        def full(args):
            return {key: value.replace(NAME.decode(), name) if isinstance(value, str) else value for key, value in args.items()}
        self.call_each(9, [(method, full(args)) for method, args in bindings])

    def counts(self, name, queues):
        """{queue: how many messages are in it, or why that is not known}"""
        answers = self.call_each(1, [("queue.declare", {"queue": name + queue, "passive": True}) for queue in queues])
        return {queue: answer.args.get("message_count", answer.args.get("reply_code"))
                for queue, answer in zip(queues, answers)}

    def contents(self, name, queues, expected=None):
        """(lines: what each queue holds, in its order; {queue: how many messages}). All of it is taken out."""
        counts = self.counts(name, queues)
        until = time.monotonic() + LATER_S
        while expected is not None and counts != expected and time.monotonic() < until:
            time.sleep(0.005)
            counts = self.counts(name, queues)
        held = self._take_all(name, {queue: count + 1 for queue, count in counts.items() if count not in (404, 405)})
        counts.update({queue: len(messages) for queue, messages in held.items()})
        lines = []
        for queue, count in counts.items():
            lines.append(f"queue {queue}: {count}")
            lines += [f"queue {queue}: " + _shown(frame).replace(name, "@")
                      for message in held.get(queue, ()) for frame in message]
        return lines, counts

    def _take_all(self, name, wanted):
        """{queue: its messages, a list of frames each}; so many are asked for at first. A count may be behind what has
        been published: the queue is empty when it says so."""
        held = {queue: [] for queue in wanted}
        while wanted:
            asked = [queue for queue, count in wanted.items() for _ in range(count)]
            answers = _by_method(self.call(2, *[("basic.get", {"queue": name + queue, "no_ack": True}) for queue in asked]))
            for queue, answer in zip(asked, answers):
                if answer[0].name == "basic.get-ok":
                    held[queue].append(answer)
                else:
                    wanted.pop(queue, None)
            wanted = dict.fromkeys(wanted, 1)
        return held


def _by_method(frames):
    """A list of frames for each method: that, and its content."""
    starts = [at for at, frame in enumerate(frames) if frame.type == amqp.METHOD]
    return [frames[at:end] for at, end in zip(starts, starts[1:] + [len(frames)])]


def _shown(frame):
    if frame.type != amqp.METHOD:
        return f"{frame.type} {frame.payload!r}"
    args = {key: value for key, value in frame.args.items() if key not in ("delivery_tag", "message_count")}
    return f"{frame.name} {args}"  # without what depends on the runner's own calls
