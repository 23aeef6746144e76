"""listen.max_memory: messages on their way, and what clients leave unfinished, have a bound; who waits
for RabbitMQ waits without an error, and who keeps too much is refused."""

import ssl
import struct
import threading

import pytest

from support import amqp
from support.certificates import Authority
from support.ports import free_port, release_port
from support.raw import RawClient
from support.wait import wait_until

pytestmark = pytest.mark.provokes("client_refused")  # of those who do not read

MIB = 1024 * 1024
LIMIT = 64 * MIB
LARGEST = 16 * MIB
OPTIONS = {"listen.max_memory": "64MiB", "spool.max_message_size": "16MiB"}
# At the limit one more read of every client may be under way, and what was begun may be finished.
MOST = LIMIT * 3 // 2
OTHERS = 64 * MIB  # of the process: what a build with sanitizers adds
PIECE = amqp.frame(amqp.BODY, 1, bytes(131072 - 8))


class Meter(threading.Thread):
    """Looks at the gauge and at the process again and again; keeps the most that it saw."""

    def __init__(self, proxy, admin, least=LIMIT // 2):
        super().__init__(daemon=True)
        self.proxy, self.admin, self.least = proxy, admin, least
        self.most = self.most_resident = 0
        self.begin = proxy.own_bytes()
        self.ended = threading.Event()

    def look(self):
        self.most = max(self.most, self.admin.metrics()["amqpbuf_message_memory_bytes"])
        self.most_resident = max(self.most_resident, self.proxy.own_bytes() - self.begin)

    def run(self):
        while not self.ended.is_set():
            self.look()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, *_):
        self.ended.set()
        self.join()
        if kind is None:
            assert self.least <= self.most <= MOST, self.proxy.failure(f"{self.most} bytes at most")
            assert self.most_resident <= MOST + OTHERS, f"{self.most_resident} bytes resident"


def begin_message(client, channel=1, size=LARGEST):
    client.send(amqp.method_frame(channel, "basic.publish", routing_key="q")
                + amqp.frame(amqp.HEADER, channel, amqp.header(size)))


