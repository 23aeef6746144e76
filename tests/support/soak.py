"""Everything at once: publishers with and without confirms, a consumer, a broker that comes and goes
in every way, a proxy that is killed; and the account of it at the end."""

import collections
import random
import re
import shutil
import tempfile
import threading
import time

import pika

from . import recovered
from .proxy import Proxy
from .rabbit import Rabbit
from .raw import RawClient
from .wait import wait_until

KEPT, CONSUMED = "soak.kept", "soak.consumed"
IN_FLIGHT_MAX, JOB_MESSAGES = 20, 5
# A publisher's name and a number. Named, for a body of thousands of letters follows.
NUMBERED = re.compile(rb"(confirming\d|job\d|consumed):(\d+) ")
PROGRESS = 300  # messages between two events
BROKEN = (OSError, AssertionError, pika.exceptions.AMQPError)  # a connection that has ended


class Publisher(threading.Thread):
    """Numbers its messages; what is not acked when the connection ends is published again."""

    pace = 0.05  # seconds between two batches: it is about ends and beginnings, not about speed

    def __init__(self, soak, name, queue):
        super().__init__(daemon=True)
        self.soak, self.name, self.queue = soak, name, queue
        self.next, self.safe = 0, 0  # all below `safe` was answered for
        self.sent = 0  # no number from here on was ever sent

    def run(self):
        while not self.soak.stopping.is_set():
            try:
                self.session()
            except BROKEN:
                self.soak.stopping.wait(0.05)

    def body(self, number):
        return f"{self.name}:{number} ".encode() + b"x" * (number * 37 % 3000)

    def publish(self, client):
        self.sent = max(self.sent, self.next + 1)
        client.publish(self.body(self.next), self.queue)
        self.next += 1


class Confirming(Publisher):
    def session(self):
        self.next = self.safe
        first = self.safe  # the message with tag 1
        with RawClient(self.soak.proxy.port) as client:
            client.open_channel(confirms=True)
            while not self.soak.stopping.is_set():
                while self.next - self.safe < IN_FLIGHT_MAX:
                    self.publish(client)
                open_tags = set(range(self.safe - first + 1, self.next - first + 1))
                client.acked_up_to_tags(open_tags)
                self.safe = self.next
                self.soak.stopping.wait(self.pace)
            client.close()


class Job(Publisher):
    """As a PHP job: connects, publishes, closes. What it published is safe once close has returned."""

    def session(self):
        self.next = self.safe
        with RawClient(self.soak.proxy.port) as client:
            client.open_channel()
            for _ in range(JOB_MESSAGES):
                self.publish(client)
            client.call(1, "channel.close", reply_code=200, reply_text="bye")
            client.close()
        self.safe = self.next
        self.soak.stopping.wait(self.pace)


class Ledger:
    """What has arrived of one publisher's messages: all whole, the first copies in order."""

    def __init__(self, publisher, in_order):
        self.publisher, self.in_order = publisher, in_order
        self.has = bytearray()  # by number
        self.last, self.copies = -1, 0
        self.late = set()  # RabbitMQ was killed and had kept later ones, but not these
        self.recent = collections.deque(maxlen=300)

    def add(self, body, redelivered):
        """What is wrong with it, or None."""
        name, number = self.publisher.name, int(body.split(b":")[1].split(b" ")[0])
        self.recent.append(f"{number}{'r' * redelivered}")
        if body != self.publisher.body(number):
            return f"{name}:{number} is not whole"
        if number >= self.publisher.sent:
            return f"{name}:{number} was never sent"
        self.copies += 1
        self.has.extend(bytes(max(0, number + 1 - len(self.has))))
        is_first, self.has[number] = not self.has[number], 1
        last, self.last = self.last, max(self.last, number)
        if is_first and self.in_order and number < last and number not in self.late:
            return f"{name}:{number} came after {last}: {' '.join(self.recent)}"
        return None

    def has_arrived(self, number):
        return number < len(self.has) and bool(self.has[number])

    def missing(self):
        return [number for number in range(self.publisher.safe)
                if number >= len(self.has) or not self.has[number]]

    def duplicates(self):
        return self.copies - sum(self.has)


class Consumer(threading.Thread):
    """Takes a queue's messages as they come, with acks of its own. What it has not acked when its
    connection ends comes again."""

    def __init__(self, soak, queue, connect):
        super().__init__(daemon=True)
        self.soak, self.queue, self.connect = soak, queue, connect

    def run(self):
        while not self.soak.stopping.is_set():
            try:
                self.session()
            except BROKEN as why:
                self.soak.note(f"the consumer of {self.queue} has lost its connection: {why!r}")
                self.soak.stopping.wait(0.2)

    def session(self):
        with self.connect() as connection:
            self.soak.note(f"the consumer of {self.queue} has connected")
            channel = connection.channel()
            channel.basic_qos(prefetch_count=100)
            for method, _, body in channel.consume(self.queue, inactivity_timeout=0.5):
                if self.soak.stopping.is_set():
                    return
                if method:
                    self.soak.arrived(body, method.redelivered)
                    channel.basic_ack(method.delivery_tag)


