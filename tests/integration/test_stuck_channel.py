"""RabbitMQ 3.10 does nothing on a channel for a minute when it is to route to a quorum queue without
a leader which that channel has not known before: all that was published behind waits, and so do
confirms that were due."""

import pytest

from support.wait import wait_until
from test_destinations import FAST, bodies_to, in_order, numbers, spool

CREDIT = 400  # RabbitMQ's, for a channel: what it may have to look at
LIMIT = ("NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed "
         "user limit of (%d)")


class Sticks:
    """A broker that is stuck on a channel once it has taken a message of such a key there, and has
    not confirmed the last few of what it took before."""

    def __init__(self, broker, keys, owes=()):
        self.keys = keys
        self.owes = set(owes)  # each once: sent again, it is confirmed
        self.stuck = {}  # (connection, channel): messages behind
        self.deaf = set()  # connections that nothing more is read from: credit_flow
        self.most, self.channels = 0, {}  # open at a time, in all; by connection
        self.limit = None
        broker.on_message, broker.on_frame = self.on_message, self.on_frame

    def on_frame(self, connection, frame):
        channel = (connection, frame.channel)
        if channel in self.stuck:
            self.stuck[channel] += frame.name == "basic.publish"
            if self.stuck[channel] >= CREDIT:
                self.deaf.add(connection)
        if channel in self.stuck or connection in self.deaf:
            return True
        if frame.name == "channel.open" and self.is_one_too_many(connection, frame.channel):
            connection.send_method(0, "connection.close", reply_code=530, class_id=0, method_id=0,
                                   reply_text=LIMIT % self.limit)
            return True
        if frame.name == "channel.close":
            self.channels[connection].discard(frame.channel)
        return False

    def is_one_too_many(self, connection, channel):
        self.channels.setdefault(connection, set()).add(channel)
        count = len(self.channels[connection])
        self.most = max(self.most, count)
        return self.limit is not None and count > self.limit

    def on_message(self, connection, message):
        if message.args["routing_key"] in self.keys:
            self.stuck[connection, message.channel] = 0
        elif message.body in self.owes:
            self.owes.discard(message.body)
        else:
            connection.ack(message)


def stalled(proxy):
    return [event["routing_key"] for event in proxy.events("confirms_stalled")]


@pytest.mark.parametrize("owes", [(), (b"first 0",)])
def test_it_is_left_and_the_others_go_on(broker, make_proxy, owes):
    """Also if a confirm is still due of what was sent before."""
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "1s", "drain.window": 64})
    messages = [("first", b"first 0"), ("good", b"good 0"), ("dead", b"dead 0")]
    messages += [(key, b"%s %d" % (key.encode(), n))
                 for n in range(1, 200) for key in ("first", "good", "dead")]
    spool(broker, proxy, messages)
    Sticks(broker, ["dead"], owes)
    broker.up()
    proxy.wait_event("drain_channel_left")
    for key in ("first", "good"):
        wait_until(lambda: in_order(bodies_to(broker, key)) == numbers(key, 200),
                   lambda: proxy.failure(f"all for {key}"))
    assert stalled(proxy) == ["dead"], proxy.failure("who was set aside")


@pytest.mark.parametrize("place", [0, 5, 11])
def test_which_of_many_it_is(broker, make_proxy, place):
    """The next channel tells, wherever it stands among the others: none of those is taken for it."""
    keys = [f"good{n}" for n in range(12)]
    keys.insert(place, "dead")
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "1s", "drain.window": 64})
    spool(broker, proxy, [(key, b"%s %d" % (key.encode(), n)) for n in range(40) for key in keys])
    Sticks(broker, ["dead"])
    broker.up()
    for key in keys:
        if key != "dead":
            wait_until(lambda k=key: in_order(bodies_to(broker, k)) == numbers(k, 40),
                       lambda k=key: proxy.failure(f"all for {k}"))
    assert len(proxy.events("drain_channel_left")) <= 2, proxy.failure("how often it was left")
    assert stalled(proxy) == ["dead"], proxy.failure("who was set aside")


def test_two_of_them(broker, make_proxy):
    keys = ["a", "dead1", "b", "dead2", "c"]
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "1s", "drain.window": 64})
    spool(broker, proxy, [(key, b"%s %d" % (key.encode(), n)) for n in range(40) for key in keys])
    Sticks(broker, ["dead1", "dead2"])
    broker.up()
    for key in ("a", "b", "c"):
        wait_until(lambda k=key: in_order(bodies_to(broker, k)) == numbers(k, 40),
                   lambda k=key: proxy.failure(f"all for {k}"))
    assert len(proxy.events("drain_channel_left")) <= 3, proxy.failure("how often it was left")
    assert stalled(proxy) == ["dead1", "dead2"], proxy.failure("who was set aside")


def test_a_window_that_holds_up_the_connection(broker, make_proxy):
    """It is given up once; then nothing is sent behind what may be the reason."""
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "1s", "drain.window": 1000})
    spool(broker, proxy, [(key, b"%s %d" % (key.encode(), n))
                          for n in range(1000) for key in ("good", "dead")])
    sticks = Sticks(broker, ["dead"])
    lost = len(proxy.events("upstream_lost"))
    broker.up()
    wait_until(lambda: in_order(bodies_to(broker, "good")) == numbers("good", 1000),
               lambda: proxy.failure("all for the good one"))
    assert len(sticks.deaf) == 1
    assert len(proxy.events("upstream_lost")) == lost + 1, proxy.failure("how often it was lost")
    assert stalled(proxy) == ["dead"], proxy.failure("who was set aside")


def test_a_limit_of_channels(broker, make_proxy):
    """No other channel is opened to find out once it is known that RabbitMQ ends the connection."""
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "500ms", "drain.window": 64})
    spool(broker, proxy, [(key, b"%s %d" % (key.encode(), n))
                          for n in range(40) for key in ("dead", "good")])
    sticks = Sticks(broker, ["dead"])
    sticks.limit = 1
    broker.up()
    wait_until(lambda: "good" in stalled(proxy), lambda: proxy.failure("all of them are silent"))
    assert [event["code"] for event in proxy.events("upstream_lost")].count("530") == 1
