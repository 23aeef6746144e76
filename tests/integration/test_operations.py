"""What docs/operations.md tells an operator to do, done."""

import shutil
import subprocess

import pytest

from support.outage import spool
from support.raw import RawClient
from support.wait import wait_until

BODIES = [b"one", b"two", b"three"]


@pytest.fixture
def proxy(broker, make_proxy):
    """An outage, and three messages that wait."""
    proxy = make_proxy(broker.url)
    spool(broker, proxy, BODIES)
    return proxy


def delivered(broker):
    return [message.body for message in broker.messages]


def test_backup_beside_a_running_proxy_is_served_elsewhere(broker, proxy, make_proxy):
    elsewhere = make_proxy(broker.url, start=False)
    elsewhere.spool.mkdir(0o700)
    subprocess.run(["mdb_copy", "-c", proxy.spool, elsewhere.spool], check=True)
    shutil.copy2(proxy.spool / "credential.key", elsewhere.spool)
    proxy.kill9()
    elsewhere.start()
    assert elsewhere.bodies() == [body.decode() for body in BODIES]
    broker.up()
    elsewhere.wait_event("drain_finished")
    assert delivered(broker) == BODIES


def test_moved_spool_goes_out_with_no_publisher(broker, proxy, make_proxy):
    elsewhere = make_proxy(broker.url, start=False)
    elsewhere.spool.mkdir(0o700)
    proxy.term()
    for name in ("data.mdb", "credential.key"):
        shutil.move(proxy.spool / name, elsewhere.spool)
    broker.up()
    elsewhere.start()
    elsewhere.wait_event("drain_finished")
    assert delivered(broker) == BODIES


@pytest.mark.provokes("login_unreadable")
def test_lost_key_costs_nothing_but_a_login(broker, proxy):
    proxy.term()
    (proxy.spool / "credential.key").unlink()
    broker.up()
    proxy.start()
    proxy.wait_event("login_unreadable")
    assert proxy.waiting() == len(BODIES) and delivered(broker) == []
    RawClient(proxy.port).close()
    proxy.wait_event("drain_finished")
    assert delivered(broker) == BODIES


def test_full_queue_gets_room_by_a_reload(broker, make_proxy):
    proxy = make_proxy(broker.url, {"pool.publish_buffer_size": 2})
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("upstream_lost")
    refused = RawClient(proxy.port)
    refused.open_channel(confirms=True)
    for body in BODIES[:2]:
        refused.publish(body, "q")
    refused.acked_up_to(2)
    refused.publish(BODIES[2], "q")
    refused.expect_close(506)
    proxy.options["pool.publish_buffer_size"] = 3
    proxy.reload()
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(BODIES[2], "q")
        client.acked_up_to(1)
        client.close()
    broker.up()
    wait_until(lambda: delivered(broker) == BODIES, lambda: proxy.failure("all three are there"))


def test_reload_reaches_the_spool(broker, make_proxy):
    """drain.expiration: the messages' own time to live is shortened by how long they have waited."""
    proxy = make_proxy(broker.url, {"drain.expiration": "keep"})
    spool(broker, proxy, BODIES)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"expires", "q", properties=b"\x01\x00\x06600000")
        client.acked_up_to(1)
        client.close()
    proxy.options["drain.expiration"] = "shorten"
    proxy.reload()
    broker.up()
    proxy.wait_event("drain_finished")
    properties = broker.messages[-1].header[12:]
    assert properties[:2] == b"\x01\x00" and int(properties[3:]) < 600000, properties


def test_spool_that_a_reload_turns_on_says_what_it_has_not_kept(broker, make_proxy):
    """Published while buffering was off, unconfirmed when RabbitMQ goes: its client is told."""
    proxy = make_proxy(broker.url)
    spool(broker, proxy, [])
    proxy.term()  # a spool is there
    broker.up()
    proxy.options["pool.publish_buffer_size"] = 0
    proxy.start()
    broker.acks = False
    client = RawClient(proxy.port)
    client.open_channel(confirms=True)
    client.publish(b"not kept", "q")
    broker.wait_messages(1)
    proxy.options["pool.publish_buffer_size"] = 100
    proxy.reload()
    client.open_channel(2, confirms=True)
    client.publish(b"kept", "q", channel=2)
    broker.wait_messages(2)
    broker.down()
    client.expect_close(320)
    wait_until(lambda: proxy.bodies() == ["kept"], lambda: f"only what was kept, {proxy.bodies()}")