class Soak:
    def __init__(self, seconds, seed=None):
        self.seconds = seconds
        self.seed = random.randrange(1 << 30) if seed is None else seed
        self.chance = random.Random(self.seed)
        self.stopping = threading.Event()
        self.events = []  # (when, what): the last are shown with a failure
        self.samples = []  # (bytes of its own, descriptors), since the proxy was last killed
        self.trouble = None  # with what has arrived
        self.recent = collections.deque(maxlen=20000)  # what has arrived, of all publishers

    # ---- events ----

    def broker_stops(self):
        self.rabbit.stop()
        self.outage()
        self.rabbit.start()

    def kill_broker(self):
        """Messages that it has lost while it kept later ones come again, behind those."""
        self.rabbit.kill()
        numbers = collections.defaultdict(list)
        for message in recovered.messages(self.rabbit):
            for name, number in NUMBERED.findall(message):
                numbers[name.decode()].append(int(number))
        for name, ledger in self.ledgers.items():
            late = {n for n in recovered.holes(numbers[name]) if not ledger.has_arrived(n)}
            ledger.late |= late
            if late:
                self.note(f"RabbitMQ was killed, and has lost {len(late)} of {name} before later ones")

    def broker_is_killed(self):
        self.kill_broker()
        self.outage()
        self.rabbit.start()

    def application_stops(self):
        self.rabbit.ctl("stop_app")
        self.outage()
        self.rabbit.ctl("start_app")

    def broker_hangs(self):
        self.rabbit.suspend()
        self.outage()
        self.rabbit.resume()

    def proxy_is_killed(self):
        self.proxy.crash_and_start()

    def proxy_restarts(self):
        self.proxy.restart()

    def proxy_is_killed_in_an_outage(self):
        self.kill_broker()
        self.progress()
        self.proxy.crash_and_start()
        self.outage()
        self.rabbit.start()

    def outage(self):
        """Publishers go on meanwhile."""
        self.progress()

    def progress(self):
        before = sum(publisher.safe for publisher in self.publishers)
        wait_until(lambda: self.trouble or
                   sum(p.safe for p in self.publishers) >= before + PROGRESS,
                   lambda: self.failure("publishers go on"), 120)
        assert not self.trouble, self.failure(self.trouble)

    def failure(self, text):
        events = "\n".join(f"{when:8.1f} {what}" for when, what in self.events[-10:])
        kept = self.keep_evidence()
        return self.proxy.failure(f"seed {self.seed}: {text}\n--- last events ---\n{events}\n"
                                  f"--- kept in {kept}: the logs, and what has arrived ---")

    def keep_evidence(self):
        folder = tempfile.mkdtemp(prefix=f"amqpbuf-soak-{self.seed}-")
        shutil.copy(self.proxy.log_path, folder)
        shutil.copytree(self.rabbit.folder / "log", f"{folder}/rabbitmq")
        with open(f"{folder}/arrived.txt", "w", encoding="utf-8") as out:
            out.writelines(f"{when:.6f} {what}\n" for when, what in list(self.recent))
        return folder

    # ---- the course ----

    def run(self):
        with Rabbit() as self.rabbit, \
                Proxy(f"amqp://127.0.0.1:{self.rabbit.port}",
                      {"pool.publish_buffer_size": 1000000, "upstream.heartbeat": "2s",
                       "log.level": "debug"},
                      provokes={"client_refused"}) as self.proxy:
            for queue in (KEPT, CONSUMED):
                self.rabbit.declare(queue)
            self.publishers = [Confirming(self, f"confirming{n}", KEPT) for n in range(3)] + \
                [Job(self, f"job{n}", KEPT) for n in range(3)] + \
                [Confirming(self, "consumed", CONSUMED)]
            # What a consumer gives back with its connection to the proxy comes again, later.
            self.ledgers = {p.name: Ledger(p, p.queue == KEPT) for p in self.publishers}
            threads = [*self.publishers, Consumer(self, CONSUMED, self.proxy.connect),
                       Consumer(self, KEPT, self.rabbit.connect)]
            for thread in threads:
                thread.start()
            try:
                self.shake()
            finally:
                self.stopping.set()
            for thread in threads:
                thread.join(120)
                assert not thread.is_alive(), self.failure("a client hangs")
            wait_until(lambda: self.proxy.waiting() == 0, lambda: self.failure("spool empty"), 600)
            return self.account()

    def shake(self):
        of_broker = [self.broker_stops, self.broker_is_killed, self.application_stops,
                     self.broker_hangs]
        of_proxy = [self.proxy_is_killed, self.proxy_restarts, self.proxy_is_killed_in_an_outage]
        self.progress()  # RabbitMQ has to have seen the login before it may go away
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < self.seconds or len(self.events) < 4:
            # In the second half the proxy lives, so that its memory can be compared.
            what = self.chance.choice(of_broker + of_proxy * (passed < self.seconds / 2))
            self.events.append((passed, what.__name__))
            self.note(what.__name__)
            what()
            self.progress()
            self.proxy.inspect("verify")
            if what in of_proxy:
                self.samples.clear()
            self.samples.append((self.proxy.own_bytes(), self.proxy.descriptors()))

    # ---- the account ----

    def note(self, what):
        self.recent.append((time.time(), what))

    def arrived(self, body, redelivered):
        self.note(f"{body.split(b' ')[0].decode()}{' again' * redelivered}")
        wrong = self.ledgers[body.split(b":")[0].decode()].add(body, redelivered)
        self.trouble = self.trouble or wrong

    def account(self):
        for queue in (KEPT, CONSUMED):
            for method, _, body in self.rabbit.take(queue):
                self.arrived(body, method.redelivered)
        assert not self.trouble, self.failure(self.trouble)
        for publisher in self.publishers:
            missing = self.ledgers[publisher.name].missing()
            assert not missing, self.failure(
                f"{publisher.name} lost {len(missing)} of {publisher.safe}: {missing[:5]}")
        assert self.proxy.dump("--rejected") == [], self.failure("nothing was bad")
        return {"seed": self.seed, "events": len(self.events),
                "messages": sum(p.safe for p in self.publishers),
                "duplicates": sum(ledger.duplicates() for ledger in self.ledgers.values()),
                "samples": self.samples}
