"""The same sequences of frames go to RabbitMQ straight and through amqpbuf: the answers are the same.

tools/differential runs more of them, and makes what differs short."""

import os

import pytest

from differential import runner
from differential.place import place
from differential.sequence import method, own, publish, written

KNOWN = 300
NEW = int(os.environ.get("AMQPBUF_TEST_SEQUENCES", "0"))  # with seeds that nobody has tried


# What stands behind a difference that is allowed is compared all the same; and what the known seeds hardly do.
WRITTEN = {
    "the_queue_that_was_declared_last": written(
        [method(1, "channel.open")], [method(1, "queue.declare", queue="")], [method(1, "basic.get", queue="")],
        [method(1, "queue.declare", queue=own("n0"))], [publish(1, own("n0"), b"A")],
        [method(1, "basic.get", queue="")], [method(1, "queue.declare", queue=own("n1"), no_wait=True)],
        [publish(1, own("n1"), b"B")], [method(1, "queue.purge", queue="")]),
    "repeated_behind_an_error": written(
        [method(1, "channel.open")], [method(1, "basic.get", queue=own("q0"))],
        [*(publish(1, own("q0"), body) for body in (b"A", b"B", b"C")),
         method(1, "exchange.declare", exchange=own("n0"), type="nonsense")]),
    "transactions_of_consumers": written(
        [method(1, "channel.open")], [publish(1, own("q0"), b"A")], [method(1, "basic.get", queue=own("q0"))],
        [publish(1, own("q0"), b"B")], [method(1, "tx.select")],
        [method(2, "channel.open")], [publish(2, own("q1"), b"C")]),
    "first_of_two_mistakes": written(
        [method(1, "channel.open"), method(1, "tx.select")],
        [publish(1, own("q0"), b"A"), method(1, "basic.ack", False, delivery_tag=99), method(1, "confirm.select")],
        [method(1, "channel.open")], [publish(1, own("q1"), b"B")]),
}


@pytest.fixture(scope="module")
def ports():
    with place() as (found, _):
        yield found


@pytest.mark.parametrize("first, count", [pytest.param(1, KNOWN, id="known")] + (
    [pytest.param(runner.random_seed(), NEW, id="new")] if NEW else []))
def test_answers_as_rabbitmq(ports, first, count):
    print(f"tools/differential --seed {first}")
    counts, wrong = runner.run(ports, first, limit=count, brief=True)
    assert not wrong, f"{len(wrong)} differ: {counts}"
    assert counts["sequences"] == count


@pytest.mark.parametrize("name", WRITTEN)
def test_written_sequences(ports, name):
    different = runner.difference(runner.Pair(ports, 0), WRITTEN[name])
    assert not different, runner.side_by_side(*different)
