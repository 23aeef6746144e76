"""The same sequences of frames go to RabbitMQ straight and through amqpbuf: the answers are the same.

tools/differential runs more of them, and makes what differs short."""

import pytest

from differential import runner
from differential.place import place

KNOWN, NEW = 300, 200


@pytest.fixture(scope="module")
def ports():
    with place() as (found, _):
        yield found


@pytest.mark.parametrize("first, count", [(1, KNOWN), (runner.random_seed(), NEW)], ids=["known", "new"])
def test_answers_as_rabbitmq(ports, first, count):
    print(f"tools/differential --seed {first}")
    counts, wrong = runner.run(ports, first, limit=count, brief=True)
    assert not wrong, f"{len(wrong)} differ: {counts}"
    assert counts["sequences"] == count
