"""A destination (exchange and routing key) that RabbitMQ does not confirm, fails at or has no route
for: its messages wait in their order, and hold up no other's."""

import collections
import struct

import pytest

from support.raw import RawClient
from support.wait import wait_until

FAST = {"upstream.reconnect_max": "100ms"}


def spool(broker, proxy, messages):
    """Leaves the broker down; `messages` are (routing key, body, options)."""
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("upstream_lost")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number, (key, body, *options) in enumerate(messages, 1):
            client.publish(body, key, **(options[0] if options else {}))
            if number % 500 == 0 or number == len(messages):
                client.acked_up_to_tags(set(range((number - 1) // 500 * 500 + 1, number + 1)))
        client.close()


def bodies_to(broker, key):
    return [m.body for m in list(broker.messages) if m.args["routing_key"] == key]


def by_turns(keys, count):
    return [(key, b"%s %d" % (key.encode(), n)) for n in range(count) for key in keys]


def numbers(key, count):
    return [b"%s %d" % (key.encode(), n) for n in range(count)]


def in_order(bodies):
    """As they came for the first time."""
    return list(dict.fromkeys(bodies))


class Keeps:
    """A broker that keeps confirms for one key to itself while `silent`."""

    def __init__(self, broker, key):
        self.key, self.silent, self.owed = key, True, []
        broker.on_message = self.on_message

    def on_message(self, connection, message):
        if self.silent and message.args["routing_key"] == self.key:
            self.owed.append((connection, message))
        else:
            connection.ack(message)

    def pay(self):
        self.silent = False
        for connection, message in self.owed:
            if connection.is_open:
                connection.ack(message)


@pytest.mark.parametrize("keys", [["dead", "alive"], ["dead", "dead", "dead", "alive"]])
def test_one_that_is_never_confirmed(broker, make_proxy, keys):
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "300ms", "pool.window": 16, "drain.window": 16})
    messages = [(key, b"%s %d.%d" % (key.encode(), n, k))
                for n in range(200) for k, key in enumerate(keys)]
    spool(broker, proxy, messages)
    keeps = Keeps(broker, "dead")
    broker.up()
    wait_until(lambda: len(bodies_to(broker, "alive")) == 200,
               lambda: proxy.failure("all for the other destination"))
    dead = [body for key, body in messages if key == "dead"]
    wait_until(lambda: proxy.bodies() == [body.decode() for body in dead],
               lambda: proxy.failure("what waits is that destination's"))
    stalled = proxy.events("confirms_stalled")
    assert [event["routing_key"] for event in stalled] == ["dead"]
    # Both can still be published to, and neither overtakes its own.
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"alive again", "alive")
        client.publish(b"dead again", "dead")
        client.acked_up_to(2)
        client.close()
    wait_until(lambda: bodies_to(broker, "alive")[-1] == b"alive again",
               lambda: proxy.failure("a new one to the other"))
    keeps.pay()
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert bodies_to(broker, "dead") == dead + [b"dead again"]  # none of them twice
    assert bodies_to(broker, "alive") == [b for k, b in messages if k == "alive"] + [b"alive again"]


def test_it_stays_aside_over_a_lost_connection(broker, make_proxy):
    proxy = make_proxy(broker.url, {**FAST, "pool.confirm_timeout": "500ms", "pool.window": 8, "drain.window": 8})
    spool(broker, proxy, by_turns(["dead", "alive"], 40))
    keeps = Keeps(broker, "dead")
    broker.up()
    proxy.wait_event("confirms_stalled")
    wait_until(lambda: len(bodies_to(broker, "alive")) == 40, "all for the other destination")
    broker.open_connections()[0].die()
    keeps.owed.clear()
    wait_until(lambda: len(keeps.owed) == 1, lambda: proxy.failure("it is tried with one"))
    keeps.pay()
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert in_order(bodies_to(broker, "dead")) == numbers("dead", 40)
    assert bodies_to(broker, "alive") == numbers("alive", 40)


class Nacks:
    """A broker that fails so often at each message of one key that `fails` says."""

    def __init__(self, broker, key, fails):
        self.key, self.fails = key, fails
        self.taken, self.tries = [], collections.Counter()
        broker.on_message = self.on_message

    def on_message(self, connection, message):
        if message.args["routing_key"] != self.key:
            connection.ack(message)
            return
        self.tries[message.body] += 1
        if self.fails(message.body, self.tries[message.body]):
            connection.nack(message)
        else:
            self.taken.append(message.body)
            connection.ack(message)


