"""Logins that change while messages wait, against a scripted broker."""

import pytest

from support import amqp
from support.broker import FakeBroker
from support.raw import RawClient
from support.tokens import token
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
    wait_until(lambda: any(event["code"] == "403" for event in
                               proxy.events("upstream_failed")),
               lambda: proxy.failure("the old password is refused"))
    assert proxy.bodies() == ["one", "two"]
    prove(proxy, ("shop", "new"))
    proxy.wait_event("drain_finished")
    assert [message.body for message in broker.messages] == [b"one", b"two"]
    assert proxy.waiting() == 0
    assert {connection.login[2] for connection in broker.connections if connection.messages} == \
        {"new"}


def refusal(proxy, user, password, vhost="/"):
    with RawClient(proxy.port, handshake=False) as client:
        return client.refusal(user, password, vhost)


def is_refused(proxy, user, password):
    refused = refusal(proxy, user, password)
    assert refused is None or refused[:2] == ("start-ok", 403)
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
    assert is_refused(proxy, "shop", "new")
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
        wait_until(lambda: any(event["code"] == "403" for event in
                               proxy.events("upstream_failed")),
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
        assert is_refused(proxy, "gone", "guest")  # RabbitMQ is away
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


def test_a_connected_login_that_was_forgotten(broker, make_proxy):
    """RabbitMQ need not be asked about it, but the spool has to know it again."""
    proxy = make_proxy(broker.url, {"spool.forget_after": "300ms", "pool.cleanup_interval": "50ms"})
    RawClient(proxy.port).close()
    proxy.wait_event("login_forgotten")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        assert [q["user"] for q in proxy.summary()["queues"]] == ["guest"]
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"x", "q")
        client.acked_up_to(1)
        client.close()
    assert proxy.bodies() == ["x"]


def test_a_login_that_was_forgotten_in_an_outage(broker, make_proxy):
    proxy = make_proxy(broker.url, {"spool.forget_after": "300ms", "pool.cleanup_interval": "50ms"})
    RawClient(proxy.port).close()
    proxy.wait_event("login_forgotten")
    broker.down()
    proxy.wait_event("buffering_started")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"x", "q")
        client.acked_up_to(1)
        client.close()
    assert proxy.bodies() == ["x"]


@pytest.mark.parametrize("first", ["ends", "never"])
def test_a_token_without_an_end_is_the_better_one(broker, make_proxy, first):
    proxy = make_proxy(broker.url, provokes=("upstream_lost",))
    tokens = {"ends": token("A"), "never": token("A", exp=None)}
    for name in (first, *(tokens.keys() - {first})):
        RawClient(proxy.port, "svc", tokens[name]).close()
    broker.refused_passwords = {tokens["ends"]}
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "svc", tokens["never"], b"x")
    broker.up()
    proxy.wait_event("drain_finished")
    assert [message.body for message in broker.messages] == [b"x"]


@pytest.mark.parametrize("padding", [0, 4000])
def test_a_login_that_was_refused_for_a_moment_before_an_outage(broker, make_proxy, padding):
    """RabbitMQ starts without its users, or ends while it is told a long login, and is away."""
    proxy = make_proxy(broker.url, provokes=("upstream_lost", "upstream_failed", "login_refused"))
    login = "svc", token("A", padding=padding)
    with RawClient(proxy.port, *login) as client:
        client.open_channel(confirms=True)
        if padding:
            broker.login_max = 10
        else:
            broker.refused_passwords = {login[1]}
        broker.connections[0].die()
        proxy.wait_event("login_refused")
        broker.down()
        with RawClient(proxy.port, *login) as other:
            other.open_channel(confirms=True)
            other.publish(b"x", "q")
            other.acked_up_to(1)
            other.close()
        client.publish(b"y", "q")
        client.acked_up_to(1)
        client.close()
    assert proxy.bodies() == ["x", "y"]


