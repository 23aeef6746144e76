"""Logins that change while messages wait, against a scripted broker."""

import pytest

from support.raw import RawClient
from support.wait import wait_until


def spool(proxy, broker, user, password, *bodies):
    """The broker is down; the login was proven before."""
    with RawClient(proxy.port, user, password) as client:
        client.open_channel(confirms=True)
        for body in bodies:
            client.publish(body, "q")
        client.acked_up_to(len(bodies))
        client.close()


def prove(proxy, *logins):
    for user, password in logins:
        RawClient(proxy.port, user, password).close()


@pytest.mark.parametrize("restart", [False, True])
def test_password_changed_before_the_drain(broker, make_proxy, restart):
    """The queue waits, nothing is lost, and a client with the new password sets it going."""
    proxy = make_proxy(broker.url)
    prove(proxy, ("shop", "old"))
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "shop", "old", b"one", b"two")
    if restart:
        proxy.crash_and_start()
    broker.refused_passwords = {"old"}
    broker.up()
    wait_until(lambda: any(event["code"] == "403" for event in proxy.events("upstream_failed")),
               lambda: proxy.failure("the old password is refused"))
    assert proxy.bodies() == ["one", "two"]
    prove(proxy, ("shop", "new"))
    proxy.wait_event("drain_finished")
    assert [message.body for message in broker.messages] == [b"one", b"two"]
    assert proxy.waiting() == 0
    assert {connection.login[2] for connection in broker.connections if connection.messages} == \
        {"new"}


def refusal(proxy, user, password, vhost="/"):
    """Code and text of the connection.close that a login gets; None if it is let in."""
    with RawClient(proxy.port, user, password, handshake=False) as client:
        client.begin(user, password)
        client.tune_ok()
        client.send_method(0, "connection.open", vhost=vhost)
        answer = client.read()
        if answer.name == "connection.open-ok":
            return None
        assert answer.name == "connection.close", answer
        return answer.args["reply_code"], answer.args["reply_text"]


def is_refused(proxy, user, password):
    refused = refusal(proxy, user, password)
    assert refused is None or refused[0] == 403
    return refused is not None


def test_each_queue_goes_out_under_its_own_user(broker, make_proxy):
    proxy = make_proxy(broker.url)
    prove(proxy, ("shop", "a"), ("audit", "b"))
    broker.down()
    proxy.wait_event("upstream_lost", 2)
    spool(proxy, broker, "shop", "a", b"of shop")
    spool(proxy, broker, "audit", "b", b"of audit")
    proxy.crash_and_start()
    broker.up()
    proxy.wait_event("drain_finished", 2)
    carried = {connection.login[1]: [message.body for message in connection.messages]
               for connection in broker.connections if connection.messages}
    assert carried == {"shop": [b"of shop"], "audit": [b"of audit"]}


def test_password_that_is_not_proven_is_refused_in_an_outage(broker, make_proxy):
    """The old one still opens the door, whoever tries another one."""
    proxy = make_proxy(broker.url)
    prove(proxy, ("shop", "old"))
    broker.down()
    proxy.wait_event("upstream_lost")
    with RawClient(proxy.port, handshake=False) as stranger:
        stranger.begin("shop", "new")
        stranger.tune_ok()
        stranger.send_method(0, "connection.open", vhost="/")
        assert "ACCESS_REFUSED" in stranger.expect_close(403)
    spool(proxy, broker, "shop", "old", b"one")
    broker.up()
    proxy.wait_event("drain_finished")
    assert {connection.login[2] for connection in broker.connections if connection.messages} == \
        {"old"}


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("good, bad", [("old", "new"), ("new", "old")])
def test_accepted_but_not_proven(broker, make_proxy, good, bad, restart):
    """Both passwords open the door; RabbitMQ says which of them carries what was published."""
    proxy = make_proxy(broker.url, {"spool.unverified_logins": "accept"})
    prove(proxy, ("shop", "old"))
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "shop", "old", b"one")
    spool(proxy, broker, "shop", "new", b"two")
    spool(proxy, broker, "shop", "old", b"three")
    if restart:
        proxy.crash_and_start()
    broker.refused_passwords = {bad}
    broker.up()
    if restart and good == "new":  # of the two the proven one is kept: the queue waits
        wait_until(lambda: any(event["code"] == "403" for event in proxy.events("upstream_failed")),
                   lambda: proxy.failure("the old password is refused"))
        assert proxy.bodies() == ["one", "two", "three"]
        prove(proxy, ("shop", "new"))
    proxy.wait_event("drain_finished")
    assert [message.body for message in broker.messages] == [b"one", b"two", b"three"]
    assert {connection.login[2] for connection in broker.connections if connection.messages} == \
        {good}
    wait_until(lambda: is_refused(proxy, "shop", bad), "RabbitMQ is asked again, and refuses it")


