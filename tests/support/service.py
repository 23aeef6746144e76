"""A service manager that holds listening sockets and passes them on as systemd does."""

import socket
import sys

# Puts the descriptors where sd_listen_fds(3) looks for them, and becomes the program.
_LAUNCH = """
import os, sys
fds, names, program = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
for number, fd in enumerate(fds):
    os.dup2(int(fd), 200 + number)
for number in range(len(fds)):
    os.dup2(200 + number, 3 + number)
    os.close(200 + number)
os.environ.update(LISTEN_FDS=str(len(fds)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"""


class Manager:
    """Manager([(name, port), ...]): port 0 is any."""

    def __init__(self, sockets):
        self.names = [name for name, _ in sockets]
        self.sockets = [socket.create_server(("127.0.0.1", port), backlog=64) for _, port in sockets]

    def descriptors(self):
        return [held.fileno() for held in self.sockets]

    def command(self, program):
        return [sys.executable, "-c", _LAUNCH, ",".join(map(str, self.descriptors())),
                ":".join(self.names), *program]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for held in self.sockets:
            held.close()
