"""A TCP relay that cuts connections where a test wants, also in the middle of a frame."""

import socket
import struct
import threading

from .ports import free_port, release_port


def _reset(sock):
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is over already


class Relay:
    """Passes everything on to a loopback port. `cut_after` ends it, `mend` lets it pass again."""

    def __init__(self, target_port):
        self.target_port = target_port
        self.port = free_port()
        self._lock = threading.Lock()
        self._pairs = []
        self._left = None  # bytes towards the target until the cut; None: no limit
        self._is_cut = False
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count):
        """The next `count` bytes towards the target pass; then every connection is reset."""
        with self._lock:
            self._left = count

    def mend(self):
        with self._lock:
            self._left, self._is_cut = None, False

    def close(self):
        self._listener.close()
        self._cut()
        release_port(self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _cut(self):
        with self._lock:
            self._is_cut = True
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for sock in pair:
                _reset(sock)

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                near.close()
                continue
            with self._lock:
                is_cut = self._is_cut
                if not is_cut:
                    self._pairs.append((near, far))
            if is_cut:
                near.close()
                far.close()
                continue
            for source, to, counted in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pump, args=(source, to, counted),
                                 daemon=True).start()

    def _allowed(self, data):
        """What of it may pass, and whether the cut comes after it."""
        with self._lock:
            if self._left is None:
                return data, False
            data = data[:self._left]
            self._left -= len(data)
            return data, self._left == 0

    def _pump(self, source, to, counted):
        cut = False
        try:
            while not cut:
                data = source.recv(65536)
                if not data:
                    break
                if counted:
                    data, cut = self._allowed(data)
                to.sendall(data)
        except OSError:
            pass  # the other side is gone; so is this one, below
        if cut:
            self._cut()
        for sock in (source, to):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is over already
