"""Publishers that are connected when RabbitMQ goes away, and stay connected until it is back."""

import threading

import pika
import pytest

from conftest import url_of
from support.rabbit import WHICH
from support.raw import RawClient
from support.wait import wait_until

QUICK = {"upstream.heartbeat": "2s"}


class Publisher(threading.Thread):
    """Publishes numbered messages until it is told to stop, one channel, on pika."""

    def __init__(self, proxy, queue, number, confirms):
        super().__init__(daemon=True)
        self.proxy, self.queue, self.number, self.confirms = proxy, queue, number, confirms
        self.safe = 0  # messages 0..safe-1 were acked, or published before a close that returned
        self.sent = 0
        self.error = None
        self.stopping = threading.Event()

    def run(self):
        try:
            connection = self.proxy.connect()
            channel = connection.channel()
            if self.confirms:
                channel.confirm_delivery()
            while not self.stopping.wait(0.01):
                channel.basic_publish("", self.queue, b"%d:%d" % (self.number, self.sent),
                                      pika.BasicProperties(delivery_mode=2))
                self.sent += 1
                if self.confirms:
                    self.safe = self.sent
            connection.close()
            self.safe = self.sent
        except Exception as error:  # told by the test
            self.error = error


def check_ledger(publishers, bodies, duplicates_max):
    """Everything safe is there, first copies are in order, duplicates are few."""
    seen, highest, duplicates = {}, {}, 0
    for body in bodies:
        publisher, number = map(int, body.split(b":"))
        numbers = seen.setdefault(publisher, set())
        if number in numbers:
            duplicates += 1
            continue
        assert number > highest.get(publisher, -1), \
            f"message {number} of publisher {publisher} came after {highest[publisher]}"
        numbers.add(number)
        highest[publisher] = number
    for publisher in publishers:
        missing = sorted(set(range(publisher.safe)) - seen.get(publisher.number, set()))
        assert not missing, f"publisher {publisher.number} lost {missing[:5]} of {publisher.safe}"
    assert duplicates <= duplicates_max, duplicates


def outage(rabbit, how):
    if how == "kill":
        rabbit.kill()
    elif how == "stop":
        rabbit.stop()
    elif how == "stop_app":
        rabbit.ctl("stop_app")
    elif how == "suspend":
        rabbit.suspend()


def recovery(rabbit, how):
    if how == "stop_app":
        rabbit.ctl("start_app")
    elif how == "suspend":
        rabbit.resume()
    else:
        rabbit.start()


ENDS = ["kill"] if WHICH else ["kill", "stop", "stop_app", "suspend"]  # all of them on one RabbitMQ


@pytest.mark.parametrize("how", ENDS)
def test_ledger(rabbit, make_proxy, queue, how):
    proxy = make_proxy(url_of(rabbit), QUICK)
    publishers = [Publisher(proxy, queue, number, number % 2 == 0) for number in range(8)]
    for publisher in publishers:
        publisher.start()
    rounds = 2
    for number in range(1, rounds + 1):
        wait_until(lambda: all(publisher.sent > 50 * number for publisher in publishers) or
                   any(publisher.error for publisher in publishers), "publishers publish")
        outage(rabbit, how)
        proxy.wait_event("buffering_started", number)
        waiting = proxy.waiting()
        wait_until(lambda: proxy.waiting() > waiting + 100, "they go on into the spool")
        recovery(rabbit, how)
        proxy.wait_event("drain_finished", number, 120)
    for publisher in publishers:
        publisher.stopping.set()
        publisher.join(60)
    assert [publisher.error for publisher in publishers if publisher.error] == []
    total = sum(publisher.sent for publisher in publishers)
    bodies = rabbit.wait_for(queue, total)
    window = 256
    check_ledger(publishers, bodies, rounds * 2 * 2 * window)


@pytest.mark.provokes("client_refused")
def test_consumer_is_told_and_publisher_is_not(rabbit, proxy, queue):
    consumer = proxy.connect()
    channel = consumer.channel()
    channel.basic_consume(queue, lambda *_: None, auto_ack=True)
    publisher = proxy.connect()
    publishing = publisher.channel()
    publishing.confirm_delivery()
    publishing.basic_publish("", queue, b"live")
    rabbit.stop()
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as closed:
        channel.start_consuming()
    assert closed.value.reply_code == 320
    publishing.basic_publish("", queue, b"offline")
    rabbit.start()
    proxy.wait_event("drain_finished")
    publishing.basic_publish("", queue, b"live again")
    publisher.close()
    bodies = rabbit.wait_for(queue, 2)
    assert bodies[-2:] == [b"offline", b"live again"]


