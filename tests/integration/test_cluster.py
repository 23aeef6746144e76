"""Several brokers behind one proxy: the nodes of a RabbitMQ cluster, several hosts in upstream.url,
and a name with several addresses."""

import contextlib
import re
import threading

import pika
import pytest

from support.ledger import balance
from support.rabbit import WHICH, Rabbit
from support.wait import wait_until

POOLS = [("guest", "/"), ("shop", "/"), ("audit", "shop")]
WINDOW = 256


class Publisher(threading.Thread):
    """Publishes "USER:0", "USER:1"... and awaits each confirm until it is stopped."""

    def __init__(self, proxy, user, vhost):
        super().__init__(daemon=True)
        self._proxy, self.user, self.vhost = proxy, user, vhost
        self.queue = f"cluster-{user}"
        self.confirmed, self.error = 0, None
        self._finishing = threading.Event()

    def run(self):
        try:
            with self._proxy.connect(self.user, vhost=self.vhost) as connection:
                channel = connection.channel()
                channel.confirm_delivery()
                while not self._finishing.wait(0.005):
                    body = f"{self.user}:{self.confirmed}".encode()
                    channel.basic_publish("", self.queue, body,
                                          pika.BasicProperties(delivery_mode=2))
                    self.confirmed += 1
        except (pika.exceptions.AMQPError, AssertionError) as error:
            self.error = error

    def finish(self):
        self._finishing.set()
        self.join(120)
        assert not self.is_alive() and self.error is None, f"{self.user}: {self.error!r}"
        return self.confirmed


class Mirrored:
    """Classic queues with a copy on both nodes; a confirm means that both have the message."""

    arguments = {}
    columns = "slave_pids", "synchronised_slave_pids"

    def __init__(self, *nodes):
        self.nodes = nodes
        for vhost in ("/", "shop"):
            nodes[0].ctl("set_policy", "-p", vhost, "copies", ".*",
                         '{"ha-mode":"all","ha-sync-mode":"automatic"}')


class Quorum:
    """Quorum queues with a member on each node; a confirm means that most of them have the message."""

    arguments = {"x-queue-type": "quorum"}
    columns = "members", "online"

    def __init__(self, *nodes):
        self.nodes = nodes


KINDS = {Quorum: 3, Mirrored: 2}  # nodes
if WHICH:
    del KINDS[Mirrored]  # RabbitMQ 4 has none


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__.lower())
def cluster(request):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Rabbit())
        others = [stack.enter_context(Rabbit(first)) for _ in range(KINDS[request.param] - 1)]
        for node in others:
            node.join()
        yield request.param(first, *others)


def urls(*brokers):
    return ",".join(f"amqp://127.0.0.1:{broker.port}" for broker in brokers)


def has_copies(cluster, node, vhost):
    """Every queue of the vhost is whole on all nodes."""
    rows = node.ctl("list_queues", "-p", vhost, "--no-table-headers", *cluster.columns).splitlines()
    return all(len(copies) == 2 and copies[0] == copies[1] != set()
               for copies in ([set(re.findall(r"[^][, ]+", column)) for column in row.split("\t")]
                              for row in rows))


def leave(node, how):
    if how == "stop_app":
        node.ctl("stop_app")
    elif how == "stop":
        node.stop()
    else:
        node.kill()


def come_back(cluster, node, how):
    if how == "stop_app":
        node.ctl("start_app")
    else:
        node.start()
    for vhost in ("/", "shop"):
        wait_until(lambda: has_copies(cluster, node, vhost), "the node has a copy of every queue", 120)


def of(events, name, broker):
    return [event for event in events if event["event"] == name
            and event["port"] == str(broker.port)]


def all_moved(proxy, since, broker):
    users = {event["user"] for event in of(proxy.events()[since:], "upstream_connected", broker)}
    return users == {user for user, _ in POOLS}


def take_away(proxy, publishers, node, other, how):
    """Every pool goes to the other node at once, and goes on publishing there."""
    since = len(proxy.events())
    leave(node, how)
    wait_until(lambda: all_moved(proxy, since, other),
               lambda: proxy.failure(f"all pools move over ({how})"))
    confirmed = [publisher.confirmed for publisher in publishers]
    for publisher, before in zip(publishers, confirmed):
        wait_until(lambda: publisher.confirmed >= before + 50 or publisher.error,
                   lambda: proxy.failure(f"{publisher.user} publishes on"))
    events = proxy.events()[since:]
    assert of(events, "upstream_lost", node)
    assert of(events, "upstream_failed", node) == [], "the node that had gone was tried"
    assert of(events, "upstream_failed", other) == []


@pytest.mark.parametrize("how", ["stop_app", "stop", "kill"])
def test_nodes_go_away_in_turn(cluster, make_proxy, how):
    first, second = cluster.nodes[:2]
    for user, vhost in POOLS:
        first.declare(f"cluster-{user}", vhost, arguments=cluster.arguments)
    proxy = make_proxy(urls(first, second), {"pool.window": WINDOW, "drain.window": WINDOW})
    publishers = [Publisher(proxy, user, vhost) for user, vhost in POOLS]
    for publisher in publishers:
        publisher.start()
    wait_until(lambda: all_moved(proxy, 0, first), lambda: proxy.failure("all begin on the first"))
    take_away(proxy, publishers, first, second, how)
    come_back(cluster, first, how)
    take_away(proxy, publishers, second, first, how)
    sent = {publisher.user: publisher.finish() for publisher in publishers}
    proxy.wait_empty()
    come_back(cluster, second, how)
    for user, vhost in POOLS:
        bodies = second.wait_for(f"cluster-{user}", sent[user], vhost)
        assert balance({user: sent[user]}, bodies) <= 2 * WINDOW
    assert proxy.dump("--rejected") == []
