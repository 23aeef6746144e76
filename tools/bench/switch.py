"""How long the ways into the spool and out of it take, for a publisher with one message under way."""

import pathlib
import tempfile
import threading
import time

from support.broker import FakeBroker
from support.raw import RawClient
from support.wait import wait_until

from ways import start_amqpbuf

RECONNECT_MAX_S, OUTAGE_S = 1.0, 3.0  # long enough for the wait between two tries to be the longest


class Publisher(threading.Thread):
    def __init__(self, port):
        super().__init__(daemon=True)
        self.client = RawClient(port)
        self.client.open_channel(confirms=True)
        self.acks = []  # (sent, acked) of each message
        self.ended = threading.Event()

    def run(self):
        tag = 0
        while not self.ended.is_set():
            tag += 1
            sent = time.monotonic()
            self.client.publish(b"x" * 1024, "q")
            self.client.acked_up_to_tags({tag})
            self.acks.append((sent, time.monotonic()))

    def first_ack_of_one_sent_after(self, moment):
        wait_until(lambda: self.acks and self.acks[-1][0] > moment, "a message is acked")
        return next(acked for sent, acked in self.acks if sent > moment)


class Switch:
    def __init__(self, results):
        self.results = results
        self.folder = tempfile.TemporaryDirectory(prefix="amqpbuf-bench-")
        self.broker = FakeBroker()
        self.way = start_amqpbuf(pathlib.Path(self.folder.name), self.broker.port,
                                 [f"upstream.reconnect_max={RECONNECT_MAX_S:.0f}s"])

    def close(self):
        self.way.process.kill()
        self.broker.close()
        self.folder.cleanup()

    def outage(self):
        """Seconds from the loss to the first ack of the spool, and from the broker's return to the
        first message that it gets."""
        publisher = Publisher(self.way.port)
        publisher.start()
        before = len(self.broker.messages)
        self.broker.wait_messages(before + 100)
        lost = time.monotonic()
        self.broker.down()
        spooled = publisher.first_ack_of_one_sent_after(time.monotonic()) - lost
        time.sleep(OUTAGE_S)
        replayed = []
        self.broker.on_frame = lambda _connection, frame: \
            frame.name == "basic.publish" and replayed.append(time.monotonic())
        returned = time.monotonic()
        self.broker.up()
        wait_until(lambda: replayed, "the first one is replayed")
        self.broker.on_frame = None
        publisher.ended.set()
        publisher.join()
        publisher.client.close()
        wait_until(lambda: self.way.metric("amqpbuf_queue_messages") == 0, "all is replayed")
        return spooled, replayed[0] - returned

    def switch(self):
        runs = [self.outage() for _ in range(max(5, self.results.runs))]
        self.results.add("from the loss of the broker to the first ack of the spool", "ms",
                         {"amqpbuf": [spooled * 1000 for spooled, _ in runs]})
        self.results.add("from the broker's return to the first message replayed", "s",
                         {"amqpbuf": [replayed for _, replayed in runs],
                          "reconnect_max": [RECONNECT_MAX_S] * len(runs)}, "reconnect_max")
