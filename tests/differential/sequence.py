"""A random sequence of client frames, made from a seed.

It is a list of bursts. What stands in a burst is sent without waiting; then the answers are awaited.
Names begin with NAME, in whose place each run puts one of its own, of the same length.
"""

import dataclasses
import random
import struct

from support import amqp

NAME = b"@@@@@@"
QUEUES, EXCHANGES, NEW = ["q0", "q1", "q2"], ["xd", "xf", "xt"], ["n0", "n1"]
CHANNELS = [1, 2, 7]
PAUSE = "pause"  # in a burst: what was sent is answered before the rest goes out


@dataclasses.dataclass
class Action:
    channel: int
    name: str  # of the method, or what is odd about it
    data: bytes = b""  # whole frames, or not, if odd
    waits: bool = False  # a reply is expected
    shown: str = ""
    messages: int = 0  # that a confirm is expected for, if the channel has confirms
    whole: bool = True  # content may be unfinished behind it
    blind: bool = False  # goes out also if RabbitMQ has closed the channel
    alone: bool = False  # in its burst: means the channel's last queue
    args: dict = dataclasses.field(default_factory=dict)  # of its method
    message: tuple = ()  # exchange, routing key, header, body

    def __str__(self):
        return f"{self.channel}:{self.name} {self.shown}".rstrip()


@dataclasses.dataclass
class Sequence:
    seed: int
    bursts: list
    closes: bool  # its connection; else that serves the next sequence too
    patient: bool  # asks for an answer behind each burst; else answers come when they come
    cuts: random.Random  # where packets end; from the seed

    def actions(self):
        return [action for burst in self.bursts for action in burst]

    def consumes(self):
        return any(action.name == "basic.consume" for action in self.actions())

    def names(self):
        """The queues and exchanges of each run that something other than a publish names."""
        tidy = ("basic.", "channel.", "confirm.", "tx.", "connection.")
        return {name for name in QUEUES + EXCHANGES + NEW for action in self.actions()
                if not action.name.startswith(tidy) and NAME + name.encode() in action.data}

    def forgets(self, queue):
        """It may declare that queue with a limit of messages or time."""
        return any(action.name == "queue.declare" and action.args["queue"] == own(queue) and action.args["arguments"]
                   for action in self.actions())

    def __str__(self):
        return ("" if self.patient else "  (impatient)\n") + \
            "\n".join("  " + "; ".join(map(str, burst)) for burst in self.bursts) + \
            ("\n  connection.close" if self.closes else "")


def own(name):
    return NAME.decode() + name


