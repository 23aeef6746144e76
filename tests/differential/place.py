"""RabbitMQ and amqpbuf before it, for as long as sequences run."""

import contextlib
import os
import tempfile

from support.ports import free_port, release_port
from support.proxy import Proxy
from support.rabbit import Rabbit

WORKERS = 8  # each has two vhosts: straight, and through amqpbuf
PROVOKES = ("client_refused", "upstream_lost")  # what is sent is wrong on purpose


@contextlib.contextmanager
def place():
    """Yields the ports: RabbitMQ's, amqpbuf's, its admin port; and the proxy. In memory, where there is a folder for that."""
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, tempfile, "tempdir", tempfile.tempdir)
        if os.access("/dev/shm", os.W_OK):
            tempfile.tempdir = "/dev/shm"
        rabbit = stack.enter_context(Rabbit(vhosts=["/"] + [
            f"{side}{number}" for side in "sp" for number in range(WORKERS)], log__file__level="none"))
        admin = free_port()
        stack.callback(release_port, admin)
        proxy = stack.enter_context(Proxy(f"amqp://127.0.0.1:{rabbit.port}", {
            "pool.publish_buffer_size": 100000, "drain.nack_limit": 1, "drain.unroutable_wait": "0", "admin.port": admin,
            "log.level": "info"}, provokes=PROVOKES))
        yield (rabbit.port, proxy.port, admin), proxy
