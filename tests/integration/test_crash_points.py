"""The proxy is killed at each named point, the first time that it gets there and later ones; what was
answered as safe is there or was delivered, in order, and the spool is clean."""

import signal
import subprocess

import pytest

from support import amqp
from support.raw import RawClient
from support.wait import wait_until

LARGE = b"x" * 1_200_000
BROKEN = (OSError, AssertionError)

# Name: at which visits the process ends.
POINTS = {
    "before_load": [1], "before_first_commit": [1], "after_first_commit": [1],
    "in_append": [1, 7, 20], "before_commit": [1, 2, 9], "after_commit": [1, 2, 9],
    "before_ack": [1, 9], "after_ack": [1, 12], "before_confirm": [1, 3],
    "before_replay": [1, 2], "after_replay": [1, 2], "before_delete": [1, 2],
    "in_delete": [1, 5], "after_delete": [1, 2], "before_reject": [1], "in_reject": [1],
    "after_reject": [1], "in_retry": [1, 2], "in_give_back": [1], "in_queue_drop": [1],
    "in_checkpoint": [1, 2, 6], "in_make_key": [1],
}


class Course:
    """Live, an outage, a drain with refusals, a retry, a rest; the proxy is started anew when it ends."""

    def __init__(self, broker, proxy, point):
        self.broker, self.proxy, self.deaths = broker, proxy, 0
        self.acked = []
        self.refused = {b"outage 3", b"outage 11"}
        broker.on_frame = self.refuse
        proxy.environment = {"AMQPBUF_TEST_CRASH_AT": point}

    def refuse(self, connection, frame):
        if frame.type != amqp.BODY or frame.payload not in self.refused:
            return False
        connection.send_method(frame.channel, "channel.close", reply_code=404,
                               reply_text="NOT_FOUND - scripted", class_id=60, method_id=40)
        connection._partial.clear()
        return True

    def revive(self):
        """After something went wrong: it must have been the death that was asked for."""
        process = self.proxy._process
        if process is None or process.poll() is None:
            try:
                process.wait(10)
            except (AttributeError, subprocess.TimeoutExpired):
                raise AssertionError(self.proxy.failure("it is not the proxy that ended")) from None
        assert process.returncode == -signal.SIGKILL, self.proxy.failure("it ended by itself")
        self.deaths += 1
        assert self.deaths == 1
        self.proxy._process, self.proxy.environment = None, {}
        self.proxy.start()
        self.proxy.inspect("verify")

    def attempt(self, step):
        while True:
            try:
                return step()
            except BROKEN:
                self.revive()

    def publish(self, bodies):
        todo = list(bodies)

        def step():
            with RawClient(self.proxy.port) as client:
                client.open_channel(confirms=True)
                tag = 0
                while todo:
                    client.publish(todo[0], "q")
                    tag += 1
                    client.acked_up_to_tags({tag})
                    self.acked.append(todo.pop(0))
                client.close()
        self.attempt(step)

    def until(self, condition, what):
        def step():
            def met():
                assert self.proxy.is_running(), "it has ended"
                return condition()
            wait_until(met, lambda: self.proxy.failure(what))
        self.attempt(step)

    def retry(self):
        self.attempt(lambda: self.proxy.ctl("retry", 1))

    def run(self, large):
        self.attempt(lambda: self.proxy.is_running() or self.proxy.start())
        self.publish([b"live %d" % n for n in range(5)])
        self.broker.down()
        self.publish([b"outage %d" % n + (b"x" * 9000 if n % 4 == 0 else b"") for n in range(20)])
        if large:
            self.publish([b"large %d " % n + LARGE for n in range(70)])
        self.broker.up()
        self.until(lambda: self.proxy.waiting() == 0, "the drain")
        self.until(lambda: len(self.proxy.dump("--rejected")) == 2, "two are rejected")
        self.refused.clear()
        self.retry()
        self.until(lambda: self.proxy.waiting() == 0, "what was retried")


@pytest.mark.parametrize("point", [f"{name}:{visit}" for name in POINTS for visit in POINTS[name]])
def test_killed_at(broker, make_proxy, point):
    options = {"spool.forget_after": "0"}
    if "queue_drop" in point:
        options = {"spool.forget_after": "200ms", "pool.cleanup_interval": "50ms"}
    if "checkpoint" in point:
        options.update({"spool.sync": "interval", "spool.sync_interval": "5ms"})
    proxy = make_proxy(broker.url, options, start=False)
    course = Course(broker, proxy, point)
    course.run(large="give_back" in point)
    if not course.deaths:  # it may come to this place only when all is done
        course.until(lambda: course.deaths, f"{point} is reached")
    proxy.inspect("verify")
    arrived = list(dict.fromkeys(message.body for message in broker.messages))
    late = [b"outage 3", b"outage 11"]
    assert [body for body in arrived if body not in late] == \
        [body for body in course.acked if body not in late]
    assert set(late) <= set(arrived) and proxy.dump("--rejected") == []
