"""Ports that the service manager holds open (LISTEN_FDS): they outlive the process."""

import itertools
import socket
import threading

import pytest

from support import amqp
from support.http import Admin
from support.ports import free_port, release_port
from support.raw import RawClient
from support.service import Manager
from support.wait import wait_until

RESTARTS = 10


def publish(client, body):
    client.open_channel(confirms=True)
    client.publish(body, "q")
    client.acked_up_to(1)
    client.close()


def test_who_connects_during_a_restart_is_served(broker, make_proxy):
    proxy = make_proxy(broker.url, start=False)
    with Manager([("amqp", proxy.port)]) as manager:
        proxy.start(manager)
        with RawClient(proxy.port) as client:
            publish(client, b"before")
        proxy.term()
        waiting = RawClient(proxy.port, handshake=False)  # nobody is there to take it
        proxy.start(manager)
        waiting.begin("guest", "guest")
        waiting.tune_ok()
        waiting.call(0, "connection.open", vhost="/")
        publish(waiting, b"after")
        assert proxy.events("socket_unused") == []
    assert [message.body for message in broker.messages] == [b"before", b"after"]


class Jobs(threading.Thread):
    """One short connection after the other until `stop`; the first that fails ends it."""

    def __init__(self, port, name):
        super().__init__(name=name)
        self.port, self.published, self.failure, self.stop = port, [], None, threading.Event()

    def run(self):
        try:
            for number in itertools.count():
                if self.stop.is_set():
                    return
                body = b"%s %d" % (self.name.encode(), number)
                with RawClient(self.port) as client:
                    client.open_channel()
                    client.publish(body, "q")
                    client.close()
                self.published.append(body)
        except (AssertionError, OSError) as failure:
            self.failure = failure


def test_short_jobs_notice_no_restart(broker, make_proxy):
    """RabbitMQ is there all the time: nothing is buffered either."""
    proxy = make_proxy(broker.url, start=False)
    with Manager([("amqp", proxy.port)]) as manager:
        proxy.start(manager)
        jobs = [Jobs(proxy.port, name) for name in ("a", "b", "c")]
        for job in jobs:
            job.start()
        for _ in range(RESTARTS):
            so_far = [len(job.published) for job in jobs]
            wait_until(lambda before=so_far: all(job.failure or len(job.published) > count
                                                 for job, count in zip(jobs, before)),
                       "a job of each that was served")
            proxy.term()
            proxy.start(manager)
        for job in jobs:
            job.stop.set()
        for job in jobs:
            job.join()
        assert [job.failure for job in jobs] == [None] * len(jobs)
        for event in ("client_refused", "buffering_started", "message_rejected"):
            assert proxy.events(event, whole=True) == []
    bodies = [message.body for message in broker.messages]
    assert sorted(bodies) == sorted(body for job in jobs for body in job.published)


def test_who_is_there_at_the_end_has_time_to_finish(broker, make_proxy):
    """One in each place of a job's life: before its handshake, in it, and in the middle of a publish."""
    proxy = make_proxy(broker.url)
    clients = [RawClient(proxy.port, handshake=False), RawClient(proxy.port, handshake=False),
               RawClient(proxy.port)]
    new, tuned, publishing = clients
    tuned.begin("guest", "guest")
    publishing.open_channel(confirms=True)
    frames = amqp.publish_frames(1, b"finished", routing_key="q")
    publishing.send(frames[:40])
    with RawClient(proxy.port) as other:  # a round trip: they are all accepted
        other.close()
    proxy.signal_term()
    proxy.wait_event("stopping")
    new.begin("guest", "guest")
    for client in (new, tuned):
        client.tune_ok()
        client.call(0, "connection.open", vhost="/")
        publish(client, b"finished")
    publishing.send(frames[40:])
    publishing.acked_up_to(1)
    publishing.close()
    proxy.wait_end()
    assert [message.body for message in broker.messages] == [b"finished"] * 3
    assert proxy.events("client_refused") == [] and proxy.events("buffering_started") == []
    for client in clients:
        client.socket.close()


