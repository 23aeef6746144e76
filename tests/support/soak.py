"""Everything at once: publishers with and without confirms, a consumer, a broker that comes and goes
in every way, a proxy that is killed; and the account of it at the end."""

import os
import pathlib
import random
import threading
import time

import pika

from .proxy import Proxy
from .rabbit import Rabbit
from .raw import RawClient
from .wait import wait_until

KEPT, CONSUMED = "soak.kept", "soak.consumed"
IN_FLIGHT_MAX, JOB_MESSAGES = 20, 5
PACE_S = 0.05  # between two batches: it is about ends and beginnings, not about speed
PROGRESS = 300  # messages between two events
BROKEN = (OSError, AssertionError, pika.exceptions.AMQPError)  # a connection that has ended


class Publisher(threading.Thread):
    """Numbers its messages; what is not acked when the connection ends is published again."""

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
        client.publish(self.body(self.next), self.queue)
        self.next += 1
        self.sent = max(self.sent, self.next)


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
                self.soak.stopping.wait(PACE_S)
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
        self.soak.stopping.wait(PACE_S)


class Consumer(threading.Thread):
    """Consumes through the proxy, with acks of its own."""

    def __init__(self, soak):
        super().__init__(daemon=True)
        self.soak, self.bodies = soak, []

    def run(self):
        while not self.soak.stopping.is_set():
            try:
                self.session()
            except BROKEN:
                self.soak.stopping.wait(0.2)

    def session(self):
        with self.soak.proxy.connect() as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=100)
            for method, _, body in channel.consume(CONSUMED, inactivity_timeout=0.5):
                if self.soak.stopping.is_set():
                    return
                if method:
                    self.bodies.append(body)
                    channel.basic_ack(method.delivery_tag)


def around(publisher, bodies, number, last):
    """Where both stand among this publisher's messages, copies included."""
    name = publisher.name.encode()
    numbers = [int(body.split(b":")[1].split(b" ")[0]) for body in bodies
               if body.split(b":")[0] == name]
    return [(place, numbers[max(0, place - 3):place + 30]) for place, found in enumerate(numbers)
            if found in (number, last)]


class Soak:
    def __init__(self, seconds, seed=None):
        self.seconds = seconds
        self.seed = random.randrange(1 << 30) if seed is None else seed
        self.chance = random.Random(self.seed)
        self.stopping = threading.Event()
        self.events = []  # (when, what): the last are shown with a failure
        self.samples = []  # (bytes of its own, descriptors), since the proxy was last killed

    # ---- events ----

    def broker_stops(self):
        self.rabbit.stop()
        self.outage()
        self.rabbit.start()

    def broker_is_killed(self):
        self.rabbit.kill()
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
        self.rabbit.kill()
        self.progress()
        self.proxy.crash_and_start()
        self.outage()
        self.rabbit.start()

    def outage(self):
        """Publishers go on meanwhile."""
        self.progress()

    def progress(self):
        before = sum(publisher.safe for publisher in self.publishers)
        wait_until(lambda: sum(p.safe for p in self.publishers) >= before + PROGRESS,
                   lambda: self.failure("publishers go on"), 120)

    def failure(self, text):
        events = "\n".join(f"{when:8.1f} {what}" for when, what in self.events[-10:])
        return self.proxy.failure(f"seed {self.seed}: {text}\n--- last events ---\n{events}")

    # ---- the course ----

    def run(self):
        with Rabbit() as self.rabbit, \
                Proxy(f"amqp://127.0.0.1:{self.rabbit.port}",
                      {"pool.publish_buffer_size": 1000000, "upstream.heartbeat": "2s",
                       "log.level": "info"}) as self.proxy:
            for queue in (KEPT, CONSUMED):
                self.rabbit.declare(queue)
            self.publishers = [Confirming(self, f"confirming{n}", KEPT) for n in range(3)] + \
                [Job(self, f"job{n}", KEPT) for n in range(3)] + \
                [Confirming(self, "consumed", CONSUMED)]
            self.consumer = Consumer(self)
            for thread in [*self.publishers, self.consumer]:
                thread.start()
            try:
                self.shake()
            finally:
                self.stopping.set()
            for thread in [*self.publishers, self.consumer]:
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
            what()
            self.progress()
            self.proxy.inspect("verify")
            if what in of_proxy:
                self.samples.clear()
            self.samples.append((self.proxy.own_bytes(), self.descriptors()))

    def descriptors(self):
        return len(os.listdir(pathlib.Path(f"/proc/{self.proxy.pid}/fd")))

    # ---- the account ----

    def account(self):
        kept = [body for _, _, body in self.rabbit.take(KEPT)]
        consumed = self.consumer.bodies + [body for _, _, body in self.rabbit.take(CONSUMED)]
        duplicates = 0
        for publisher in self.publishers:
            bodies = consumed if publisher.queue == CONSUMED else kept
            duplicates += self.balance(publisher, bodies)
        assert self.proxy.dump("--rejected") == [], self.failure("nothing was bad")
        return {"seed": self.seed, "events": len(self.events),
                "messages": sum(p.safe for p in self.publishers), "duplicates": duplicates,
                "samples": self.samples}

    def balance(self, publisher, bodies):
        """Everything that was answered for is there and whole, first copies in order."""
        seen, last, copies = set(), -1, 0
        for body in bodies:
            name, _, rest = body.partition(b":")
            if name.decode() != publisher.name:
                continue
            number = int(rest.split(b" ")[0])
            assert body == publisher.body(number), self.failure(f"{name} {number} is not whole")
            copies += 1
            if number in seen:
                continue
            # What a consumer gave back with its connection comes again, later.
            assert number > last or publisher.queue == CONSUMED, \
                self.failure(f"{publisher.name}:{number} came after {last}: "
                             f"{around(publisher, bodies, number, last)}")
            last = max(last, number)
            seen.add(number)
        missing = sorted(set(range(publisher.safe)) - seen)
        assert not missing, self.failure(
            f"{publisher.name} lost {len(missing)} of {publisher.safe}: {missing[:5]}")
        assert seen <= set(range(publisher.sent))
        return copies - len(seen)