def all_but_the_end(client):
    for _ in range(LARGEST // len(PIECE) - 1):
        client.send(PIECE)


def bodies_without_an_end(proxy, witness, tags):
    """A client with an unfinished message for each of these tags of the witness, which goes on."""
    clients = []
    for tag in tags:
        client = RawClient(proxy.port)
        client.open_channel()
        begin_message(client)
        try:
            all_but_the_end(client)
        except ConnectionError:
            pass
        clients.append(client)
        witness.publish(b"witness", "q")
        witness.acked_up_to_tags({tag})
    return clients


def refused(client):
    """What the client was told, or None if it was told nothing."""
    client.socket.settimeout(0.001)
    try:
        frame = client.read()
    except TimeoutError:
        return None
    except ConnectionError:
        return "cut off"
    return frame.args["reply_code"] if frame else "ended"


def test_bodies_that_never_end(broker, make_watched):
    proxy, admin = make_watched(broker.url, OPTIONS)
    witness = RawClient(proxy.port)
    witness.open_channel(confirms=True)
    with Meter(proxy, admin):
        clients = bodies_without_an_end(proxy, witness, range(1, 21))
    answers = [refused(client) for client in clients]
    assert set(answers) <= {506, None, "cut off"}
    assert answers.count(506) >= 10  # half of the limit has room for two
    assert answers.count(None) >= 1
    assert proxy.events("memory_short")
    for client in clients:
        client.socket.close()
    wait_until(lambda: admin.metrics()["amqpbuf_message_memory_bytes"] < MIB, "all is given back")


def test_transaction_that_never_ends(broker, make_watched):
    """In an outage, where the proxy alone has it."""
    proxy, admin = make_watched(broker.url, OPTIONS)
    witness = RawClient(proxy.port)
    witness.open_channel(confirms=True)
    witness.publish(b"live", "q")
    witness.acked_up_to_tags({1})
    broker.down()
    proxy.wait_event("buffering_started")
    hoarder = RawClient(proxy.port)
    hoarder.open_channel()
    hoarder.call(1, "tx.select")
    with Meter(proxy, admin):
        with pytest.raises((ConnectionError, AssertionError)):
            for number in range(2, 102):
                hoarder.publish(bytes(MIB), "q")
                witness.publish(b"witness", "q")
                witness.acked_up_to_tags({number})
                assert refused(hoarder) is None
    assert [found["code"] for found in proxy.events("client_refused")] == ["506"]
    witness.publish(b"end", "q")
    witness.acked_up_to_tags({number + 1})
    assert proxy.waiting() == number  # of the witness, and none of a transaction without an end


@pytest.mark.parametrize("offline", [False, True], ids=["live", "offline"])
def test_system_has_no_more(broker, make_proxy, offline):
    """A limit that the system sets below listen.max_memory (ulimit -v): who asks for more loses its
    connection, the others go on, and all is well when they have gone."""
    proxy = make_proxy(broker.url, environment={"AMQPBUF_TEST_MEMORY_MAX": str(40 * MIB)})
    witness = RawClient(proxy.port)
    witness.open_channel(confirms=True)
    witness.publish(b"witness", "q")
    witness.acked_up_to_tags({1})
    if offline:
        broker.down()
        proxy.wait_event("buffering_started")
    clients = bodies_without_an_end(proxy, witness, range(2, 8))
    proxy.wait_event("out_of_memory")
    assert [refused(client) for client in clients].count(None) <= 2
    for client in clients:
        client.socket.close()
    for number in range(8, 28):
        witness.publish(bytes(10 * MIB), "q")
        witness.acked_up_to_tags({number})
    if offline:
        assert proxy.waiting() == 26
        broker.up()
        broker.wait_messages(27)


def test_publishers_wait_for_a_slow_rabbitmq(broker, make_watched):
    """What was taken is RabbitMQ's to answer for: nobody is refused, and all of it arrives."""
    broker.acks = False
    # The window is wider than the memory, so it is the memory that they wait for.
    proxy, admin = make_watched(broker.url, OPTIONS | {"pool.window": 1000, "pool.window_bytes": "256MiB"})
    clients = [RawClient(proxy.port) for _ in range(4)]

    def publish(client, number):
        client.open_channel()
        for turn in range(30):
            client.publish(struct.pack(">II", number, turn) + bytes(MIB), "q")
        client.call(1, "channel.close", reply_code=200, reply_text="", class_id=0, method_id=0)

    with Meter(proxy, admin):
        threads = [threading.Thread(target=publish, args=(client, number), daemon=True)
                   for number, client in enumerate(clients)]
        for thread in threads:
            thread.start()
        proxy.wait_event("memory_short")
        broker.ack_all()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive(), proxy.failure("a publisher hangs")
    assert not proxy.events("client_refused")
    for number in range(4):
        turns = [struct.unpack(">II", message.body[:8])[1] for message in broker.messages
                 if struct.unpack(">II", message.body[:8])[0] == number]
        assert turns == list(range(30))


def test_declarations_in_an_outage(broker, make_watched):
    """They wait for the disk as publishes do: who sends more than it takes is not read from."""
    proxy, admin = make_watched(broker.url, OPTIONS)
    clients = [RawClient(proxy.port) for _ in range(4)]
    for client in clients:
        client.open_channel()
    broker.down()
    proxy.wait_event("buffering_started")
    table = amqp.short_string("x") + b"S" + amqp.long_string(b"y" * 120000)
    one = amqp.method_frame(1, "queue.declare", queue="q", durable=True, no_wait=True,
                            arguments=table)
    count = 400  # 4 times 48 MB
    with Meter(proxy, admin, least=0):
        senders = [threading.Thread(target=client.send, args=(one * count,), daemon=True)
                   for client in clients]
        for sender in senders:
            sender.start()
        for client, sender in zip(clients, senders):
            sender.join(60)
            client.call(1, "queue.declare", queue="last")
    for client in clients:
        client.close()
    assert not proxy.events("client_refused")


TABLE = amqp.short_string("x") + b"S" + amqp.long_string(b"y" * 120000)


def declare_unanswered(client, channels):
    try:
        for channel in channels:
            client.send_method(channel, "queue.declare", queue=f"q{channel}", durable=True,
                               arguments=TABLE)
    except OSError:
        pass  # it is done with, or has gone


def test_methods_that_rabbitmq_does_not_answer(broker, make_watched):
    """They are kept, to be sent again, also when their client has gone: it waits after a few."""
    proxy, admin = make_watched(broker.url, {"listen.max_memory": "16MiB",
                                             "spool.max_message_size": "1MiB"})
    broker.silent_on.add("queue.declare")
    channels, few = range(1, 201), 9  # more than 1 MiB
    with RawClient(proxy.port) as hoarder, RawClient(proxy.port) as witness:
        witness.open_channel(confirms=True)
        for channel in channels:
            hoarder.open_channel(channel)

        def arrived():
            return [name for connection in broker.connections for name in connection.sequence()
                    if name.endswith("queue.declare")]
        sender = threading.Thread(target=declare_unanswered, args=(hoarder, channels), daemon=True)
        with Meter(proxy, admin, least=MIB) as meter:
            sender.start()
            wait_until(lambda: len(arrived()) == few, "a few")
            for tag in range(1, 51):
                witness.publish(b"witness", "q")
                witness.acked_up_to_tags({tag})
            assert len(arrived()) == few
        assert meter.most < 4 * MIB
        broker.silent_on.clear()  # RabbitMQ goes on
        for name, connection in [(name, connection) for connection in broker.connections
                                 for name in connection.sequence() if name.endswith("queue.declare")]:
            connection.send_method(int(name.split(":")[0]), "queue.declare-ok", queue="q")
        answered = [hoarder.expect("queue.declare-ok") for _ in channels]
        assert len(answered) == len(channels)
        hoarder.close()
        witness.close()


def test_channels_without_an_end(broker, make_watched):
    """Each costs something; who keeps most of them is refused, with all of them."""
    proxy, admin = make_watched(broker.url, {"listen.max_memory": "8MiB",
                                             "spool.max_message_size": "1MiB"})
    witness = RawClient(proxy.port)
    witness.open_channel(confirms=True)
    hoarders = []
    opening = b"".join(amqp.method_frame(number, "channel.open") for number in range(1, 2048))
    for tag in range(1, 17):
        hoarder = RawClient(proxy.port)
        hoarder.send(opening)
        hoarders.append(hoarder)
        witness.publish(b"witness", "q")
        witness.acked_up_to_tags({tag})
    proxy.wait_event("client_refused", 2)
    assert {found["code"] for found in proxy.events("client_refused")} == {"506"}
    assert admin.metrics()["amqpbuf_message_memory_bytes"] < 8 * MIB
    for hoarder in hoarders:
        hoarder.socket.close()
    witness.close()


def test_the_place_of_a_channel_is_counted(broker, make_watched):
    """They are found by number: the highest one alone takes as long a table as all of them."""
    proxy, admin = make_watched(broker.url)

    def held():
        return admin.metrics()["amqpbuf_message_memory_bytes"]

    with RawClient(proxy.port) as client:
        client.open_channel(1)
        before = held()
        client.open_channel(2047)
        assert held() - before > 2047 * struct.calcsize("P")
    wait_until(lambda: held() < before, "all of it is free again")


def test_buffers_of_tls_that_is_quiet(broker, make_watched, tmp_path):
    """A connection that was busy once costs no more than one that never was."""
    authority, port = Authority(tmp_path), free_port()
    certificate, key = authority.sign("server")
    context = ssl.create_default_context(cafile=str(authority.certificate))
    proxy, admin = make_watched(broker.url, {
        "listen.tls_port": port, "listen.tls_certificate": certificate,
        "listen.tls_private_key": key})
    clients = [RawClient(port, tls=context) for _ in range(20)]

    def held():
        return admin.metrics()["amqpbuf_message_memory_bytes"]

    most = 0
    for client in clients:
        client.open_channel(confirms=True)
        client.publish(bytes(250000), "q")
        client.acked_up_to(1)
        most = max(most, held())
    wait_until(lambda: held() < 640 * 1024, lambda: f"{held()} bytes are held")
    assert most > held() + 48 * 1024  # counted as long as they are there
    for client in clients:
        client.publish(b"still", "q")
        client.acked_up_to_tags({2})
        client.close()
    release_port(port)