def test_a_queue_whose_process_is_gone_for_a_moment(broker, make_proxy):
    """All that was under way to it is nacked: none is rejected, none is overtaken."""
    proxy = make_proxy(broker.url, FAST)
    spool(broker, proxy, by_turns(["gone", "well"], 300))
    first = []  # the one that is tried again and again until the process is back

    def fails(body, tries):
        number = int(body.split()[1])
        if tries == 1 and 100 <= number < 230 and nacks.tries[b"gone 99"]:
            first.append(body)
            return len(nacks.taken) <= 100
        return body == first[0] and tries < 4 if first else False

    nacks = Nacks(broker, "gone", fails)
    broker.up()
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert proxy.summary()["queues"][0]["rejected"] == 0
    assert nacks.tries[first[0]] == 4
    assert nacks.taken == numbers("gone", 300)
    assert bodies_to(broker, "well") == numbers("well", 300)


def test_a_full_queue_that_somebody_reads_from(broker, make_proxy):
    """It takes one, and refuses the next: once that is known, each waits for the one before."""
    proxy = make_proxy(broker.url, {**FAST, "pool.window": 1, "drain.window": 1})
    spool(broker, proxy, by_turns(["full", "well"], 12))
    nacks = Nacks(broker, "full", lambda body, tries: tries == 1 and int(body.split()[1]) % 4 == 1)
    broker.up()
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert nacks.taken == numbers("full", 12)
    assert proxy.dump("--rejected") == []
    # The others did not wait for the pauses.
    well = [m.body for m in broker.messages].index(b"well 11")
    full = [m.body for m in broker.messages].index(b"full 11")
    assert well < full


class Spoils:
    """A broker that nacks the `spoiling` messages of one key, and from then on all of that key on a
    channel that has seen it: what RabbitMQ 3.10 does once the leader of a quorum queue has gone."""

    def __init__(self, broker, key, spoiling):
        self.key, self.spoiling = key, set(spoiling)
        self.spoiled, self.nacked, self.taken = set(), [], []
        broker.on_message = self.on_message

    def on_message(self, connection, message):
        place = (connection, len([f for f in connection.frames if f.channel == message.channel and
                                  f.name == "channel.open"]), message.channel)
        if message.args["routing_key"] == self.key and message.body in self.spoiling:
            self.spoiling.remove(message.body)
            self.spoiled.add(place)
        if message.args["routing_key"] == self.key and place in self.spoiled:
            self.nacked.append(message.body)
            connection.nack(message)
        else:
            self.taken.append(message.body)
            connection.ack(message)


def test_a_channel_that_nacks_for_ever(broker, make_proxy):
    """In the drain: the next try goes on another one, and no message is rejected."""
    proxy = make_proxy(broker.url, {**FAST, "drain.nack_limit": 2})
    spool(broker, proxy, by_turns(["quorum", "well"], 300))
    spoils = Spoils(broker, "quorum", [b"quorum 7", b"quorum 250"])
    broker.up()
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert proxy.dump("--rejected") == [] and b"quorum 7" in spoils.nacked
    assert [body for body in spoils.taken if b"quorum" in body] == numbers("quorum", 300)
    assert bodies_to(broker, "well") == numbers("well", 300)
    assert len(proxy.events("upstream_connected")) == 2, "the connection stays"


def test_a_channel_that_nacks_for_ever_beside_a_silent_one(broker, make_proxy):
    """Of two queues whose cluster is in trouble one is silent: the other is not rejected over that, and
    the silent one hears its messages again no oftener than the channel is changed."""
    proxy = make_proxy(broker.url, {**FAST, "drain.nack_limit": 3, "drain.rate": 50,
                                    "pool.confirm_timeout": "200ms"})
    spool(broker, proxy, [("dead", b"dead 0")] + by_turns(["quorum"], 60))
    spoils = Spoils(broker, "quorum", [])
    dead = []

    def on_message(connection, message):
        if message.args["routing_key"] == "dead":
            dead.append(message)
            return
        if not spoils.spoiled and proxy.events("confirms_stalled"):
            spoils.spoiling.add(message.body)
        spoils.on_message(connection, message)

    broker.on_message = on_message
    broker.up()
    wait_until(lambda: len(spoils.taken) == 60, lambda: proxy.failure("all but the silent one's"))
    assert spoils.taken == numbers("quorum", 60)
    assert proxy.dump("--rejected") == []
    assert len(spoils.nacked) >= 2 and len(dead) == 2


def test_a_channel_that_nacks_for_ever_is_left_by_live_publishers(broker, make_proxy):
    """Who is told of the nack publishes again, on another one; and so does whoever comes next."""
    proxy = make_proxy(broker.url, FAST)
    spoils = Spoils(broker, "quorum", [b"quorum 0"])
    for _ in range(2):
        with RawClient(proxy.port) as client:
            client.open_channel(confirms=True)
            if spoils.spoiling:
                client.publish(b"quorum 0", "quorum")
                assert client.expect("basic.nack").args["delivery_tag"] == 1
            for number in range(20):
                client.publish(b"quorum %d" % number, "quorum")
                client.expect("basic.ack")
            client.close()
    assert spoils.nacked == [b"quorum 0"]
    assert spoils.taken == numbers("quorum", 20) * 2
    names = [f.name for f in broker.connections[0].frames]
    assert names.count("channel.open") == 2 and names.count("channel.close") == 1