def test_buffering_that_a_reload_turns_on(broker, make_proxy):
    proxy = make_proxy(broker.url)
    proxy.options["pool.publish_buffer_size"] = 0
    proxy.reload()
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        proxy.options["pool.publish_buffer_size"] = 1000
        proxy.reload()
        wait_until(lambda: [q["user"] for q in proxy.summary()["queues"]] == ["guest"],
                   "the login in the spool")
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"x", "q")
        client.acked_up_to(1)
        client.close()
    assert proxy.bodies() == ["x"]


LIMITS = [
    "NOT_ALLOWED - access to vhost '/' refused for user 'shop': connection limit (2) is reached",
    "NOT_ALLOWED - connection refused for user 'shop': user connection limit (1) is reached",
]


UNREACHABLE = "ACCESS_REFUSED - upstream unavailable and this login is not known"
VHOST_DOWN = "INTERNAL_ERROR - access to vhost '/' refused for user 'shop': vhost '/' is down"


@pytest.mark.parametrize("code,text", [(530, LIMITS[0]), (530, LIMITS[1]), (541, VHOST_DOWN)])
def test_limit_of_connections_is_no_wrong_login(broker, make_proxy, code, text):
    """RabbitMQ is back, and others were quicker, or it is still at its vhosts: for who is known that is the outage going on, and
    it is over soon after there is room. Who is not known hears RabbitMQ's own words."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, "shop", "good") as connected:
        connected.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("upstream_lost")
        broker.refuse_vhost, broker.refuse_vhost_code = text, code
        broker.up()
        wait_until(lambda: any(event["code"] == str(code) for event in
                               proxy.events("upstream_failed")),
                   lambda: proxy.failure("RabbitMQ has no room"))
        connected.publish(b"connected", "q")
        connected.acked_up_to(1)
        spool(proxy, broker, "shop", "good", b"new")
        assert refusal(proxy, "stranger", "x")[1:] == \
            ((530, text) if code == 530 else (403, UNREACHABLE))
        broker.refuse_vhost = False
        proxy.wait_event("drain_finished", timeout=30)
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
        proxy.wait_event("upstream_failed")  # the refusal may come behind the last job
        assert len(proxy.events("upstream_failed")) <= 3
        assert not proxy.events("buffering_started")


# ---- guesses ----


class Everything(set):
    """All passwords but some."""

    def __contains__(self, password):
        return not super().__contains__(password)


@pytest.mark.parametrize("buffer", [0, 100])
def test_guesses_leave_nothing_behind(broker, make_watched, buffer):
    """No queue, no row, no metric, no connection, and the proxy stays ready."""
    proxy, admin = make_watched(broker.url, {"pool.publish_buffer_size": buffer})
    broker.refused_passwords = Everything({"good"})
    with RawClient(proxy.port, "shop", "good") as client:
        before = proxy.descriptors()
        for i in range(30):
            assert refusal(proxy, f"guess-{i}", "x")[:2] == ("start-ok", 403)
            assert refusal(proxy, "shop", f"guess-{i}")[:2] == ("start-ok", 403)
        admin.get("/readyz")
        assert "guess" not in admin.get("/metrics")
        assert [queue["user"] for queue in admin.queues()["queues"]] == ["shop"]
        wait_until(lambda: proxy.descriptors() <= before, "each attempt's sockets are closed")
        assert len(broker.open_connections()) == 1
        client.close()


def test_guesses_in_an_outage_are_no_dialers(broker, make_proxy):
    """Known or not, none of them is tried again when RabbitMQ is back; all of them together have
    RabbitMQ dialled no oftener than upstream.reconnect_min."""
    proxy = make_proxy(broker.url, {"upstream.reconnect_min": "400ms",
                                    "upstream.reconnect_max": "800ms"})
    prove(proxy, ("shop", "good"))
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "shop", "good", b"waits")
    for i in range(150):
        assert refusal(proxy, "shop" if i % 2 else f"user-{i}", f"guess-{i}")[:2] == \
            ("start-ok", 403)
    failed = proxy.events("upstream_failed")
    assert len(failed) < 20, f"{len(failed)} dials for 150 guesses"
    known = len(broker.connections)
    broker.up()
    proxy.wait_event("drain_finished")
    assert {each.asked for each in broker.connections[known:]} == {("shop", "good")}
    assert [queue["user"] for queue in proxy.summary()["queues"]] == ["shop"]


def test_many_guesses_at_once_wait_in_turn(broker, make_proxy):
    """No more than 32 are being asked about at a time, and a known login waits for none of them."""
    proxy = make_proxy(broker.url)
    held, most = [], [0]
    with RawClient(proxy.port, "shop", "good") as known:
        known.open_channel(confirms=True)
        broker.silent_logins = Everything({"good"})
        for i in range(60):
            stranger = RawClient(proxy.port, handshake=False)
            stranger.start_ok("stranger", f"guess-{i}")
            held.append(stranger)
        wait_until(lambda: sum(1 for each in broker.connections if each.asked) >= 33,
                   "the first ones are being asked about")
        known.publish(b"x", "q")
        known.acked_up_to(1)
        RawClient(proxy.port, "shop", "good").close()
        most[0] = sum(1 for each in broker.connections
                      if each.asked and each.asked[0] == "stranger" and each.is_alive())
        assert most[0] == 32
        for stranger in held[32:]:
            stranger.die()
        broker.refused_passwords = Everything({"good"})
        broker.silent_logins = set()
        for stranger in held[:32]:
            assert stranger.read().args["reply_code"] == 403
            stranger.die()
        known.close()


def test_client_that_cannot_hear_a_refusal_sees_the_end(broker, make_proxy):
    """Without the capability authentication_failure_close, as from RabbitMQ."""
    proxy = make_proxy(broker.url)
    broker.refused_passwords = {"wrong"}
    with RawClient(proxy.port, handshake=False) as client:
        client.start_ok("shop", "wrong", properties={"product": "old"})
        assert client.read() is None


def test_clients_that_send_all_at_once(broker, make_proxy):
    """start-ok, tune-ok, open and the first channel in one write."""
    proxy = make_proxy(broker.url)
    for user in ("first", "second", "first"):
        with RawClient(proxy.port, handshake=False) as client:
            client.send(amqp.PROTOCOL_HEADER + b"".join((
                amqp.method_frame(0, "connection.start-ok", mechanism="PLAIN", locale="en_US",
                                  response=f"\0{user}\0x".encode()),
                amqp.method_frame(0, "connection.tune-ok", channel_max=10, frame_max=8192),
                amqp.method_frame(0, "connection.open", vhost="/"),
                amqp.method_frame(1, "channel.open"))))
            for name in ("start", "tune", "open-ok"):
                client.expect(f"connection.{name}")
            client.expect("channel.open-ok")
            client.close()
    assert len(broker.connections) == 2  # what has proven the login is what the pool goes on with


# ---- tokens ----


def test_two_identities_under_one_name(broker, make_proxy):
    """Whatever name stands beside a token, its subject's messages go out with its own token."""
    proxy = make_proxy(broker.url)
    tokens = {"A": token("A"), "B": token("B"), "C": token("A", issuer="other")}
    prove(proxy, *(("svc", each) for each in tokens.values()))
    broker.down()
    proxy.wait_event("upstream_lost", 3)
    for name, each in tokens.items():
        spool(proxy, broker, "svc", each, b"of " + name.encode())
    assert sorted(queue["user"] for queue in proxy.summary()["queues"]) == \
        ["svc (A, idp)", "svc (A, other)", "svc (B, idp)"]
    proxy.crash_and_start()
    broker.up()
    proxy.wait_event("drain_finished", 3)
    carried = {connection.login[1:3]: [message.body for message in connection.messages]
               for connection in broker.connections if connection.messages}
    assert carried == {("svc", each): [b"of " + name.encode()] for name, each in tokens.items()}
    assert not any(each in proxy.log_text() for each in tokens.values())


