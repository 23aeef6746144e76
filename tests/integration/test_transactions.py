"""tx.commit-ok says what is true of its own transaction, wherever RabbitMQ goes meanwhile."""

import select

import pytest

from conftest import url_of
from support import amqp
from support.disk import Disk
from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until


class Commits:
    """A broker that answers tx.commit when it is told to."""

    def __init__(self, broker):
        self.seen = []
        broker.on_frame = self.take

    def take(self, connection, frame):
        if frame.name != "tx.commit":
            return False
        self.seen.append((connection, frame.channel))
        return True

    def wait(self, count):
        wait_until(lambda: len(self.seen) >= count, lambda: f"{count} commits, {len(self.seen)}")

    def answer(self, number):
        connection, channel = self.seen[number]
        connection.send_method(channel, "tx.commit-ok")


@pytest.fixture
def proxy(broker, make_proxy):
    return make_proxy(broker.url)


def own_of(broker):
    """(the client's own connection, the pool's shared one)."""
    own = next(c for c in broker.connections if "1:tx.select" in c.sequence())
    return own, next(c for c in broker.connections if c is not own)


def begin(proxy):
    client = RawClient(proxy.port)
    client.open_channel()
    client.call(1, "tx.select")
    return client


def test_what_is_published_behind_a_commit_is_the_next_transaction(broker, proxy):
    commits = Commits(broker)
    client = begin(proxy)
    client.publish(b"A", "q")
    client.send_method(1, "tx.commit")
    client.publish(b"B", "q")
    wait_until(lambda: len(broker.messages) == 2, "both are there")
    commits.answer(0)
    client.expect("tx.commit-ok")
    client.publish(b"C", "q")
    client.send_method(1, "tx.commit")
    commits.wait(2)
    broker.down()
    client.expect("tx.commit-ok")
    assert proxy.bodies() == ["B", "C"]
    client.socket.close()


def test_two_commits_on_their_way_are_lost(broker, proxy):
    """Each is committed in the spool, in order; what follows is still open."""
    commits = Commits(broker)
    client = begin(proxy)
    for body in (b"A", b"B"):
        client.publish(body, "q")
        client.send_method(1, "tx.commit")
    client.publish(b"open", "q")
    commits.wait(2)
    wait_until(lambda: len(broker.messages) == 3, "all are there")
    broker.down()
    client.expect("tx.commit-ok")
    client.expect("tx.commit-ok")
    assert proxy.bodies() == ["A", "B"]
    client.call(1, "tx.rollback")
    client.call(1, "tx.commit")
    assert proxy.bodies() == ["A", "B"]
    client.socket.close()


def test_a_rollback_on_its_way_drops_only_its_own(broker, proxy):
    broker.silent_on = {"tx.rollback"}
    commits = Commits(broker)
    client = begin(proxy)
    client.publish(b"A", "q")
    client.send_method(1, "tx.rollback")
    client.publish(b"B", "q")
    client.send_method(1, "tx.commit")
    commits.wait(1)
    broker.down()
    client.expect("tx.rollback-ok")
    client.expect("tx.commit-ok")
    assert proxy.bodies() == ["B"]
    client.socket.close()


def test_a_commit_is_answered_although_others_are_blocked(broker, proxy):
    """An alarm has reached the shared connection alone."""
    commits = Commits(broker)
    client = begin(proxy)
    own, shared = own_of(broker)
    client.publish(b"A", "q")
    client.send_method(1, "tx.commit")
    commits.wait(1)
    shared.send_method(0, "connection.blocked", reason="scripted")
    proxy.wait_event("buffering_started")
    client.publish(b"B", "q")
    commits.answer(0)
    client.expect("tx.commit-ok")
    client.send_method(1, "tx.commit")  # B's, which begins behind the alarm
    client.expect("tx.commit-ok")
    assert proxy.bodies() == ["B"]
    assert [m.body for m in own.messages] == [b"A"]
    client.socket.close()


def test_a_transaction_that_has_begun_ends_where_it_began(broker, proxy):
    """And the channel's consumer goes on."""
    client = RawClient(proxy.port)
    client.open_channel()
    client.call(1, "tx.select")
    client.call(1, "basic.consume", queue="q", no_ack=True)
    own, shared = own_of(broker)
    client.publish(b"A", "out")
    wait_until(lambda: own.messages, "A")
    shared.send_method(0, "connection.blocked", reason="scripted")
    proxy.wait_event("buffering_started")
    client.publish(b"B", "out")
    client.call(1, "tx.commit")
    assert [m.body for m in own.messages] == [b"A", b"B"]
    assert proxy.waiting() == 0
    own.send(amqp.method_frame(1, "basic.deliver", consumer_tag="consumer", delivery_tag=1,
                               routing_key="q") + amqp.content_frames(1, b"work"))
    client.expect("basic.deliver", 1)
    client.socket.close()


