"""kill -9 at random moments of appending, draining and passing through, against a scripted broker."""

import random
import threading

import pytest

from support.raw import RawClient
from support.wait import wait_until

ROUNDS = 40
IN_FLIGHT_MAX = 300


class Publisher(threading.Thread):
    """Numbers from `first` on, until its connection breaks; remembers what was acked."""

    def __init__(self, proxy, first):
        super().__init__(daemon=True)
        self.client = RawClient(proxy.port)
        self.client.open_channel(confirms=True)
        self.first = self.next = first
        self.acked = set()
        self.reader = threading.Thread(target=self._read, daemon=True)

    def run(self):
        self.reader.start()
        try:
            while self.reader.is_alive():
                if self.next - self.first - len(self.acked) < IN_FLIGHT_MAX:
                    self.client.publish(b"%d" % self.next, "q")
                    self.next += 1
        except OSError:
            pass  # the proxy was killed
        self.reader.join()

    def _read(self):
        lowest = self.first
        try:
            while (frame := self.client.read()) is not None:
                assert frame.name == "basic.ack", frame
                tag = self.first + frame.args["delivery_tag"] - 1
                if frame.args["multiple"]:
                    self.acked.update(range(lowest, tag + 1))
                    lowest = tag + 1
                else:
                    self.acked.add(tag)
        except OSError:
            pass  # the proxy was killed


def settle(broker):
    """What the killed proxy had written is read, and its connections have ended."""
    wait_until(lambda: all(connection.ident and not connection.is_alive()
                           for connection in list(broker.connections)), "they have ended")


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_anywhere(broker, make_proxy, seed):
    chance = random.Random(seed)
    proxy = make_proxy(broker.url, {"log.level": "info", "pool.window": 16, "drain.window": 16})
    RawClient(proxy.port).close()
    acked, following, up = set(), 0, True
    for number in range(ROUNDS):
        publisher = Publisher(proxy, following)
        publisher.start()
        goal = chance.randint(1, 400)
        wait_until(lambda: len(publisher.acked) >= goal,
                   lambda: proxy.failure(f"round {number}: {len(publisher.acked)} of {goal} acks"))
        if chance.random() < 0.5:
            up = not up
            (broker.up if up else broker.down)()
            goal += chance.randint(1, 400)
            wait_until(lambda: len(publisher.acked) >= goal,
                       lambda: proxy.failure(f"round {number}: they go on, broker up: {up}"))
        proxy.kill9()
        publisher.join()
        settle(broker)
        acked |= publisher.acked
        following = publisher.next
        proxy.inspect("verify")  # fails unless every record is sound
        proxy.start()
    if not up:
        broker.up()
    proxy.wait_empty()
    numbers = [int(message.body) for message in broker.messages]
    first_copies = list(dict.fromkeys(numbers))
    missing = sorted(acked - set(numbers))
    assert not missing, proxy.failure(f"acked and lost: {missing[:10]} of {len(acked)}")
    assert first_copies == sorted(first_copies)
