"""The admin port: what it says must be what is."""

import json
import re
import shutil
import socket
import subprocess

import pytest

from support.outage import spool
from support.proxy import BINARY
from support.raw import RawClient
from support.spool import MakeSpool
from support.wait import wait_until

OF_GUEST = '{user="guest",vhost="/"}'
NAMES = """client_connections upstream_connections messages_forwarded_total messages_spooled_total
    messages_drained_total messages_rejected_total queue_messages queue_bytes queue_rejected_messages
    queue_oldest_age_seconds queue_paused queue_state queue_full_total message_memory_bytes
    message_memory_max_bytes spool_used_bytes spool_max_bytes
    spool_commit_seconds login_refused_total build_info""".split()


def wait_state(admin, state):
    wait_until(lambda: [queue["state"] for queue in admin.queues()["queues"]] == [state],
               lambda: f"state {state}, got {admin.queues()['queues']}")


def test_metrics_have_their_names_and_please_promtool(broker, make_watched):
    _, admin = make_watched(broker.url)
    text = admin.get("/metrics")
    described = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    assert {f"amqpbuf_{name}" for name in NAMES} <= described
    checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), check=False,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert checked.returncode == 0, checked.stdout.decode()


def test_every_metric_name_of_a_queue_survives_odd_names(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    with RawClient(proxy.port, user='o"d\\d', vhost="näme\n{}") as client:
        client.open_channel(confirms=True)
        text = admin.get("/metrics")
        assert r'amqpbuf_queue_messages{user="o\"d\\d",vhost="näme\n{}"} 0' in text
        checked = subprocess.run(["promtool", "check", "metrics"], input=text.encode(),
                                 check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert checked.returncode == 0, checked.stdout.decode()
        assert admin.queues()["queues"][0]["vhost"] == "näme\n{}"
        client.close()


@pytest.mark.provokes("login_unreadable")
def test_no_two_names_become_one_label(broker, make_watched):
    """Bytes that are not UTF-8 are spelled out, and so is what looks like that."""
    proxy, admin = make_watched(broker.url, start=False)
    names = (b"a\xff", rb"a\xff", "a\ufffdff".encode(), b"a\xef\xbf", "aÿ".encode())
    made = MakeSpool(proxy.spool)
    for name in names:
        made.queue(name)
    made.close()
    proxy.start()
    series = {line.rsplit(" ", 1)[0] for line in admin.get("/metrics").splitlines()
              if line.startswith("amqpbuf_queue_messages{")}
    users = ("a\ufffdff", r"a\\xff", "a\ufffdef\ufffdbf\ufffdbdff", "a\ufffdef\ufffdbf", "aÿ")
    assert series == {f'amqpbuf_queue_messages{{user="{user}",vhost="/"}}' for user in users}


def test_numbers_follow_a_message_through_an_outage(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"live", "q")
        client.acked_up_to(1)
        wait_state(admin, "live")
        metrics = admin.metrics()
        assert metrics["amqpbuf_client_connections"] == 1
        assert metrics["amqpbuf_upstream_connections"] == 1
        assert metrics["amqpbuf_messages_forwarded_total"] == 1
        assert metrics["amqpbuf_queue_messages" + OF_GUEST] == 0
        assert metrics["amqpbuf_queue_oldest_age_seconds" + OF_GUEST] == 0
        broker.down()
        proxy.wait_event("buffering_started")
        for tag in range(2, 5):
            client.publish(b"x" * 100, "q")
            client.acked_up_to_tags({tag})
        wait_state(admin, "offline")
        metrics = admin.metrics()
        assert metrics["amqpbuf_upstream_connections"] == 0
        assert metrics["amqpbuf_messages_spooled_total"] == 3
        assert metrics["amqpbuf_queue_messages" + OF_GUEST] == 3
        assert metrics["amqpbuf_queue_bytes" + OF_GUEST] > 300
        assert metrics["amqpbuf_queue_oldest_age_seconds" + OF_GUEST] > 0
        assert metrics['amqpbuf_queue_state{user="guest",vhost="/",state="offline"}'] == 1
        assert metrics['amqpbuf_queue_state{user="guest",vhost="/",state="live"}'] == 0
        assert metrics["amqpbuf_spool_commit_seconds_count"] >= 3
        assert metrics["amqpbuf_spool_commit_seconds_sum"] > 0
        inspected = proxy.summary()
        wait_until(lambda: admin.queues()["bytes_used"] == inspected["bytes_used"],
                   "the spool is counted when it rests")
        shown = admin.queues()
        for key, value in inspected["queues"][0].items():
            assert shown["queues"][0][key] == value, key
        assert shown["bytes_max"] == inspected["bytes_max"]
        assert shown["queues"][0]["reason"]
        broker.up()
        broker.wait_messages(4)
        wait_state(admin, "live")
        metrics = admin.metrics()
        assert metrics["amqpbuf_messages_drained_total"] == 3
        assert metrics["amqpbuf_queue_messages" + OF_GUEST] == 0
        client.close()


def test_rejected_messages_are_counted_by_code(broker, make_watched):
    broker.down()
    proxy, admin = make_watched(broker.url, {"spool.unverified_logins": "accept"})
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"bad", "q")
        client.acked_up_to(1)
        client.close()

    def refuse(connection, frame):
        if frame.name == "basic.publish":
            connection.send_method(frame.channel, "channel.close", reply_code=404,
                                   reply_text="NOT_FOUND - scripted", class_id=60, method_id=40)
        return False

    broker.on_frame = refuse
    broker.up()
    wait_until(lambda: admin.metrics().get('amqpbuf_messages_rejected_total{code="404"}') == 1,
               "the rejected one is counted")
    wait_until(lambda: admin.metrics()["amqpbuf_queue_rejected_messages" + OF_GUEST] == 1,
               "the rejected one is shown")


@pytest.mark.parametrize("text, shown", [
    (b"NO - \xff\xfe", "NO - \\xFF\\xFE"),
    (b"NO - " + b"a" * 121 + "äöü".encode(), "NO - " + "a" * 121 + "\\xC3"),  # where it is cut off
])
def test_a_reason_that_is_not_utf8_hides_no_queue(broker, make_watched, text, shown):
    proxy, admin = make_watched(broker.url, {"upstream.reconnect_min": "1h",
                                             "upstream.reconnect_max": "1h"})
    with RawClient(proxy.port) as client:
        broker.connections[0].send_method(0, "connection.close", reply_code=320, reply_text=text,
                                          class_id=0, method_id=0)
        proxy.wait_event("upstream_lost")
        (queue,) = admin.queues()["queues"]
        assert (queue["state"], queue["reason"]) == ("offline", shown)
        client.close()


def test_refused_login_is_a_state_with_a_reason(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"waits", "q")
        client.acked_up_to(1)
        broker.refuse_login = True
        broker.up()
        wait_state(admin, "login_refused")
        assert "ACCESS_REFUSED" in admin.queues()["queues"][0]["reason"]
        broker.refuse_login = False


def test_a_pause_is_seen_in_every_state(broker, make_watched):
    proxy, admin = make_watched(broker.url)

    def seen():
        queue, = admin.queues()["queues"]
        assert admin.metrics()["amqpbuf_queue_paused" + OF_GUEST] == queue["paused"]
        return queue["state"], queue["paused"]
    spool(broker, proxy, [b"waits"])
    assert seen() == ("offline", False)
    proxy.ctl("pause", 1)
    assert seen() == ("offline", True)
    broker.up()
    wait_state(admin, "paused")
    assert seen() == ("paused", True)
    proxy.ctl("resume", 1)
    wait_state(admin, "live")
    proxy.ctl("pause", 1)
    assert seen() == ("live", True)


def test_health_and_readiness(broker, make_watched):
    proxy, admin = make_watched(broker.url, {"pool.publish_buffer_size": 2})
    assert admin.ask("/healthz")[:2] == (200, "ok\n")
    assert admin.ask("/readyz")[:2] == (200, "ready\n")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        client.publish(b"1", "q")
        client.acked_up_to(1)
        assert admin.ask("/readyz")[0] == 200
        client.publish(b"2", "q")
        client.acked_up_to_tags({2})
        status, text, _ = admin.ask("/readyz")
        assert status == 503 and "full" in text
        assert admin.ask("/healthz")[0] == 200
        broker.up()
        broker.wait_messages(2)
        wait_until(lambda: admin.ask("/readyz")[0] == 200, "ready again after the drain")
        client.close()


def test_it_is_ready_when_rabbitmq_was_reached(broker, make_watched):
    """Before that no login can be proven."""
    broker.down()
    proxy, admin = make_watched(broker.url)
    assert admin.ask("/readyz")[0] == 200  # nobody has tried

    def refusal():
        with RawClient(proxy.port, handshake=False) as stranger:
            return stranger.refusal("guest", "guest")
    assert refusal()
    status, text, _ = admin.ask("/readyz")
    assert status == 503 and "not been reached" in text
    broker.up()
    wait_until(lambda: not refusal(), "it is let in")
    assert admin.ask("/readyz")[0] == 200
    with RawClient(proxy.port) as client:
        client.open_channel()
        broker.down()
        proxy.wait_event("buffering_started")
        assert admin.ask("/readyz")[0] == 200  # a login is known: its publishes are stored
        client.die()


def test_without_a_buffer_it_is_not_ready_while_rabbitmq_is_away(broker, make_watched):
    proxy, admin = make_watched(broker.url, {"pool.publish_buffer_size": 0})
    with RawClient(proxy.port):
        assert admin.ask("/readyz")[0] == 200
        broker.down()
        proxy.wait_event("upstream_lost")
        status, text, _ = admin.ask("/readyz")
        assert status == 503 and "buffering is off" in text


def test_a_buffer_that_needs_a_restart_is_not_there_yet(broker, make_watched):
    """A reload cannot open the spool that the start did not open."""
    proxy, admin = make_watched(broker.url, {"pool.publish_buffer_size": 0})
    assert admin.metrics()["amqpbuf_queue_max_messages"] == 0
    proxy.options["pool.publish_buffer_size"] = 100
    proxy.reload()
    assert proxy.wait_event("reload_ignored")["key"] == "pool.publish_buffer_size"
    assert admin.metrics()["amqpbuf_queue_max_messages"] == 0 == admin.queues()["messages_max"]
    proxy.restart()
    assert admin.metrics()["amqpbuf_queue_max_messages"] == 100


def test_only_what_is_there_and_only_reading(broker, make_watched):
    _, admin = make_watched(broker.url)
    assert admin.ask("/nothing")[0] == 404
    status, _, headers = admin.ask("/queues", "POST")
    assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert admin.ask("/metrics", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize("host, status", [
    ("127.0.0.1:9419", 200), ("[::1]:9419", 200), ("[::1]", 200), ("localhost", 200), ("LOCALHOST.:9419", 200),
    ("amqpbuf:9419", 200), ("", 200), ("evil.example", 421), ("evil.example:9419", 421), ("evil.example.", 421),
    ("127.0.0.1.evil.example", 421), ("127.0.0.1.", 200), ("127.0.0", 421), ("localhost.evil.example", 421),
    ("app1.example.org:9419", 200), ("APP1.EXAMPLE.ORG.", 200), ("app2.example.org", 421), ("corp.example", 200),
    ("a.b.corp.example", 200), ("notcorp.example", 421),
])
def test_only_names_that_are_ours(broker, make_watched, host, status):
    """A page of another site may have its name lead here; a health check may use any name."""
    _, admin = make_watched(broker.url, {"admin.hosts": "app1.example.org, .corp.example"})
    for path in ("/", "/metrics", "/queues", "/history"):
        assert admin.ask(path, fields={"Host": host})[0] == status
    for path in ("/healthz", "/readyz"):
        assert admin.ask(path, fields={"Host": host})[0] == 200


def test_names_change_with_a_reload(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    evil = {"Host": "any.example"}
    assert admin.ask("/queues", fields=evil)[0] == 421
    proxy.options["admin.hosts"] = "*"
    proxy.reload()
    assert admin.ask("/queues", fields=evil)[0] == 200
    with socket.create_connection(("127.0.0.1", admin.port)) as old:
        old.sendall(b"GET /queues HTTP/1.0\r\n\r\n")
        assert b" 200 " in old.makefile("rb").readline()


def test_slow_and_many_askers_do_not_keep_the_port(broker, make_watched):
    proxy, admin = make_watched(broker.url)
    idle = [socket.create_connection(("127.0.0.1", admin.port)) for _ in range(80)]
    with RawClient(proxy.port) as client:  # the proxy serves meanwhile
        client.open_channel(confirms=True)
        client.publish(b"x", "q")
        client.acked_up_to(1)
        client.close()
    wait_until(lambda: answers(admin), "it answers again once the idle ones are cut off")
    for connection in idle:
        connection.close()


def test_a_crowd_that_says_nothing_delays_no_health_check(broker, make_watched):
    """The oldest of it go, long before their time (10 s) is over."""
    _, admin = make_watched(broker.url)
    idle = [socket.create_connection(("127.0.0.1", admin.port)) for _ in range(64)]
    for connection in idle:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
    with socket.create_connection(("127.0.0.1", admin.port)) as check:
        check.settimeout(8)
        check.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert check.recv(12) == b"HTTP/1.1 200"
    assert idle[0].recv(1) == b""
    for connection in idle:
        connection.close()


def test_crowd_that_leaves_at_once_opens_the_port_again(broker, make_watched):
    """The server learns of all of them in one turn, and nothing else happens after that."""
    proxy, admin = make_watched(broker.url)
    begin = proxy.descriptors()
    crowd = [socket.create_connection(("127.0.0.1", admin.port)) for _ in range(70)]
    wait_until(lambda: proxy.descriptors() == begin + 20, "the server has as many as it takes")
    with proxy.suspended():
        for connection in crowd:
            connection.close()
    assert admin.get("/healthz")


def answers(admin):
    try:
        return admin.ask("/healthz")[0] == 200
    except OSError:
        return False


def test_taken_port_ends_the_start_with_a_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [BINARY, "--set", f"admin.port={port}", "--set", f"spool.path={tmp_path}/spool",
             "--set", "pool.publish_buffer_size=10"],
            stderr=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 1
    assert b"event=cannot_listen" in done.stderr and b"admin" in done.stderr


def test_page_loads_nothing_from_elsewhere(broker, make_watched):
    _, admin = make_watched(broker.url)
    _, page, headers = admin.ask("/")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    elsewhere = set(re.findall(r"https?://[^\"' ]+", page)) - {"http://www.w3.org/2000/svg"}
    assert elsewhere == set()


def shown(admin, folder):
    """The page as a browser has it."""
    done = subprocess.run(
        [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
         "--disable-dev-shm-usage", f"--user-data-dir={folder}",
         "--virtual-time-budget=5000", "--dump-dom", f"http://127.0.0.1:{admin.port}/"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120, check=False)
    return done.stdout.decode()


def test_page_in_a_browser(broker, make_watched, tmp_path):
    proxy, admin = make_watched(broker.url)
    with RawClient(proxy.port, user="<b>user</b>") as client:
        client.open_channel(confirms=True)
        broker.down()
        proxy.wait_event("buffering_started")
        for tag in range(1, 4):
            client.publish(b"x", "q")
            client.acked_up_to_tags({tag})
        dom = shown(admin, tmp_path)
    assert "<h1>RabbitMQ is away</h1>" in dom, dom
    assert "3 messages wait" in dom
    assert "&lt;b&gt;user&lt;/b&gt; at /" in dom and "<b>user</b>" not in dom


def test_page_tells_of_what_waits_while_rabbitmq_is_there(broker, make_watched, tmp_path):
    """It confirms nothing, and so what is published next waits."""
    proxy, admin = make_watched(broker.url, {"pool.confirm_timeout": "300ms"})
    broker.acks = False
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        client.publish(b"sent", "q")
        proxy.wait_event("confirms_stalled")
        for body in (b"waits", b"waits, too"):
            client.publish(body, "q")
        wait_until(lambda: [(queue["state"], queue["messages"]) for queue in admin.queues()["queues"]] ==
                   [("live", 3)], lambda: f"it waits: {admin.queues()['queues']}")
        dom = shown(admin, tmp_path)
    assert re.search(r"<h1>RabbitMQ is there</h1>\s*<p>3 messages wait, the oldest for ", dom), dom


def test_history_has_the_last_minutes(broker, make_watched):
    _, admin = make_watched(broker.url)
    wait_until(lambda: json.loads(admin.get("/history"))["waiting"], "the first sample")
    past = json.loads(admin.get("/history"))
    assert past["step_ms"] == 5000
    assert len({len(past[key]) for key in past if key != "step_ms"}) == 1