def test_nacked_for_good(broker, make_proxy):
    proxy = make_proxy(broker.url, {**FAST, "drain.nack_limit": 2})
    spool(broker, proxy, by_turns(["full", "well"], 3))
    nacks = Nacks(broker, "full", lambda body, tries: True)
    broker.up()
    assert proxy.wait_event("drain_finished")["rejected"] == "3"
    assert dict(nacks.tries) == dict.fromkeys(numbers("full", 3), 2) or \
        all(tries >= 2 for tries in nacks.tries.values())
    rejected = proxy.dump("--rejected")
    assert [(r["body"].encode(), r["rejected"]["code"]) for r in rejected] == \
        [(body, 0) for body in numbers("full", 3)]
    assert bodies_to(broker, "well") == numbers("well", 3)


class Routes:
    """A broker that has no route for one key until it is `bound`, and returns what is mandatory."""

    def __init__(self, broker, key, header=None):
        self.key, self.header, self.bound = key, header, False
        self.returned, self.taken, self.vanished = [], [], []
        broker.on_message = self.on_message

    def on_message(self, connection, message):
        if message.args["routing_key"] != self.key or self.bound:
            self.taken.append(message.body)
        elif message.args["mandatory"]:
            self.returned.append(message.body)
            connection.give_back(message, header=self.header and self.header(message))
        else:
            self.vanished.append(message.body)
        connection.ack(message)


def without_priority(message):
    """As RabbitMQ makes it anew without a property: flags 0, none left."""
    return message.header[:12] + struct.pack(">H", 0)


@pytest.mark.parametrize("header", [None, without_priority], ids=["same", "changed"])
def test_a_queue_that_is_bound_a_moment_after_the_return(broker, make_proxy, header):
    proxy = make_proxy(broker.url, FAST)
    spool(broker, proxy, by_turns(["later", "well"], 50))
    routes = Routes(broker, "later", header)
    broker.up()
    wait_until(lambda: routes.returned.count(b"later 0") > 1, "it is tried again")
    wait_until(lambda: len(bodies_to(broker, "well")) == 50, "all for the other destination")
    routes.bound = True
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert routes.vanished == [] and proxy.dump("--rejected") == []
    assert [b for b in routes.taken if b.startswith(b"later")] == numbers("later", 50)
    assert [b for b in routes.taken if b.startswith(b"well")] == numbers("well", 50)


@pytest.mark.parametrize("unroutable", ["drop", "reject"])
def test_no_route_after_the_wait(broker, make_watched, unroutable):
    proxy, admin = make_watched(broker.url, {**FAST, "drain.unroutable_wait": "0s",
                                             "drain.unroutable": unroutable})
    messages = by_turns(["nowhere", "well"], 20)
    messages[6] = ("nowhere", b"nowhere 3", {"mandatory": True})
    spool(broker, proxy, messages)
    routes = Routes(broker, "nowhere")
    broker.up()
    assert proxy.wait_event("drain_finished")["messages"] == "0"
    assert routes.returned == numbers("nowhere", 20)
    assert routes.taken == numbers("well", 20)
    rejected = [r["body"].encode() for r in proxy.dump("--rejected")]
    dropped = 19 if unroutable == "drop" else 0
    assert rejected == ([b"nowhere 3"] if unroutable == "drop" else numbers("nowhere", 20))
    assert {r["rejected"]["code"] for r in proxy.dump("--rejected")} == {312}
    assert not any(r["mandatory"] for r in proxy.dump("--rejected") if r["body"] != "nowhere 3")
    assert admin.metrics()["amqpbuf_messages_unroutable_total"] == dropped
    named = [event["routing_key"] for event in proxy.events("message_unroutable")]
    assert named == (["nowhere"] if unroutable == "drop" else [])


@pytest.mark.parametrize("count", [63, 64, 100])
def test_many_silent_ones_and_a_lost_connection(broker, make_proxy, count):
    """More than may be tried before all others; the next drain begins at the first record."""
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "300ms"})
    spool(broker, proxy, [])
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for number in range(count):
            client.publish(b"%d" % number, f"dead{number}")
        client.acked_up_to(count)
        broker.acks = False
        broker.up()
        proxy.wait_event("confirms_stalled", 10)
        wait_until(lambda: len(broker.messages) == count, "all are sent")
        wait_until(lambda: len([event for event in proxy.events("confirms_stalled")]) >= 10, "silent")
        client.publish(b"fine", "fine")
        client.acked_up_to_tags({count + 1})
        broker.acks = True
        broker.open_connections()[-1].die()
        proxy.wait_empty()
        client.close()
    assert {message.body for message in broker.messages} >= {b"%d" % n for n in range(count)} | {b"fine"}
