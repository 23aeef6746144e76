"""Forty publishers of four libraries, ten outages of five kinds: nothing lost, nobody notices."""

import pytest

from support.ledger import balance, start_publishers
from support.relay import Relay
from support.wait import wait_until

WAYS = ["stop_app", "stop", "kill", "suspend", "cut"] * 2
WINDOW = 256
OPTIONS = {
    "upstream.heartbeat": "2s",
    "pool.upstreams": 1,  # one lost connection for each outage
    "pool.window": WINDOW, "drain.window": WINDOW,
}


def begin(rabbit, relay, how):
    if how == "stop_app":
        rabbit.ctl("stop_app")
    elif how == "stop":
        rabbit.stop()
    elif how == "kill":
        rabbit.kill()
    elif how == "suspend":
        rabbit.suspend()
    else:
        relay.cut_after(1001)  # messages are larger than one byte: in the middle of a frame


def end(rabbit, relay, how):
    if how == "stop_app":
        rabbit.ctl("start_app")
    elif how == "suspend":
        rabbit.resume()
    elif how == "cut":
        relay.mend()
    else:
        rabbit.start()


@pytest.fixture
def publishers(request):
    """A dict that the test fills with jobs; none of them outlives it."""
    jobs = {}
    yield jobs
    for job in jobs.values():
        job.kill()


def test_forty_publishers_ten_outages(rabbit, make_proxy, queue, publishers, tmp_path):
    with Relay(rabbit.port) as relay:
        proxy = make_proxy(f"amqp://127.0.0.1:{relay.port}", OPTIONS)
        stop_file = tmp_path / "stop"
        publishers.update(start_publishers(proxy.port, queue, stop_file, 20))
        for number, how in enumerate(WAYS, 1):
            arrived = rabbit.count(queue)
            wait_until(lambda: rabbit.count(queue) >= arrived + 100,
                       lambda: proxy.failure("publishers publish"))
            begin(rabbit, relay, how)
            proxy.wait_event("buffering_started", number)
            waiting = proxy.waiting()
            wait_until(lambda: proxy.waiting() >= waiting + 100,
                       lambda: proxy.failure(f"they go on into the spool ({how})"))
            end(rabbit, relay, how)
            proxy.wait_event("drain_finished", number, 120)
            ended = [name for name, job in publishers.items() if job.process.poll() is not None]
            assert ended == [], f"after {how}: {publishers[ended[0]].done()}"
        stop_file.touch()
        sent = {name: int(job.succeed()) for name, job in publishers.items()}
        bodies = rabbit.wait_for(queue, sum(sent.values()))
        duplicates = balance(sent, bodies)
        assert duplicates <= len(WAYS) * WINDOW
        assert proxy.dump("--rejected") == []
        print(f"{len(bodies)} messages, {duplicates} duplicates")