def test_tokens_of_one_identity_share_its_queue_and_connection(broker, make_proxy):
    """A job that fetches a token each time costs no connection that stays, and the newest token is
    what the messages go out with."""
    proxy = make_proxy(broker.url)
    for _ in range(20):
        with RawClient(proxy.port, "svc", token("A")) as job:
            job.open_channel(confirms=True)
            job.publish(b"live", "q")
            job.acked_up_to(1)
            job.close()
    wait_until(lambda: len(broker.open_connections()) == 1, "one connection is left")
    newest, before = token("A", lifetime_s=7200), token("A")
    prove(proxy, ("svc", newest), ("svc", before))
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "svc", before, b"one")
    spool(proxy, broker, "svc", newest, b"two")
    assert refusal(proxy, "svc", token("A"))[:2] == ("start-ok", 403)  # nobody has proven this one
    broker.up()
    proxy.wait_event("drain_finished")
    assert [message.body for message in broker.messages][-2:] == [b"one", b"two"]
    assert broker.open_connections()[-1].login[2] == newest
    assert len(proxy.summary()["queues"]) == 1


def test_passwords_of_one_user_share_its_connection(broker, make_proxy):
    """The same with passwords that say nothing of themselves."""
    proxy = make_proxy(broker.url)
    prove(proxy, *(("svc", f"opaque-{i}") for i in range(20)))
    wait_until(lambda: len(broker.open_connections()) == 1, "one connection is left")
    asked = len(broker.connections)
    prove(proxy, ("svc", "opaque-19"), ("svc", "opaque-18"))
    assert len(broker.connections) == asked, "both were proven a moment ago"