def test_declarations_wait_in_their_place(rabbit, proxy, queue):
    with proxy.connect() as connection:
        channel = connection.channel()
        rabbit.stop()
        proxy.wait_event("upstream_lost")
        channel.exchange_declare("ex-offline", "direct", durable=True)
        channel.queue_declare("q-offline", durable=True)
        channel.queue_bind("", "ex-offline", "key")
        channel.confirm_delivery()
        channel.basic_publish("ex-offline", "key", b"routed")
        assert channel.queue_declare("q-offline", passive=True).method.message_count == 0
        channel.queue_declare(queue, durable=False)  # RabbitMQ will refuse it: it is durable
        channel.basic_publish("", queue, b"after the refused one")
        kinds = [record.get("kind", "publish") for record in proxy.dump()]
        assert kinds == ["declare"] * 3 + ["publish", "declare", "publish"]
    rabbit.start()
    proxy.wait_event("drain_finished")  # the queue is there only then
    assert rabbit.wait_for("q-offline", 1) == [b"routed"]
    assert rabbit.wait_for(queue, 1) == [b"after the refused one"]
    rejected = proxy.dump("--rejected")
    assert [record["rejected"]["code"] for record in rejected] == [406]


@pytest.mark.parametrize("call", ["server-named queue", "purge", "recover"])
def test_what_needs_rabbitmq_is_refused(rabbit, proxy, queue, call):
    calls = {
        "server-named queue": lambda channel: channel.queue_declare(""),
        "purge": lambda channel: channel.queue_purge(queue),
        "recover": lambda channel: channel.basic_recover(True),
    }
    with proxy.connect() as connection:
        rabbit.stop()
        proxy.wait_event("upstream_lost")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refusal:
            calls[call](connection.channel())
        assert refusal.value.reply_code == 406
        assert "only publishing is buffered" in refusal.value.reply_text


def test_transactions_through_an_outage(rabbit, proxy, queue):
    channel = proxy.connect().channel()
    channel.tx_select()
    channel.basic_publish("", queue, b"live")
    channel.tx_commit()
    channel.basic_publish("", queue, b"begun live")
    rabbit.stop()
    proxy.wait_event("upstream_lost", 2)  # the shared one and the channel's own
    channel.basic_publish("", queue, b"committed offline")
    channel.tx_commit()
    channel.basic_publish("", queue, b"rolled back")
    channel.tx_rollback()
    assert proxy.bodies() == ["begun live", "committed offline"]
    channel.basic_publish("", queue, b"not committed")
    proxy.crash_and_start()
    assert proxy.bodies() == ["begun live", "committed offline"]
    rabbit.start()
    bodies = rabbit.wait_for(queue, 2)
    assert bodies[-2:] == [b"begun live", b"committed offline"]


def test_alarm_counts_as_away(rabbit, proxy, queue):
    with proxy.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", queue, b"before")
        rabbit.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            for number in range(5):
                channel.basic_publish("", queue, b"%d" % number)
            proxy.wait_event("upstream_blocked")
        finally:
            rabbit.ctl("set_vm_memory_high_watermark", "absolute", "2GB")
        proxy.wait_event("drain_finished")
        channel.basic_publish("", queue, b"after")
    bodies = rabbit.wait_for(queue, 7)
    assert list(dict.fromkeys(bodies)) == [b"before", *[b"%d" % n for n in range(5)], b"after"]


def test_acks_of_confirms_across_the_switch(rabbit, proxy, queue):
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    for number in range(1, 51):
        client.publish(b"%d" % number, queue)
    client.acked_up_to(50)
    rabbit.stop()
    proxy.wait_event("upstream_lost")
    for number in range(51, 101):
        client.publish(b"%d" % number, queue)
    client.acked_up_to_tags(set(range(51, 101)))
    rabbit.start()
    proxy.wait_event("drain_finished")
    for number in range(101, 151):
        client.publish(b"%d" % number, queue)
    client.acked_up_to_tags(set(range(101, 151)))
    client.close()
    assert rabbit.wait_for(queue, 100)[-100:] == [b"%d" % number for number in range(51, 151)]
