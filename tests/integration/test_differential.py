"""The same sequences of frames go to RabbitMQ straight and through amqpbuf: the answers are the same.

tools/differential runs more of them, and makes what differs short."""

import os

import pytest

from differential import runner
from differential.place import place

KNOWN = 300
NEW = int(os.environ.get("AMQPBUF_TEST_SEQUENCES", "0"))  # with seeds that nobody has tried


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