def test_tokens_that_may_do_different_things_share_no_connection(broker, make_proxy):
    proxy = make_proxy(broker.url)
    wide, narrow = token("A"), token("A", scope=["rabbitmq.write:*/a-*"])
    for each in (wide, narrow):
        with RawClient(proxy.port, "svc", each) as client:
            client.open_channel(confirms=True)
            client.publish(each.encode(), "q")
            client.acked_up_to(1)
            client.close()
    carried = {connection.login[2].encode(): [message.body for message in connection.messages]
               for connection in broker.connections if connection.messages}
    assert carried == {wide.encode(): [wide.encode()], narrow.encode(): [narrow.encode()]}


NARROW, WIDE = token("A", scope=["rabbitmq.write:*/a-*"]), token("A", scope=["rabbitmq.write:*/*"])


def carried(broker):
    return {connection.login[2]: [message.body for message in connection.messages]
            for connection in broker.connections if connection.messages}


def test_new_rights_of_one_are_not_another_ones(broker, make_proxy):
    """RabbitMQ is away when they are brought, and somebody else logs in with the old ones meanwhile."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, "svc", NARROW) as changes:
        broker.down()
        proxy.wait_event("upstream_failed")
        changes.call(0, "connection.update-secret", new_secret=WIDE.encode(), reason="r")
        with RawClient(proxy.port, "svc", NARROW) as other:
            other.open_channel(confirms=True)
            broker.up()
            other.publish(b"of narrow", "q")
            other.acked_up_to(1)
            proxy.wait_empty()
            broker.wait_messages(1)
            other.close()
        changes.close()
    assert carried(broker) == {NARROW: [b"of narrow"]}


def test_new_rights_that_are_being_asked_about(broker, make_proxy):
    """Somebody else logs in before RabbitMQ has answered."""
    told = []

    def on_frame(connection, frame):
        if frame.name != "connection.update-secret":
            return False
        told.append(connection)
        connection.send_method(0, "connection.update-secret-ok")
        return True
    broker.on_frame = on_frame
    proxy = make_proxy(broker.url, provokes=("client_refused",))
    with RawClient(proxy.port, "svc", NARROW) as changes:
        broker.silent_logins = {WIDE}
        changes.send_method(0, "connection.update-secret", new_secret=WIDE.encode(), reason="r")
        wait_until(lambda: any(c.asked == ("svc", WIDE) for c in broker.connections), "it is asked about")
        with RawClient(proxy.port, "svc", NARROW) as other:
            other.open_channel(confirms=True)
            broker.silent_logins = set()
            answer = changes.read()
            assert answer.name == "connection.close"  # it has to log in with it
            other.publish(b"of narrow", "q")
            other.acked_up_to(1)
            other.close()
        changes.die()
    assert carried(broker) == {NARROW: [b"of narrow"]} and not told


def test_a_token_that_ends_sooner_is_not_everybodys(broker, make_proxy):
    """One client brings it; the login's connections keep the one that holds longest."""
    told = []

    def on_frame(connection, frame):
        if frame.name != "connection.update-secret":
            return False
        told.append(frame.args["new_secret"])
        connection.send_method(0, "connection.update-secret-ok")
        return True
    broker.on_frame = on_frame
    proxy = make_proxy(broker.url)
    long, short = token("A", lifetime_s=7200), token("A", lifetime_s=60)
    with RawClient(proxy.port, "svc", long) as other, RawClient(proxy.port, "svc", long) as changes:
        changes.call(0, "connection.update-secret", new_secret=short.encode(), reason="r")
        broker.refused_passwords = {short}  # as if it had run out
        broker.down()
        proxy.wait_event("upstream_lost")
        broker.up()
        other.open_channel(confirms=True)
        other.publish(b"of the other", "q")
        other.acked_up_to(1)
        proxy.wait_empty()
        broker.wait_messages(1)
        other.close()
        changes.close()
    assert carried(broker) == {long: [b"of the other"]}
    assert not [secret for secret in told if secret in (short, short.encode())]


