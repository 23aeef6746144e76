"""A scripted RabbitMQ that comes and goes hundreds of times in a minute, as AMQP 0-9-1 has it, and the
ledger of what it took: what a real one, which takes seconds to start, shows in days."""

import random
import threading
import time

from .broker import FakeBroker, Lost
from .proxy import Proxy
from .raw import RawClient
from .soak import Confirming, Job, Ledger
from .wait import wait_until

QUEUE = "q"
BACKLOG_MAX = 10000  # from here on publishers go slowly
PACE_S, SLOW_PACE_S = 0.004, 0.5
DRAIN_TIMEOUT_S = 300


class Taken:
    """A message that the broker has got. Until it `stays` it may be lost with the broker."""

    def __init__(self, connection, message):
        self.connection, self.tag, self.body = connection, message.tag, message.body
        self.stays = False


class StormBroker(FakeBroker):
    """Confirms late, some at once, some out of turn, and closes channels over any message."""

    def __init__(self, chance, window):
        super().__init__()
        self.chance, self.window = chance, window
        self.guard = threading.RLock()  # of what follows
        self.taken = []  # of all connections, in order
        self.unconfirmed = {}  # (connection, channel): what it took there, in order
        self.exceptions = 0  # still to be raised
        self.reads = threading.Event()
        self.reads.set()
        self.on_frame, self.on_message = self._look_at, self._take

    def _look_at(self, _connection, _frame):
        self.reads.wait()
        return False

    def _take(self, connection, message):
        place = connection, message.channel
        with self.guard:
            if self.exceptions and self.chance.random() < 0.02:
                self.exceptions -= 1
                for taken in self.unconfirmed.pop(place, []):
                    taken.stays = True
                connection.close_channel(message.channel, 541, "INTERNAL_ERROR - scripted")
                return
            taken = Taken(connection, message)
            self.taken.append(taken)
            self.unconfirmed.setdefault(place, []).append(taken)
            if len(self.unconfirmed[place]) > self.window * 3 // 4 or self.chance.random() < 0.05:
                self._confirm(place)

    def _confirm(self, place):
        connection, channel = place
        waiting = self.unconfirmed.pop(place)
        at_once = self.chance.random() < 0.7
        now = waiting if at_once else self.chance.sample(waiting, (len(waiting) + 1) // 2)
        for taken in now:  # it stays, whether the proxy hears of it or not
            taken.stays = True
        later = [taken for taken in waiting if not taken.stays]
        if later:
            self.unconfirmed[place] = later
        for taken in now[-1:] if at_once else now:
            connection.send_method(channel, "basic.ack", delivery_tag=taken.tag, multiple=at_once)

    def confirm_all(self):
        with self.guard:
            for place in list(self.unconfirmed):
                try:
                    self._confirm(place)
                except Lost:
                    self.unconfirmed.pop(place, None)

    # ---- what may happen to it ----

    def cut(self):
        for connection in self.open_connections():
            connection.die()

    def close_orderly(self):
        told = self.open_connections()
        self.everywhere("connection.close", reply_code=320, class_id=0, method_id=0,
                        reply_text="CONNECTION_FORCED - scripted")
        wait_until(lambda: not any(connection.is_open and
                                   connection.frames[-1:] and
                                   connection.frames[-1].name != "connection.close-ok"
                                   for connection in told), "connections are closed")
        for connection in told:
            connection.die()

    def crash(self):
        """As kill -9: whatever came behind the last that is certain to stay, from any place on."""
        doubtful = set(self.open_connections())
        self.down()
        for connection in self.connections:
            if connection.ident:
                connection.join(30)
        with self.guard:
            certain = len(self.taken)
            while certain > 0 and not self.taken[certain - 1].stays and \
                    self.taken[certain - 1].connection in doubtful:
                certain -= 1
            del self.taken[self.chance.randint(certain, len(self.taken)):]
            self.unconfirmed.clear()
            self.connections.clear()

    def raise_exceptions(self):
        self.exceptions += self.chance.randint(1, 3)

    def hang(self):
        """For a moment, or until the proxy has missed its heartbeats; then it goes on with what
        the old connections have left behind."""
        self.reads.clear()
        time.sleep(self.chance.choice([0.05] * 9 + [3]))
        self.reads.set()

    def block(self):
        self.blocked_for(0.02)

    def settled(self):
        """Takes out what cannot be lost any more, up to the first that can."""
        with self.guard:
            alive = set(self.open_connections())
            count = 0
            while count < len(self.taken) and (self.taken[count].stays or
                                               self.taken[count].connection not in alive):
                count += 1
            now = self.taken[:count]
            del self.taken[:count]
            self.messages.clear()
            return now


class Storm:
    def __init__(self, rounds, window, seed):
        self.rounds, self.window, self.seed = rounds, window, seed
        self.chance = random.Random(seed)
        self.stopping = threading.Event()
        self.events = []
        self.trouble = None

    def failure(self, text):
        return self.proxy.failure(f"seed {self.seed}, drain.window {self.window}: {text}\n"
                                  f"--- last events ---\n{' '.join(self.events[-20:])}")

    def look_at_what_arrived(self):
        for taken in self.broker.settled():
            name = taken.body.split(b":")[0].decode()
            wrong = self.ledgers[name].add(taken.body, redelivered=False)
            self.trouble = self.trouble or wrong
        assert not self.trouble, self.failure(self.trouble)

    def shake(self):
        happens = [self.broker.crash, self.broker.cut, self.broker.close_orderly,
                   self.broker.raise_exceptions, self.broker.hang, self.broker.block]
        for number in range(self.rounds):
            what = self.chance.choice(happens)
            self.events.append(what.__name__)
            what()
            if what == self.broker.crash:
                time.sleep(self.chance.choice([0, 0.02, 0.1]))
                self.broker.up()
            deadline = time.monotonic() + self.chance.choice([0.005, 0.02, 0.05, 0.1, 0.3])
            while time.monotonic() < deadline:
                time.sleep(0.005)
                self.broker.confirm_all()
            self.look_at_what_arrived()
            if number % 20 == 0:
                pace = SLOW_PACE_S if self.proxy.waiting() > BACKLOG_MAX else PACE_S
                for publisher in self.publishers:
                    publisher.pace = pace

    def all_gone_out(self):
        self.broker.confirm_all()
        self.look_at_what_arrived()
        return self.proxy.waiting() == 0 and not self.broker.unconfirmed

    def run(self):
        with StormBroker(self.chance, self.window) as self.broker, \
                Proxy(self.broker.url, {"pool.publish_buffer_size": 1000000,
                                        "pool.window": self.window, "drain.window": self.window,
                                        "upstream.heartbeat": "1s",
                                        "upstream.reconnect_min": "10ms",
                                        "upstream.reconnect_max": "50ms"}) as self.proxy:
            RawClient(self.proxy.port).close()  # the login is known from here on
            self.publishers = [Confirming(self, f"confirming{n}", QUEUE) for n in range(3)] + \
                [Job(self, f"job{n}", QUEUE) for n in range(2)]
            self.ledgers = {p.name: Ledger(p, in_order=True) for p in self.publishers}
            for publisher in self.publishers:
                publisher.pace = PACE_S
                publisher.start()
            try:
                self.shake()
            finally:
                self.broker.exceptions = 0
                self.stopping.set()
            for publisher in self.publishers:
                wait_until(lambda p=publisher: self.broker.confirm_all() or not p.is_alive(),
                           lambda: self.failure("a client hangs"), 120)
            wait_until(self.all_gone_out, lambda: self.failure("all goes out"), DRAIN_TIMEOUT_S)
            self.look_at_what_arrived()
            return self.account()

    def account(self):
        """A message that was alone when RabbitMQ closed the channel over it is kept as rejected."""
        rejected = {record["body"].split(" ")[0] for record in self.proxy.dump("--rejected")}
        for publisher in self.publishers:
            lost = [number for number in self.ledgers[publisher.name].missing()
                    if f"{publisher.name}:{number}" not in rejected]
            assert not lost, self.failure(f"{publisher.name} lost {len(lost)}: {lost[:5]}")
        return {"seed": self.seed, "window": self.window, "rounds": self.rounds,
                "messages": sum(p.safe for p in self.publishers),
                "duplicates": sum(ledger.duplicates() for ledger in self.ledgers.values()),
                "rejected": len(rejected)}
