"""A service manager that holds listening sockets and passes them on as systemd does."""

import socket
import sys

# Puts the descriptors where sd_listen_fds(3) looks for them, and becomes the program.
_LAUNCH = """
import os, sys
fds, count, names, program = sys.argv[1].split(), sys.argv[2], sys.argv[3], sys.argv[4:]
for number, fd in enumerate(fds):
    os.dup2(int(fd), 200 + number)
for number in range(len(fds)):
    os.dup2(200 + number, 3 + number)
    os.close(200 + number)
os.environ.update(LISTEN_FDS=count, LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES=names)
os.execv(program[0], program)
"""


class Manager:
    """Manager([(name, port), ...]): port 0 is any. `passed` are sockets or files instead; of `missing`
    more it says that they are there, too."""

    def __init__(self, sockets=(), address="127.0.0.1", passed=(), missing=()):
        self.names = [name for name, _ in (*sockets, *passed)] + list(missing)
        self.sockets = [socket.create_server((address, port), backlog=64) for _, port in sockets]
        self.sockets += [held for _, held in passed]

    def descriptors(self):
        return [held.fileno() for held in self.sockets]

    def command(self, program):
        return [sys.executable, "-c", _LAUNCH, " ".join(map(str, self.descriptors())),
                str(len(self.names)), ":".join(self.names), *program]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for held in self.sockets:
            held.close()
