"""Runs sequences straight and through amqpbuf, compares, and makes what differs short."""

import collections
import difflib
import itertools
import multiprocessing
import os
import random
import re
import time

from support import amqp
from support.http import Admin
from support.wait import wait_until

from . import allowed, leftovers
from .broker_end import BrokerEnd
from .sequence import EXCHANGES, NEW, QUEUES, make
from .place import WORKERS
from .side import Side

TRIES = 6  # RabbitMQ's answers can differ from run to run: a difference is one that none of them explains
_names = itertools.count()


def fresh_name():
    return f"{os.getpid() % 46656:03x}"[-3:] + f"{next(_names) % 4096:03x}"


class Bystander(Side):
    """Publishes with confirms on the same login; nothing that others do may be seen by it."""

    def __init__(self, port, vhost):
        super().__init__(port, vhost)
        self.socket.settimeout(20)
        self.sent = 0
        self.socket.sendall(amqp.method_frame(1, "channel.open") + amqp.method_frame(1, "confirm.select"))
        for name in ("channel.open-ok", "confirm.select-ok"):
            assert self.stream.read().name == name

    def hurt(self):
        """What it sees that it should not; "" if all is well."""
        self.sent += 1
        try:
            self.socket.sendall(amqp.publish_frames(1, b"mine", exchange="amq.fanout"))
            frame = self.stream.read()
        except OSError as error:
            return repr(error)
        if frame is None or frame.name != "basic.ack" or frame.args["delivery_tag"] != self.sent:
            return f"{frame} {frame and frame.args}"
        return ""


Sent = collections.namedtuple("Sent", ("sequence", "unsafe"))


class Pair:
    """The two sides of one RabbitMQ, in two vhosts of a worker's own, and a connection that goes on."""

    def __init__(self, ports, number):
        straight_port, proxied_port, admin_port = ports
        self.arguments = ports, number
        self.ports = {f"s{number}": straight_port, f"p{number}": proxied_port}
        self.admin = Admin(admin_port)
        self.live = 'amqpbuf_queue_state{user="guest",vhost="p%d",state="live"}' % number
        self.ends = {vhost: BrokerEnd(straight_port, vhost) for vhost in self.ports}
        self.bystander = Bystander(proxied_port, f"p{number}")
        self.hurt, self.unsafe = "", []
        self.sides = {}
        self.name, self.renew = None, True

    def _side(self, vhost, fresh):
        side = self.sides.get(vhost)
        if side is None or not side.is_open or fresh:
            if side:
                side.close()
            side = self.sides[vhost] = Side(self.ports[vhost], vhost)
        return side

    def compare(self, sequence, fresh=False, variant=None):
        """What is to be the same: two lists of lines."""
        answers = self.run(sequence, fresh, variant)
        return allowed.reduced(*answers, Sent(sequence, self.unsafe))

    def run(self, sequence, fresh, variant):
        """What RabbitMQ answers straight, and through amqpbuf: two lists of lines. Straight it gets the variant, if there is one."""
        if self.name is None or fresh:
            self.rename()
        held, answers = None, []
        names = sequence.names()
        queues = QUEUES + [name for name in NEW if name in names]
        for vhost, sent in zip(self.ports, (variant or sequence, sequence)):
            sent.cuts.seed(sent.seed)
            side = self._side(vhost, fresh)
            lines = side.run(sent, self.name.encode(), queues)
            if vhost.startswith("p") and any("close {" in line for line in lines):
                wait_until(self.is_live, "what was stored behind a refusal has been drained")
            found, counts = self.ends[vhost].contents(self.name, queues, held)
            held = held or counts
            answers.append(lines + found)
        self.unsafe = side.unsafe()
        self.hurt = self.bystander.hurt()
        if self.hurt:
            self.bystander = Bystander(self.bystander.port, self.bystander.vhost)
            answers[1].append(f"{allowed.HURT}: {self.hurt}")
        if any(not side.is_open for side in self.sides.values()):
            for side in self.sides.values():
                side.close()
        self._repair(sequence)
        return answers

    def is_live(self):
        return self.admin.metrics().get(self.live, 1) == 1

    def rename(self):
        for end in self.ends.values():
            if self.name:
                end.remove(*self._full(QUEUES + NEW, EXCHANGES + NEW))
        self.name = fresh_name()
        for end in self.ends.values():
            end.prepare(self.name)

    def _full(self, *kinds):
        return [[self.name + name for name in names] for names in kinds]

    def _repair(self, sequence):
        """As the next run wants to find it."""
        names, bindings = leftovers.changed(sequence), leftovers.bindings(sequence)
        for vhost, end in self.ends.items():
            queues, exchanges = self._full(*[[name for name in kind if name in names]
                                             for kind in (QUEUES + NEW, EXCHANGES + NEW)])
            queues += [name for name in self.sides[vhost].made if name.startswith("amq.gen")]
            if not end.remove(queues, exchanges):
                self.sides[vhost].close()
                wait_until(lambda: end.remove(queues, exchanges), "no queue is exclusive to a connection any more")  # noqa: B023
            end.prepare(self.name, names)
            end.undo(self.name, bindings)