def test_a_transaction_goes_on_here_when_its_own_connection_is_blocked(broker, proxy):
    client = begin(proxy)
    own, shared = own_of(broker)
    client.publish(b"A", "q")
    wait_until(lambda: own.messages, "A")
    for connection in (own, shared):
        connection.send_method(0, "connection.blocked", reason="scripted")
    proxy.wait_event("buffering_started")
    client.publish(b"B", "q")
    client.call(1, "tx.commit")
    assert proxy.bodies() == ["A", "B"]
    client.socket.close()


@pytest.mark.parametrize("how", ["channel", "connection"])
@pytest.mark.parametrize("then", ["answered", "lost"])
def test_a_close_in_an_alarm_waits_for_the_commit_before_it(broker, proxy, how, then):
    """Nobody knows whether RabbitMQ has read it; else the close would say that it is safe."""
    commits = Commits(broker)
    client = begin(proxy)
    own, _ = own_of(broker)
    client.publish(b"A", "q")
    client.send_method(1, "tx.commit")
    commits.wait(1)
    broker.everywhere("connection.blocked", reason="scripted")
    proxy.wait_event("upstream_blocked", 2)
    number = 1 if how == "channel" else 0
    client.send_method(number, how + ".close", reply_code=200)
    with RawClient(proxy.port) as other:  # it was read
        other.close()
    assert select.select([client.socket], [], [], 0)[0] == []
    if then == "answered":
        commits.answer(0)
    else:
        own.die()
    client.expect("tx.commit-ok", 1)
    client.expect(how + ".close-ok", number)
    assert proxy.waiting() == (0 if then == "answered" else 1)
    client.socket.close()


def test_transactions_behind_a_publish_that_is_never_confirmed(broker, make_proxy):
    """On the client's own connection, which waits for confirms before it changes to transactions."""
    proxy = make_proxy(broker.url, {"pool.confirm_timeout": "300ms"})
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="own", exclusive=True)
        broker.acks = False
        client.publish(b"A", "stuck")
        broker.wait_messages(1)
        client.call(1, "tx.select")
        broker.acks = True
        client.publish(b"B", "q")
        client.call(1, "tx.commit")
        client.close()
    proxy.wait_empty()
    assert sorted(set(message.body for message in broker.messages)) == [b"A", b"B"]


def test_a_prefetch_count_makes_no_consumer(broker, proxy):
    client = begin(proxy)
    client.call(1, "basic.qos", prefetch_count=1)
    client.publish(b"A", "q")
    wait_until(lambda: len(broker.messages) == 1, "A")
    broker.down()
    proxy.wait_event("buffering_started")
    client.publish(b"B", "q")
    client.call(1, "tx.commit")
    assert proxy.bodies() == ["A", "B"]
    client.socket.close()


def test_transactions_behind_publishes_that_were_confirmed(rabbit, make_proxy, queue):
    """RabbitMQ lets nobody switch from confirms; the client never asked for any."""
    proxy = make_proxy(url_of(rabbit))
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="", exclusive=True)
        client.publish(b"before", queue)
        client.publish(b"and again", queue)
        client.call(1, "tx.select")
        client.publish(b"given up", queue)
        client.call(1, "tx.rollback")
        client.publish(b"committed", queue)
        client.call(1, "tx.commit")
        client.close()
    assert rabbit.wait_for(queue, 3) == [b"before", b"and again", b"committed"]


def test_an_ack_that_is_refused_before_transactions_is_told(broker, proxy):
    """It has no answer of its own: what RabbitMQ says of it may come as late as the channel's end."""
    refusal = "PRECONDITION_FAILED - unknown delivery tag 99"

    def late(connection, frame):
        if frame.name != "channel.close":
            return False
        connection.close_channel(frame.channel, 406, refusal)
        connection.send_method(frame.channel, "channel.close-ok")  # they cross
        return True

    broker.on_frame = late
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.call(1, "queue.declare", queue="mine", exclusive=True)
        client.publish(b"before", "q")
        client.send_method(1, "basic.ack", delivery_tag=99)
        client.send_method(1, "tx.select")
        assert client.expect("channel.close", 1).args["reply_text"] == refusal
        client.send_method(1, "channel.close-ok")
        client.open_channel()
        client.call(1, "tx.select")


