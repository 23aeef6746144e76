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

from . import allowed
from .broker_end import BrokerEnd
from .sequence import NEW, QUEUES, make
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
        self.hurt = ""
        self.sides = {}
        self.name, self.renew = None, True

    def _side(self, vhost, fresh, quiet):
        side = self.sides.get(vhost)
        if side is None or not side.is_open or fresh:
            if side:
                side.close()
            side = self.sides[vhost] = Side(self.ports[vhost], vhost, quiet)
        return side

    def run(self, sequence, fresh=False, quiet=0.4):
        """What RabbitMQ answers straight, and through amqpbuf: two lists of lines."""
        if self.name is None or fresh:
            self.rename()
        held, answers = None, []
        queues = QUEUES + [n for n in NEW if n in sequence.names()]
        for vhost in self.ports:
            sequence.cuts.seed(sequence.seed)
            side = self._side(vhost, fresh, quiet)
            lines = side.run(sequence, self.name.encode())
            found, counts = self.ends[vhost].contents(self.name, queues, held)
            held = held or counts
            answers.append(lines + found)
        self.hurt = self.bystander.hurt()
        if self.hurt:
            self.bystander = Bystander(self.bystander.port, self.bystander.vhost)
            answers[1].append(f"{allowed.HURT}: {self.hurt}")
        if any("close {" in line for line in answers[1]):
            wait_until(self.is_live, "what was stored behind a refusal has been drained")
        if any(not side.is_open for side in self.sides.values()):
            for side in self.sides.values():
                side.close()
        self._repair(sequence.names())
        return answers

    def is_live(self):
        return self.admin.metrics().get(self.live, 1) == 1

    def rename(self):
        for end in self.ends.values():
            if self.name:
                end.remove(self.name)
        self.name = fresh_name()
        for end in self.ends.values():
            end.prepare(self.name)

    def _repair(self, names):
        for end in self.ends.values() if names else ():
            end.remove(self.name, names)
            end.prepare(self.name, names)


def difference(pair, sequence, tries=TRIES, quiet=0.4):
    """(straight, proxied) if amqpbuf never answers as RabbitMQ does on any of some tries; else None."""
    straight, proxied = set(), set()
    for _ in range(tries):
        answers = allowed.reduced(*pair.run(sequence, True, quiet))
        straight.add(tuple(answers[0]))
        proxied.add(tuple(answers[1]))
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
        answers = allowed.reduced(*pair.run(sequence))
    except (AssertionError, OSError, AttributeError) as error:
        found.put((seed, f"seed {seed}: {error!r}\n{sequence}"))
        pair.__init__(*pair.arguments)
        return False
    counts["sequences"] += 1
    if answers[0] == answers[1]:
        return True
    counts["again"] += 1
    different = difference(pair, sequence, quiet=1)
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
    for end in pair.ends.values():
        end.remove(pair.name)
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
    different = difference(pair, sequence, quiet=1)
    tell(f"seed {seed}:\n{sequence}")
    if different:
        sequence = shortest(pair, sequence)
        tell(f"shortest:\n{sequence}\n{side_by_side(*(difference(pair, sequence) or different))}")
    else:
        tell("\n".join(allowed.reduced(*pair.run(sequence, True, 1))[1]))
    return bool(different)


def random_seed():
    return random.randrange(1 << 30)