def test_another_token_of_the_login_is_tried(broker, make_proxy):
    """RabbitMQ no longer takes the one that holds longest: one that it has accepted as well is good."""
    proxy = make_proxy(broker.url)
    long, short = token("A", lifetime_s=7200), token("A", lifetime_s=600)
    prove(proxy, ("svc", long), ("svc", short))
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "svc", short, b"stored")
    broker.refused_passwords = {long}
    broker.up()
    proxy.wait_empty()
    assert carried(broker) == {short: [b"stored"]}
    assert not proxy.events("login_refused")


def test_token_that_has_run_out_is_asked_about(broker, make_proxy):
    """The pool is connected with it still; RabbitMQ would let nobody in with it."""
    proxy = make_proxy(broker.url)
    old = token("A", lifetime_s=-1)
    prove(proxy, ("svc", old))
    broker.refused_passwords = {old}
    assert is_refused(proxy, "svc", old)


def test_long_tokens(broker, make_proxy):
    """RabbitMQ takes them since 4.1; through an outage and a restart too."""
    proxy = make_proxy(broker.url)
    tokens = [token("A", padding=size) for size in (2000, 4000, 8000)]
    prove(proxy, *(("svc", each) for each in tokens))
    longest = tokens[-1]
    broker.down()
    proxy.wait_event("upstream_lost")
    spool(proxy, broker, "svc", longest, b"one")
    proxy.crash_and_start()
    broker.up()
    proxy.wait_event("drain_finished")
    assert broker.open_connections()[-1].login[2] == longest


def test_login_that_is_too_long_for_rabbitmq_is_no_outage(broker, make_proxy):
    """It closes the connection without a word; other logins are none the worse for it."""
    proxy = make_proxy(broker.url)
    broker.login_max = 4096
    code = refusal(proxy, "svc", token("A", padding=4000))
    assert code[:2] == ("start-ok", 403) and "initial_frame_max" in code[2]
    assert refusal(proxy, "stranger", "x") is None
    assert not proxy.events("buffering_started")