def test_logins_that_nobody_uses_are_forgotten(broker, make_proxy):
    proxy = make_proxy(broker.url, {"spool.forget_after": "300ms", "pool.cleanup_interval": "50ms",
                                    "pool.idle_timeout": "100ms"})
    with RawClient(proxy.port, user="kept") as kept:
        kept.open_channel(confirms=True)
        with RawClient(proxy.port, user="gone") as gone:
            gone.close()
        with RawClient(proxy.port, user="waits") as waiting:
            waiting.open_channel(confirms=True)
            proxy.wait_event("login_forgotten")
            assert [q["user"] for q in proxy.summary()["queues"]] == ["kept", "waits"]
            broker.down()
            proxy.wait_event("buffering_started", 2)
            waiting.publish(b"x", "q")
            waiting.acked_up_to(1)
            waiting.close()
        with RawClient(proxy.port, user="gone", handshake=False) as gone:  # RabbitMQ is away
            gone.begin("gone", "guest")
            gone.tune_ok()
            gone.send_method(0, "connection.open", vhost="/")
            assert gone.expect("connection.close").args["reply_code"] == 403
        kept.publish(b"y", "q")  # a use of it does not end with the queue of another
        kept.acked_up_to(1)
        kept.close()
    proxy.crash_and_start()
    assert [q["user"] for q in proxy.summary()["queues"]] == ["kept", "waits"]
    broker.up()
    proxy.wait_event("login_forgotten", 2)
    assert proxy.summary()["queues"] == []
    with RawClient(proxy.port, user="gone") as gone:
        assert [q["id"] for q in proxy.summary()["queues"]] == [4]  # no id is given twice
        gone.close()
    proxy.inspect("verify")


LIMITS = [
    "NOT_ALLOWED - access to vhost '/' refused for user 'shop': connection limit (2) is reached",
    "NOT_ALLOWED - connection refused for user 'shop': user connection limit (1) is reached",
]


@pytest.mark.parametrize("text", LIMITS)
def test_limit_of_connections_is_no_wrong_login(broker, make_proxy, text):
    """RabbitMQ is back, and others were quicker: for who is known that is the outage going on, and
    it is over soon after there is room. Who is not known hears RabbitMQ's own words."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, "shop", "good") as connected:
        connected.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("upstream_lost")
        broker.refuse_vhost = text
        broker.up()
        wait_until(lambda: any(event["code"] == "530" for event in proxy.events("upstream_failed")),
                   lambda: proxy.failure("RabbitMQ has no room"))
        connected.publish(b"connected", "q")
        connected.acked_up_to(1)
        spool(proxy, broker, "shop", "good", b"new")
        assert refusal(proxy, "stranger", "x") == (530, text)
        broker.refuse_vhost = False
        proxy.wait_event("drain_finished", timeout=10)
        assert [message.body for message in broker.messages] == [b"connected", b"new"]
        connected.close()


def test_more_connections_are_not_asked_for_again_and_again(broker, make_proxy):
    """A pool that is busy wants one more; RabbitMQ allows none. Every job used to ask again."""
    proxy = make_proxy(broker.url)
    taken = []

    def confirm_the_jobs(connection, message):
        taken.append(message)
        if message.body == b"job":
            connection.send_method(message.channel, "basic.ack", delivery_tag=message.tag)

    broker.on_message = confirm_the_jobs
    with RawClient(proxy.port) as busy:
        busy.open_channel()
        broker.refuse_vhost = LIMITS[0]
        for _ in range(140):
            busy.publish(b"unconfirmed", "q")
        wait_until(lambda: len(taken) == 140, "one connection is busy")
        for _ in range(30):
            with RawClient(proxy.port) as job:
                job.open_channel()
                job.publish(b"job", "q")
                job.call(1, "channel.close", reply_code=200)
                job.close()
        assert len(taken) == 170
        assert 1 <= len(proxy.events("upstream_failed")) <= 3
        assert not proxy.events("buffering_started")
