"""Free loopback ports that two test runs never both take.

They lie below the kernel's ephemeral range: a port that a stopped server will want again must not
become some client's own port meanwhile. A bound abstract socket is the reservation; the kernel gives it up with
the process.
"""

import os
import random
import socket

FIRST, LAST = 20000, 31999

_reservations = {}


def _is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reserve(port):
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0amqpbuf-test-port-{port}")
    except OSError:
        mark.close()
        return False
    _reservations[port] = mark
    return True


def free_port():
    start = random.Random(os.urandom(8)).randint(FIRST, LAST)
    for step in range(LAST - FIRST + 1):
        port = FIRST + (start - FIRST + step) % (LAST - FIRST + 1)
        if port not in _reservations and _reserve(port):
            if _is_free(port):
                return port
            release_port(port)
    raise RuntimeError("no free loopback port")


def release_port(port):
    mark = _reservations.pop(port, None)
    if mark:
        mark.close()