@pytest.mark.parametrize("order", ["publish, ack", "ack, publish"])
def test_acks_are_committed_with_what_is_stored(broker, make_proxy, order):
    """A worker's publishes wait behind a backlog; RabbitMQ has its acks."""
    proxy = make_proxy(broker.url)
    spool(broker, proxy, [b"before"])
    broker.acks = False
    broker.up()
    broker.wait_messages(1)
    commits = Commits(broker)
    with RawClient(proxy.port) as worker:
        worker.open_channel()
        worker.call(1, "tx.select")
        worker.send_method(1, "basic.consume", queue="in", consumer_tag="consumer")
        worker.expect("basic.consume-ok")
        own = next(c for c in broker.connections if "1:basic.consume" in c.sequence())
        for number in range(2):
            own.send(amqp.method_frame(1, "basic.deliver", consumer_tag="consumer",
                                       delivery_tag=number + 1, routing_key="in") +
                     amqp.content_frames(1, b"job"))
            worker.expect("basic.deliver")
            worker.read()
            worker.read()
            if order == "ack, publish":
                worker.send_method(1, "basic.ack", delivery_tag=number + 1)
            worker.publish(b"done %d" % number, "out")
            if order == "publish, ack":
                worker.send_method(1, "basic.ack", delivery_tag=number + 1)
            worker.send_method(1, "tx.commit")
            commits.wait(number + 1)
            assert commits.seen[number] == (own, 1)
            assert proxy.waiting() == 2 + number  # what it has published is stored by then
            commits.answer(number)
            worker.expect("tx.commit-ok")
        assert [name for name in own.sequence() if name in ("1:basic.ack", "1:tx.commit")] == \
            2 * ["1:basic.ack", "1:tx.commit"]
        broker.ack_all()
        proxy.wait_empty()
        worker.die()
    assert [message.body for message in broker.messages] == [b"before", b"done 0", b"done 1"]


def test_rabbitmq_goes_while_its_connection_is_being_made(broker, make_proxy):
    """The pool does not know it yet: a transaction can wait in the spool all the same."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel()
        client.publish(b"live", "q")
        broker.wait_messages(1)
        broker.silent_before = "connection.open-ok"
        client.send_method(1, "tx.select")
        broker.wait_connection(2)
        broker.down()
        client.expect("tx.select-ok")
        client.publish(b"stored", "q")
        client.call(1, "tx.commit")
        broker.silent_before = None
        broker.up()
        broker.wait_messages(2)
        client.close()
    proxy.wait_empty()


@pytest.fixture
def there(broker, make_proxy, tmp_path):
    """A client whose transaction RabbitMQ alone has, as its login could not be stored, and which can be
    stored from now on; its connection at RabbitMQ."""
    disk = Disk(tmp_path)
    proxy = make_proxy(broker.url, {"spool.mode": "always"}, environment=disk.environment,
                       provokes=("login_not_stored", "spool_failed", "sync_failed", "client_refused"))
    disk.become("readonly")
    with RawClient(proxy.port) as client:
        proxy.wait_event("login_not_stored")
        client.open_channel()
        client.call(1, "tx.select")
        client.publish(b"0", "q")
        broker.wait_messages(1)
        own = next(c for c in broker.connections if c.messages)
        disk.mend()
        shared = next(c for c in broker.open_connections() if c is not own)
        shared.die()
        wait_until(lambda: proxy.summary()["queues"], "its login is stored")
        yield client, own
    disk.mend()


def test_what_rabbitmq_alone_has_is_committed_there(broker, there):
    client, own = there
    client.publish(b"1", "q")
    client.call(1, "tx.commit")
    assert [name for name in own.sequence() if name in ("1:basic.publish", "1:tx.commit")] == \
        ["1:basic.publish", "1:basic.publish", "1:tx.commit"]
    assert [message.body for message in own.messages] == [b"0", b"1"]
    client.close()


@pytest.mark.parametrize("committing", [False, True])
def test_loss_of_what_rabbitmq_alone_has_is_told(broker, there, committing):
    client, own = there
    if committing:
        broker.silent_on.add("tx.commit")
        client.send_method(1, "tx.commit")
        wait_until(lambda: "1:tx.commit" in own.sequence(), "the commit")
    own.die()
    client.expect_close(320)


@pytest.mark.parametrize("clients", [1, 2])
def test_transactions_that_fill_the_buffer_do_not_wait_for_each_other(broker, make_proxy, clients):
    """With spool.overflow = block. What waits goes first: there may be room then."""
    proxy = make_proxy(broker.url, {"spool.overflow": "block", "pool.publish_buffer_size": 4},
                       provokes=("client_refused",))
    spool(broker, proxy, [b"before"])
    open_ones = [RawClient(proxy.port) for _ in range(clients)]
    for number, client in enumerate(open_ones):
        client.open_channel()
        client.call(1, "tx.select")
    for number in range(3):
        open_ones[number % clients].publish(b"%d" % number, "q")
    wait_until(lambda: proxy.summary(), "the proxy answers")
    for client in open_ones:
        client.publish(b"more", "q")  # there is no room for these
        client.publish(b"more", "q")
        client.expect("connection.blocked", 0)
    broker.acks = False
    broker.up()
    broker.wait_messages(1)
    assert not proxy.events("client_refused")  # a place will be free
    broker.ack_all()
    proxy.wait_event("client_refused")
    closed = [found["code"] for found in proxy.events("client_refused")]
    assert set(closed) == {"506"} and len(closed) == 1
    for client in open_ones:
        client.die()
    proxy.wait_empty()
    assert [message.body for message in broker.messages] == [b"before"]
