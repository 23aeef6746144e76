"""How pika and php-amqplib close, on a real RabbitMQ and through the proxy: with an error of RabbitMQ
on its way, with deliveries on their way, and in order. No hang, and no outcome that RabbitMQ itself
does not give."""

import collections
import json
import os
import threading

import pika
import pytest

from support.jobs import php_job

ROUNDS = int(os.environ.get("AMQPBUF_TEST_CLOSINGS", "6"))  # of each sequence


def missing_exchange(_, channel, round_number):
    channel.basic_publish("no-such-exchange", "k", b"x")
    channel.connection.sleep(0.0005 * (round_number % 6))
    channel.close()


def missing_exchange_at_once(_, channel, __):
    channel.basic_publish("no-such-exchange", "k", b"x")
    channel.close()


def missing_exchange_connection(_, channel, __):
    channel.basic_publish("no-such-exchange", "k", b"x")
    channel.connection.close()


def consumer(queue, channel, round_number):
    channel.basic_qos(prefetch_count=20)
    for number, _ in enumerate(channel.consume(queue, inactivity_timeout=60)):
        if number == round_number % 7:
            break
    channel.close()


def wrong_ack(queue, channel, _):
    channel.basic_get(queue)
    channel.basic_ack(999)
    channel.close()


def plain(_, channel, __):
    channel.basic_publish("", "closings-nowhere", b"x")
    channel.close()


SEQUENCES = [missing_exchange, missing_exchange_at_once, missing_exchange_connection, consumer,
             wrong_ack, plain]


def outcome(step):
    try:
        step()
        return "fine"
    except (pika.exceptions.ChannelClosed, pika.exceptions.ConnectionClosed) as error:
        return f"{type(error).__name__} {error.reply_code}"
    except Exception as error:  # pika 1.2's own AttributeError among them
        return repr(error)


def one(connect, sequence, queue, round_number):
    connection = connect()
    other, channel = connection.channel(), connection.channel()
    seen = [outcome(lambda: sequence(queue, channel, round_number))]
    if connection.is_open:
        seen.append(outcome(lambda: other.queue_declare(queue, passive=True)))
        seen.append(outcome(connection.close))
    return ", then ".join(seen)


def outcomes(connect, sequence, queue):
    seen = collections.Counter()

    def run():
        for number in range(ROUNDS):
            seen[one(connect, sequence, queue, number)] += 1

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60 + ROUNDS)
    assert not thread.is_alive(), f"hangs after {seen}"
    assert sum(seen.values()) == ROUNDS, seen
    return seen


@pytest.fixture
def filled(rabbit, queue):
    with rabbit.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for _ in range(40):
            channel.basic_publish("", queue, b"m" * 60000)
    return queue


# Whether the error comes before the close is sent or while it waits: the same for the caller.
EXPECTED = {
    "missing_exchange": {"ChannelClosedByBroker 404, then fine, then fine"},
    "missing_exchange_at_once": {"ChannelClosedByBroker 404, then fine, then fine"},
    "missing_exchange_connection": {"fine"},
    "consumer": {"fine, then fine, then fine"},
    "wrong_ack": {"ChannelClosedByBroker 406, then fine, then fine"},
    "plain": {"fine, then fine, then fine"},
}


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda f: f.__name__)
def test_pika(rabbit, proxy, filled, sequence):
    straight = outcomes(rabbit.connect, sequence, filled)
    through = outcomes(proxy.connect, sequence, filled)
    allowed = EXPECTED[sequence.__name__] | set(straight)
    assert set(through) <= allowed, f"{through}, straight {straight}"
    assert not proxy.events("upstream_lost")


def test_php_amqplib(rabbit, proxy, filled):
    def run(port):
        return json.loads(php_job("closings.php", port, filled, count=ROUNDS).succeed())

    straight, through = run(rabbit.port), run(proxy.port)
    # An error that is on its way when the connection is closed may be seen, or not.
    both = {f"missing exchange, connection: {end}" for end in ("fine", "error 404")}
    assert {what for what in through if what not in both} <= set(straight), \
        f"{through}, straight {straight}"
    assert sum(through.values()) == sum(straight.values())
    assert not proxy.events("upstream_lost")