def difference(pair, sequence, tries=TRIES):
    """(straight, proxied) if amqpbuf never answers as RabbitMQ does on any of some tries, nor to a variant of it; else None."""
    straight, proxied = set(), set()
    for _ in range(tries):
        answers = pair.compare(sequence, True)
        variants = allowed.variants(sequence, *answers)
        for found in itertools.chain([answers], (pair.compare(sequence, True, variant) for _, variant in variants)):
            straight.add(tuple(found[0]))
            proxied.add(tuple(found[1]))
            if straight & proxied:
                return None
    return answers


def shortest(pair, sequence):
    """Leaves out what is not needed for a difference: bursts, then single actions."""
    changed = True
    while changed:
        changed = False
        for parts in (range(len(sequence.bursts)), ):
            for at in reversed(parts):
                changed |= _without(pair, sequence, sequence.bursts[:at] + sequence.bursts[at + 1:])
        for at in reversed(range(len(sequence.bursts))):
            for inner in reversed(range(len(sequence.bursts[at]) if at < len(sequence.bursts) else 0)):
                burst = sequence.bursts[at][:inner] + sequence.bursts[at][inner + 1:]
                if burst:
                    changed |= _without(pair, sequence, sequence.bursts[:at] + [burst] + sequence.bursts[at + 1:])
    return sequence


def _without(pair, sequence, bursts):
    before, sequence.bursts = sequence.bursts, bursts
    if bursts and difference(pair, sequence, 3):
        return True
    sequence.bursts = before
    return False


def side_by_side(straight, proxied):
    """The lines of both, those that differ one above the other."""
    out = []
    blocks = difflib.SequenceMatcher(None, straight, proxied, autojunk=False).get_opcodes()
    for what, a, a_end, b, b_end in blocks:
        if what == "equal":
            out += [f"             {line[:300]}" for line in straight[a:a_end]]
        else:
            out += [f"! RabbitMQ   {line[:300]}" for line in straight[a:a_end]]
            out += [f"! amqpbuf    {line[:300]}" for line in proxied[b:b_end]]
    return "\n".join(out)


def kind_of(straight, proxied):
    """What two differences of one kind have in common."""
    for a, b in itertools.zip_longest(straight, proxied, fillvalue=""):
        if a != b:
            return re.sub(r"\d+", "N", a)[:100], re.sub(r"\d+", "N", b)[:100]
    return None


def check(pair, seed, found, counts, brief):
    """Runs the sequence of a seed; a new kind of difference goes to `found`, made short unless `brief`.
    Returns whether it is as with RabbitMQ."""
    sequence = make(seed)
    try:
        answers = pair.compare(sequence)
    except (AssertionError, OSError, AttributeError) as error:
        found.put((seed, f"seed {seed}: {error!r}\n{sequence}"))
        pair.__init__(*pair.arguments)
        return False
    counts["sequences"] += 1
    if answers[0] == answers[1]:
        return True
    for name, variant in allowed.variants(sequence, *answers):
        other = pair.compare(sequence, variant=variant)
        if other[0] == other[1]:
            counts[f"allowed: {name}"] += 1
            return True
    counts["again"] += 1
    different = difference(pair, sequence)
    if not different:
        counts[f"by chance: {kind_of(*answers)}"] += 1
        return True
    kind = kind_of(*different)
    counts[f"different: {kind}"] += 1
    if counts[f"different: {kind}"] > 1:
        return False
    if not brief:
        sequence = shortest(pair, sequence)
        different = difference(pair, sequence) or different
    found.put((seed, f"seed {seed}:\n{sequence}\n{side_by_side(*different)}"))
    return False


def work(ports, number, seeds, until, found, done, brief):
    counts, pair = collections.Counter(), Pair(ports, number)
    for seed in seeds:
        if time.monotonic() > until:
            break
        if not check(pair, seed, found, counts, brief) and brief:
            break
    done.put(counts)


def run(ports, first, seconds=None, limit=None, workers=WORKERS, tell=print, brief=False):
    """Seeds from `first` on, in so many processes; if `brief`, each ends at its first difference.
    Returns (counts, what is wrong)."""
    context = multiprocessing.get_context("fork")
    found, done = context.Queue(), context.Queue()
    until = time.monotonic() + seconds if seconds else float("inf")
    last = first + limit if limit else first + (1 << 60)
    children = [context.Process(target=work, daemon=True, args=(
        ports, n, range(first + n, last, workers), until, found, done, brief)) for n in range(workers)]
    for process in children:
        process.start()
    wrong, counts = [], collections.Counter()

    def gather():
        while not found.empty():
            wrong.append(found.get())
            tell(wrong[-1][1])

    while any(child.is_alive() for child in children):
        gather()
        while not done.empty():
            counts += done.get()
        time.sleep(0.05)
    time.sleep(0.1)
    gather()
    while not done.empty():
        counts += done.get()
    if any(child.exitcode for child in children):
        wrong.append((None, "a worker has ended by itself"))
    return counts, wrong


def replay(ports, seed, tell=print):
    """One seed, shown whether it differs or not."""
    pair, sequence = Pair(ports, 0), make(seed)
    different = difference(pair, sequence)
    tell(f"seed {seed}:\n{sequence}")
    if different:
        sequence = shortest(pair, sequence)
        tell(f"shortest:\n{sequence}\n{side_by_side(*(difference(pair, sequence) or different))}")
    else:
        tell("\n".join(pair.compare(sequence, True)[1]))
    return bool(different)


def random_seed():
    return random.randrange(1 << 30)