def test_admin_port(broker, make_proxy):
    port = free_port()
    proxy = make_proxy(broker.url, {"admin.port": port}, start=False)
    with Manager([("admin", port), ("amqp", proxy.port)]) as manager:
        proxy.start(manager)
        assert Admin(port).metrics()["amqpbuf_client_connections"] == 0
        with RawClient(proxy.port) as client:
            publish(client, b"here")
        assert proxy.events("socket_unused") == []
    release_port(port)


def test_socket_at_another_address_is_named_and_not_used(broker, make_proxy):
    """The configuration says where clients are expected."""
    proxy = make_proxy(broker.url, start=False)
    with Manager([("amqp", 0), ("strange", 0)]) as manager:
        proxy.start(manager)
        with RawClient(proxy.port) as client:
            publish(client, b"on its own port")
        assert [event["name"] for event in proxy.events("socket_unused")] == ["amqp", "strange"]


def test_a_socket_is_known_by_its_address_whatever_its_name(broker, make_proxy):
    """Without FileDescriptorName= it is that of its unit."""
    admin = free_port()
    proxy = make_proxy(broker.url, {"admin.port": admin}, start=False)
    with Manager([("publishers.socket", proxy.port), ("unknown", admin)]) as manager:
        proxy.start(manager)
        assert Admin(admin).metrics()["amqpbuf_client_connections"] == 0
        with RawClient(proxy.port) as client:
            publish(client, b"here")
        assert proxy.events("socket_unused") == []
    release_port(admin)


def test_port_0_turns_a_passed_socket_off(broker, make_proxy):
    proxy = make_proxy(broker.url, {"admin.port": 0}, start=False)
    with Manager([("amqp", proxy.port), ("admin", 0)]) as manager:
        proxy.start(manager)
        assert [event["name"] for event in proxy.events("socket_unused")] == ["admin"]


@pytest.mark.provokes("cannot_listen")
def test_socket_at_all_addresses_is_named_beside_the_port_that_it_takes(broker, make_proxy):
    """Whoever has written 127.0.0.1 believes that only this machine can connect."""
    proxy = make_proxy(broker.url, start=False)
    with Manager([("amqp", proxy.port)], address="0.0.0.0") as manager:
        proxy.begin(manager)
        assert proxy.wait_status() == 1
        assert proxy.events("cannot_listen")
        [unused] = proxy.events("socket_unused")
        assert (unused["name"], unused["address"]) == ("amqp", f"0.0.0.0:{proxy.port}")


@pytest.mark.provokes("socket_unusable")
def test_what_is_no_socket_that_listens_is_named_and_not_used(broker, make_proxy):
    port = free_port()
    proxy = make_proxy(broker.url, {"admin.port": port}, start=False)
    datagram = socket.socket(type=socket.SOCK_DGRAM)
    datagram.bind(("127.0.0.1", port))
    with Manager(passed=[("amqp", open("/dev/null", "rb")), ("admin", datagram)]) as manager:
        proxy.start(manager)
        assert [event["name"] for event in proxy.events("socket_unusable")] == ["amqp", "admin"]
        assert Admin(port).metrics()["amqpbuf_client_connections"] == 0
    release_port(port)


@pytest.mark.provokes("socket_unusable")
def test_a_descriptor_that_is_not_there_is_told(broker, make_proxy):
    """Its number is that of the next file that is opened, which is not a socket to be closed."""
    proxy = make_proxy(broker.url, start=False)
    with Manager(missing=["amqp"]) as manager:
        proxy.start(manager)
        assert [event["name"] for event in proxy.events("socket_unusable")] == ["LISTEN_FDS"]
        with RawClient(proxy.port) as client:
            publish(client, b"on its own port")