def test_publishers_hear_that_their_login_is_good_no_more(broker, make_proxy):
    """A user that was deleted, a token that has run out: not at once (RabbitMQ may just have started,
    and know its users a moment later), but they do not fill a queue that nobody can empty."""
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, "shop", "good") as publisher, \
            RawClient(proxy.port, "audit", "b") as other:
        publisher.open_channel(confirms=True)
        other.open_channel(confirms=True)
        broker.refused_passwords = {"good"}
        broker.down()
        broker.up()
        proxy.wait_event("login_refused")
        publisher.publish(b"stored", "q")
        publisher.acked_up_to(1)
        assert "scripted" in publisher.expect_close(403)
        other.publish(b"goes on", "q")
        other.acked_up_to(1)
        other.close()
    assert proxy.bodies() == ["stored"]
    broker.refused_passwords = set()
    prove(proxy, ("shop", "good"))
    proxy.wait_event("drain_finished")


def test_login_that_is_known_a_moment_later_loses_nobody(broker, make_proxy):
    proxy = make_proxy(broker.url)
    with RawClient(proxy.port, "shop", "good") as publisher:
        publisher.open_channel(confirms=True)
        broker.refused_passwords = {"good"}
        broker.down()
        broker.up()
        proxy.wait_event("login_refused")
        broker.refused_passwords = set()
        publisher.publish(b"x", "q")
        publisher.acked_up_to(1)
        proxy.wait_event("drain_finished", timeout=30)
        publisher.close()


def test_unknown_host_is_said_at_the_start(make_proxy):
    """Nobody has logged in yet."""
    with FakeBroker() as broker:
        proxy = make_proxy("amqp://no-such-host.invalid:5672," + broker.url, {"log.level": "info"})
        failed = proxy.wait_event("upstream_failed")
        assert failed["host"] == "no-such-host.invalid" and failed["reason"].startswith("resolve: ")
        assert failed["level"] == "warn"
        RawClient(proxy.port).close()
        assert len(broker.connections) == 1


def test_unknown_host_is_looked_up_again(make_proxy):
    """As long as nobody has logged in, who would find out."""
    proxy = make_proxy("amqp://no-such-host.invalid:5672,amqp://nor-this.invalid:5672")
    proxy.wait_event("upstream_failed", 6)
    assert {event["host"] for event in proxy.events("upstream_failed")} == \
        {"no-such-host.invalid", "nor-this.invalid"}


@pytest.mark.parametrize("login", ["known", "unverified"])
def test_buffering_from_the_start_is_said(broker, make_proxy, login):
    """RabbitMQ has never been there since this start: the log says that publishes are stored."""
    proxy = make_proxy(broker.url, {"spool.unverified_logins": "accept"}, start=login == "known")
    if login == "known":
        prove(proxy, ("shop", "good"))
        proxy.term()
    broker.down()
    proxy.start()
    for _ in range(3):
        spool(proxy, broker, "shop", "good", b"x")
    assert [event["user"] for event in proxy.events("buffering_started")] == ["shop"]


def test_failures_that_are_no_news_are_not_logged(broker, make_proxy):
    proxy = make_proxy(broker.url, {"log.level": "info"})
    with RawClient(proxy.port) as client:
        broker.down()
        proxy.wait_event("upstream_lost")
        proxy.wait_event("upstream_failed")
        broker.up()
        wait_until(broker.open_connections, "RabbitMQ is back")
        assert len({event["reason"] for event in proxy.events("upstream_failed")}) == \
            len(proxy.events("upstream_failed"))
        client.close()


def test_login_that_names_no_vhost_is_used_by_the_next(broker, make_proxy):
    """What RabbitMQ has accepted for a client that goes no further is there for the same login,
    and gone a while later without it."""
    proxy = make_proxy(broker.url, {"upstream.connect_timeout": "1s"})
    for _ in range(2):
        with RawClient(proxy.port, handshake=False) as client:
            client.begin("shop", "good")
    assert len(broker.connections) == 1
    RawClient(proxy.port, "shop", "good").close()
    assert len(broker.connections) == 1
    with RawClient(proxy.port, handshake=False) as client:
        client.begin("audit", "b")
    wait_until(lambda: not broker.connections[-1].is_alive(), "it is given up")
    RawClient(proxy.port, "audit", "b").close()
    assert len(broker.connections) == 3
    assert not proxy.events("buffering_started")