class _Maker:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pick = self.random.choice
        self.open, self.consuming = [], False
        self.published = 0

    def chance(self, part):
        return self.random.random() < part

    # ---- fields ----

    def queue(self):
        return self.pick([own(self.pick(QUEUES))] * 8 + [own(self.pick(NEW)), "", own("none")])

    def exchange(self):
        return self.pick([own(self.pick(EXCHANGES))] * 5 + ["amq.direct", "amq.topic", "", own("none")])

    def key(self):
        return self.pick([own("q0"), own("q1"), own("q2"), "k0", "k1", "a.b", "a.b.c", "", "nowhere"])

    def value(self, depth=0):
        kinds = [lambda: b"t" + self.pick([b"\0", b"\1"]), lambda: b"b" + struct.pack(">b", self.pick([-1, 7])),
                 lambda: b"s" + struct.pack(">h", self.pick([-3, 300])), lambda: b"I" + struct.pack(">l", self.pick([-1, 70000])),
                 lambda: b"l" + struct.pack(">q", self.pick([-1, 1 << 40])), lambda: b"d" + struct.pack(">d", 1.5),
                 lambda: b"f" + struct.pack(">f", 0.25), lambda: b"D\x02" + struct.pack(">L", 314),
                 lambda: b"S" + amqp.long_string(self.pick(["", "text", "\u00e4\u20ac"])), lambda: b"T" + struct.pack(">Q", 1600000000),
                 lambda: b"V", lambda: b"x" + amqp.long_string(b"\0\xff"), lambda: b"B\xfe", lambda: b"u\xff\xfe",
                 lambda: b"i" + struct.pack(">L", 4000000000)]
        if depth < 2:
            kinds += [lambda: b"F" + self.table(depth + 1),
                      lambda: b"A" + amqp.long_string(b"".join(self.value(depth + 1) for _ in range(2)))]
        return self.pick(kinds)()

    def table(self, depth=0):
        count = self.pick([0, 1, 1, 2, 5])
        return amqp.long_string(b"".join(amqp.short_string(f"h{n}") + self.value(depth) for n in range(count)))

    def properties(self):
        """Any of the fourteen of a basic message."""
        if self.chance(0.3):
            return self.pick([amqp.PERSISTENT, b"\0\0"])
        short, flags, out = amqp.short_string, 0, b""
        fields = [(15, lambda: short("text/plain")), (14, lambda: short("utf-8")), (13, self.table),
                  (12, lambda: bytes([self.pick([0, 1, 2, 2, 3])])), (11, lambda: bytes([self.pick([0, 5, 255])])),
                  (10, lambda: short("cid")), (9, lambda: short("reply")),
                  (8, lambda: short(self.pick(["3600000"] * 12 + ["", "-1", "x"]))),
                  (7, lambda: short("mid")), (6, lambda: struct.pack(">Q", 1700000000)), (5, lambda: short("type")),
                  (4, lambda: short(self.pick(["guest"] * 8 + ["shop", ""]))), (3, lambda: short("app")), (2, lambda: short("cl"))]
        for bit, field in fields:
            if self.chance(0.05 if bit == 4 else 0.3):
                flags |= 1 << bit
                out += field()
        return struct.pack(">H", flags) + out

    def arguments(self, likely):
        if self.chance(0.75):
            return {}
        return dict(self.random.sample(likely, 1))

    # ---- actions ----

    def method(self, channel, name, waits=True, **args):
        shown = " ".join(f"{key}={value!r}" for key, value in args.items() if value not in (0, False, "", {}))
        return Action(channel, name, amqp.method_frame(channel, name, **args),
                      waits and not args.get("no_wait"), shown,
                      alone=args.get("queue") == "" and name != "queue.declare", args=args)

    def publish(self, channel, **more):
        args = {"exchange": self.pick(["", "", self.exchange()]), "routing_key": self.key(),
                "mandatory": self.chance(0.3), **more}
        body = b"%d." % self.published + b"b" * self.pick([0, 1, 10, 10, 100, 4000, 20000])
        if self.chance(0.1):
            body = b""
        self.published += 1
        step = self.pick([131064, 131064, 4088, max(1, len(body) // 3)])
        properties = self.properties()
        data = amqp.method_frame(channel, "basic.publish", **args) + amqp.frame(
            amqp.HEADER, channel, amqp.header(len(body), properties))
        for at in range(0, len(body), step):
            data += amqp.frame(amqp.BODY, channel, body[at:at + step])
        shown = " ".join(f"{key}={value!r}" for key, value in args.items() if value)
        return Action(channel, "basic.publish", data, False,
                      f"{shown} properties={properties.hex()} body={len(body)}", 1, args=args,
                      message=(args["exchange"], args["routing_key"], amqp.header(len(body), properties), body))

    def select(self, channel):
        return self.method(channel, self.pick(["confirm.select"] * 5 + ["tx.select"]))

    def declare(self, channel):
        passive, no_wait = self.chance(0.3), self.chance(0.1)
        if self.chance(0.3):
            types = ["direct", "fanout", "topic", "headers"] * 6 + ["nonsense"]
            return self.method(channel, "exchange.declare", exchange=own(self.pick(NEW + EXCHANGES)),
                               type=self.pick(types), passive=passive, durable=self.chance(0.7), no_wait=no_wait,
                               auto_delete=self.chance(0.1), internal=self.chance(0.1),
                               arguments=self.arguments([("alternate-exchange", own("xf")), ("x-odd", 1)]))
        likely = [("x-max-length", 2), ("x-message-ttl", 3600000), ("x-max-priority", 4), ("x-expires", 0),
                  ("x-overflow", "reject-publish"), ("x-dead-letter-exchange", own("xf")), ("x-max-length", "two"),
                  ("x-queue-type", "nonsense"), ("x-odd", 1), ("x-single-active-consumer", True), ("x-queue-mode", "lazy")]
        return self.method(channel, "queue.declare", queue=self.pick([own(n) for n in NEW * 4 + QUEUES * 2] + ["", "amq.x"]),
                           passive=passive, durable=self.chance(0.8), exclusive=self.chance(0.1),
                           auto_delete=self.chance(0.1), no_wait=no_wait, arguments=self.arguments(likely))

    def bind(self, channel):
        name = self.pick(["queue.bind"] * 4 + ["queue.unbind", "exchange.bind", "exchange.unbind"])
        ends = ({"queue": self.queue(), "exchange": self.exchange()} if name.startswith("queue") else
                {"destination": self.exchange(), "source": self.exchange()})
        if name != "queue.unbind":
            ends["no_wait"] = self.chance(0.1)
        return self.method(channel, name, routing_key=self.pick(["k0", "k5", "a.*", "#", ""]),
                           arguments=self.arguments([("x-match", "any"), ("h0", 1), ("x-match", "odd")]), **ends)

    def remove(self, channel):
        what = self.pick(["queue.purge"] * 2 + ["queue.delete"] * 2 + ["exchange.delete"])
        no_wait = self.chance(0.1)
        if what == "queue.purge":
            return self.method(channel, what, queue=self.queue(), no_wait=no_wait)
        if what == "queue.delete":
            return self.method(channel, what, queue=self.queue(), if_unused=self.chance(0.2),
                               if_empty=self.chance(0.2), no_wait=no_wait)
        return self.method(channel, what, exchange=self.exchange(), if_unused=self.chance(0.2), no_wait=no_wait)

    def get(self, channel):
        return self.method(channel, "basic.get", queue=self.queue(), no_ack=self.chance(0.4))

    def settle(self, channel):
        name = self.pick(["basic.ack"] * 3 + ["basic.nack", "basic.reject"])
        args = {"delivery_tag": self.pick([1] * 6 + [2, 3, 0, 99])}
        if name != "basic.reject":
            args["multiple"] = self.chance(0.3)
        if name != "basic.ack":
            args["requeue"] = self.chance(0.6)
        return self.method(channel, name, False, **args)

    def consume(self, channel):
        return self.method(channel, "basic.consume", queue=self.queue(), consumer_tag=self.pick(["", "c1", "c1", "c2"]),
                           no_ack=self.chance(0.4), exclusive=self.chance(0.1), no_wait=False,
                           arguments=self.arguments([("x-priority", 5), ("x-odd", 1)]))

    def other(self, channel):
        return self.pick([
            lambda: self.method(channel, "basic.cancel", consumer_tag=self.pick(["c1", "c2", "none"]), no_wait=self.chance(0.1)),
            lambda: self.method(channel, "basic.qos", prefetch_count=self.pick([0, 1, 3]), global_=self.chance(0.3)),
            lambda: self.method(channel, "basic.recover", requeue=self.chance(0.9)),
            lambda: self.method(channel, "tx.commit"),
            lambda: self.method(channel, "tx.rollback"),
            lambda: self.method(channel, "channel.flow", active=True)])()

    def odd(self, channel):
        """What a client has no business to send."""
        frame, header = amqp.frame, amqp.header
        publish = amqp.method_frame(channel, "basic.publish", routing_key=own("q0"))
        known = amqp.method("queue.declare", queue=own("q0"), passive=True)
        closed = self.pick([n for n in (3, 9, 2000) if n not in self.open])
        choices = {
            "body without header": publish + frame(amqp.BODY, channel, b"x"),
            "header without method": frame(amqp.HEADER, channel, header(1)),
            "body alone": frame(amqp.BODY, channel, b"x"),
            "method in content": publish + frame(amqp.METHOD, channel, known),
            "method in body": publish + frame(amqp.HEADER, channel, header(5)) + frame(amqp.METHOD, channel, known),
            "body too long": publish + frame(amqp.HEADER, channel, header(1)) + frame(amqp.BODY, channel, b"xyz") + frame(
                amqp.METHOD, channel, known),
            "wrong class": publish + frame(amqp.HEADER, channel, header(0, class_id=50)),
            "weight": publish + frame(amqp.HEADER, channel, header(0, weight=1)),
            "cut properties": publish + frame(amqp.HEADER, channel, header(0, b"\xf0\x00")),
            "two headers": publish + 2 * frame(amqp.HEADER, channel, header(3)),
            "frame end": frame(amqp.METHOD, channel, known, end=0),
            "frame type": frame(self.pick([0, 4, 5, 77]), channel, b""),
            "heartbeat on channel": frame(amqp.HEARTBEAT, channel, b""),
            "heartbeat with payload": frame(amqp.HEARTBEAT, 0, b"x"),
            "heartbeat": frame(amqp.HEARTBEAT, 0, b""),
            "empty method": frame(amqp.METHOD, channel, b""),
            "cut method": frame(amqp.METHOD, channel, known[:-self.pick([1, 3, 6])]),
            "long method": frame(amqp.METHOD, channel, known + b"\0"),
            "unknown method": frame(amqp.METHOD, channel, struct.pack(">HH", *self.pick([(60, 33), (50, 99), (77, 1), (85, 11)]))),
            "server method": amqp.method_frame(channel, self.pick(["channel.open-ok", "queue.declare-ok", "basic.cancel-ok"])),
            "deliver": amqp.method_frame(channel, "basic.deliver"),
            "flow-ok": amqp.method_frame(channel, "channel.flow-ok", active=True),
            "flow false": amqp.method_frame(channel, "channel.flow", active=False),
            "closed channel": amqp.method_frame(closed, "queue.declare", queue=own("q0"), passive=True),
            "close of closed": amqp.method_frame(closed, "channel.close", reply_code=200),
            "close-ok of closed": amqp.method_frame(closed, "channel.close-ok"),
            "publish on closed": amqp.publish_frames(closed, b"x", routing_key=own("q0")),
            "channel method on 0": amqp.method_frame(0, "queue.declare", queue=own("q0"), passive=True),
            "connection method": amqp.method_frame(0, self.pick(["connection.open", "connection.tune-ok", "connection.start-ok"])),
            "open twice": amqp.method_frame(channel, "channel.open"),
            "unasked close-ok": amqp.method_frame(channel, "channel.close-ok"),
            "immediate": amqp.publish_frames(channel, b"x", routing_key=own("q0"), immediate=True),
            "prefetch size": amqp.method_frame(channel, "basic.qos", prefetch_size=1),
            "recover without requeue": amqp.method_frame(channel, "basic.recover", requeue=False),
            "bad table": frame(amqp.METHOD, channel, amqp.method("queue.declare", queue=own("n0"), arguments=b"\x01kZ")),
            "wrong header table": publish + frame(amqp.HEADER, channel, header(0, b"\x20\x00" + amqp.long_string(b"\x01kI"))),
        }
        name = self.pick(sorted(choices))
        unanswered = name in ("heartbeat", "flow-ok")
        waits = not unanswered and name != "deliver"  # that goes on with content
        return Action(channel, f"odd: {name}", choices[name], waits, whole=unanswered, blind="closed" in name)

    def action(self, channel):
        action = self.pick([self.publish] * 9 + [self.select] + [self.declare] * 2 + [self.bind, self.remove, self.other] +
                         [self.get] * 2 + [self.settle] + [self.consume] * self.consuming)(channel)
        action.blind = action.name == "basic.publish" and self.chance(0.05)
        return action

    def burst(self, strange):
        if not self.open or (len(self.open) < len(CHANNELS) and self.chance(0.15)):
            channel = self.pick([n for n in CHANNELS if n not in self.open])
            self.open.append(channel)
            actions = [self.method(channel, "channel.open")]
            return actions + ([self.select(channel)] if self.chance(0.6) else [])
        channel = self.pick(self.open)
        if strange:
            return [self.odd(channel)]
        if self.chance(0.08):
            self.open.remove(channel)
            before = [self.publish(channel)] if self.chance(0.5) else []
            return before + [self.method(channel, "channel.close", reply_code=200, reply_text="done")]
        # One channel at a time while one consumes: what two do at once RabbitMQ orders as it likes.
        actions = [self.action(channel) for _ in range(1 if self.consuming else self.pick([1, 1, 2, 4, 8]))]
        return next(([action] for action in actions if action.alone), actions)


def method(channel, name, waits=True, **args):
    """An action of sequences that are written by hand, with the arguments that the runner asks for."""
    if name.endswith(".declare"):
        args = {"passive": False, "arguments": {}} | args
    return _Maker(0).method(channel, name, waits, **args)


def publish(channel, key, body):
    data = amqp.publish_frames(channel, body, routing_key=key)
    return Action(channel, "basic.publish", data, shown=repr(body), messages=1, args={"exchange": "", "routing_key": key},
                  message=("", key, amqp.header(len(body)), body))


def written(*bursts):
    return Sequence(0, [list(burst) for burst in bursts], False, True, random.Random(0))


def make(seed):
    maker = _Maker(seed)
    maker.consuming = maker.chance(0.2)
    strange = maker.chance(0.3)
    count = maker.random.randint(3, 9)
    bursts = [maker.burst(False) for _ in range(count)]
    if strange:
        bursts.append(maker.burst(True))
        bursts += [maker.burst(False) for _ in range(maker.random.randint(0, 2))]
    # Whether what is odd still goes out behind a close is chance where nobody waits.
    patient = maker.chance(0.8) or strange
    sequence = Sequence(seed, bursts, maker.chance(0.2), patient, random.Random(seed))
    for action in () if sequence.patient else sequence.actions():
        action.blind &= action.name != "basic.publish"  # what it means there is chance
    return sequence
