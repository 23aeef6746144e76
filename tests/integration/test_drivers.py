"""The calls that the queue drivers of PHP frameworks make, as they are, connected and in an outage."""

import pytest

from support.jobs import php_job

LARAVEL = [{}, {"confirm": True}, {"tx": True}]
SYMFONY = [{}, {"confirm": True}]
COUNT = 5


def name_of(flags):
    return next(iter(flags), "plain")


def outage(rabbit, proxy):
    proxy.connect().close()  # the login has to be known
    rabbit.stop()
    proxy.wait_event("upstream_lost")


def expected(*prefixes):
    return [f"{prefix}-{number}".encode() for prefix in prefixes for number in range(1, COUNT + 1)]


def end_outage(rabbit, proxy):
    proxy.crash_and_start()
    rabbit.start()
    proxy.wait_empty()
    assert proxy.dump("--rejected") == []


@pytest.mark.parametrize("flags", LARAVEL, ids=name_of)
def test_laravel(rabbit, proxy, flags):
    """Its queue is there from an earlier job, as in production."""
    queue, exchange = f"laravel-{name_of(flags)}", f"laravel-{name_of(flags)}-jobs"
    rabbit.delete(queue)

    def job(prefix):
        php_job("laravel.php", proxy.port, queue, exchange=exchange, count=COUNT, prefix=prefix,
                **flags).succeed()

    job("first")
    outage(rabbit, proxy)
    job("offline")
    assert proxy.waiting() == COUNT
    end_outage(rabbit, proxy)
    job("last")
    bodies = rabbit.wait_for(queue, 3 * COUNT)
    assert bodies == expected("first", "offline", "last")


@pytest.mark.parametrize("flags", SYMFONY, ids=name_of)
@pytest.mark.parametrize("offline", [False, True])
def test_symfony(rabbit, proxy, flags, offline):
    """It declares everything anew, also what nobody has declared before the outage."""
    queue = f"symfony-{name_of(flags)}-{offline}"
    exchange = f"{queue}-messages"
    rabbit.delete(queue)
    if offline:
        outage(rabbit, proxy)
    php_job("symfony.php", proxy.port, queue, exchange=exchange, count=COUNT, prefix="a",
            **flags).succeed()
    if offline:
        kinds = [record.get("kind", "publish") for record in proxy.dump()]
        assert kinds == ["declare"] * 3 + ["publish"] * COUNT
        end_outage(rabbit, proxy)
    assert rabbit.wait_for(queue, COUNT) == expected("a")
