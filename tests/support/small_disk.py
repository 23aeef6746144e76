"""A file system of its own that can be really full: a tmpfs in a mount namespace, which the test reaches
through the process that keeps it."""

import pathlib
import subprocess

MOUNT = 'mount -t tmpfs -o size="$2",mode=700 tmpfs "$1" && echo ready && exec cat'


class SmallDisk:
    def __init__(self, folder, size):
        folder.mkdir()
        self._keeper = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", folder, size],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._keeper.stdout.readline() == b"ready\n"
        self.path = pathlib.Path(f"/proc/{self._keeper.pid}/root{folder}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()
