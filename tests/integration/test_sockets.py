"""Ports that the service manager holds open (LISTEN_FDS): they outlive the process."""

from support.http import Admin
from support.ports import free_port, release_port
from support.raw import RawClient
from support.service import Manager


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


def test_port_0_turns_a_passed_socket_off(broker, make_proxy):
    proxy = make_proxy(broker.url, {"admin.port": 0}, start=False)
    with Manager([("amqp", proxy.port), ("admin", 0)]) as manager:
        proxy.start(manager)
        assert [event["name"] for event in proxy.events("socket_unused")] == ["admin"]
