"""More users than a spool of format 1 had room for, each with a queue of its own."""

from support.raw import RawClient
from support.wait import wait_until

USERS = 1500  # 1,364 were the limit


def user(number):
    return f"user-{number}"


def test_each_user_has_a_queue(broker, make_watched):
    proxy, admin = make_watched(broker.url, {"spool.unverified_logins": "accept",
                                             "upstream.reconnect_max": "5s", "log.level": "info"})
    RawClient(proxy.port).close()
    broker.down()
    proxy.wait_event("buffering_started")
    for number in range(USERS):
        with RawClient(proxy.port, user=user(number)) as client:
            client.open_channel(confirms=True)
            client.publish(b"%d" % number, "q")
            client.acked_up_to_tags({1})
            client.close()
    proxy.kill9()
    proxy.start()
    proxy.inspect("verify")
    queues = proxy.summary()["queues"]
    assert {(queue["user"], queue["messages"]) for queue in queues if queue["user"] != "guest"} == \
        {(user(number), 1) for number in range(USERS)}
    metrics = admin.metrics()
    assert metrics[f'amqpbuf_queue_messages{{user="{user(USERS - 1)}",vhost="/"}}'] == 1
    broker.up()
    wait_until(lambda: len(broker.messages) == USERS, lambda: proxy.failure("all are delivered"),
               progress=lambda: len(broker.messages))
    assert {message.body for message in broker.messages} == {b"%d" % n for n in range(USERS)}
    proxy.wait_empty()
