"""tests/support/recovered.py against what RabbitMQ makes of the same disk."""

import re

from support import recovered
from support.raw import RawClient

NUMBER = re.compile(rb"late:(\d+) ")


def drain(rabbit, queue):
    with rabbit.connect() as connection:
        channel = connection.channel()
        left = channel.queue_declare(queue, passive=True).method.message_count
        for _, _, body in channel.consume(queue, auto_ack=True):
            yield body
            left -= 1
            if left == 0:
                return


def test_what_is_read_is_what_rabbitmq_recovers(rabbit, queue):
    """Confirmed and unconfirmed messages, some of them taken, in more than one segment's worth."""
    client = RawClient(rabbit.port)
    client.open_channel(confirms=True)
    for number in range(17000):  # the journal is written to segments behind 16,384
        client.publish(b"late:%d " % number, queue)
    client.acked_up_to(16500)
    rabbit.kill()
    client.socket.close()
    found = {int(number) for message in recovered.messages(rabbit)
             for number in NUMBER.findall(message)}
    rabbit.start()
    assert {int(NUMBER.match(body)[1]) for body in drain(rabbit, queue)} == found
    assert set(range(16500)) <= found


def test_holes_are_what_is_missing_below_the_highest():
    assert recovered.holes([]) == set()
    assert recovered.holes([4, 5, 6]) == set()
    assert recovered.holes([4, 7, 9]) == {5, 6, 8}
