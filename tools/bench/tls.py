"""TLS beside plain. The publishers speak no TLS themselves: in front of the amqpbuf that is measured
there is another one, which does, or does not."""

import pathlib
import subprocess
import tempfile

from support.certificates import Authority
from support.ports import free_port

from ways import load, start_amqpbuf, start_broker


class OverTls:
    def __init__(self, results):
        self.results = results
        self.folder = tempfile.TemporaryDirectory(prefix="amqpbuf-bench-")
        path, port = pathlib.Path(self.folder.name), free_port()
        authority = Authority(path)
        certificate, key = authority.sign("server")
        self.tls_port = free_port()
        self.broker = start_broker(port)
        self.measured, self.front = {}, {}
        for name in ("plain", "TLS"):
            (path / name).mkdir()
            (path / f"front {name}").mkdir()
        self.measured["plain"] = start_amqpbuf(path / "plain", port)
        self.front["plain"] = start_amqpbuf(path / "front plain", self.measured["plain"].port)
        self.measured["TLS"] = start_amqpbuf(path / "TLS", port, [
            f"listen.tls_port={self.tls_port}", f"listen.tls_certificate={certificate}",
            f"listen.tls_private_key={key}"])
        self.front["TLS"] = start_amqpbuf(path / "front TLS", self.tls_port, [
            f"upstream.url=amqps://127.0.0.1:{self.tls_port}",
            f"upstream.tls_ca={authority.certificate}"])

    def close(self):
        for way in (*self.measured.values(), *self.front.values()):
            way.process.kill()
        self.broker.kill()
        self.folder.cleanup()

    def tls(self):
        for size, messages in ((100, 1_000_000), (1024, 500_000), (16384, 50_000)):
            def cpu(name, size=size, messages=messages):
                before = self.measured[name].cpu_seconds()
                load("stream", self.front[name].port, 4, size, messages)
                return (self.measured[name].cpu_seconds() - before) * 1e6 / messages
            self.results.alternate(
                f"stream of {size} B, clients' side", "CPU s per 1M messages",
                {name: lambda name=name: cpu(name) for name in self.measured}, "plain")
        self.results.alternate("TLS handshakes, ECDSA P-256", "a second",
                               {"amqpbuf": self.handshakes})

    def handshakes(self):
        done = subprocess.run(
            ["openssl", "s_time", "-connect", f"127.0.0.1:{self.tls_port}", "-new", "-time", "3"],
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True)
        last = [line for line in done.stdout.splitlines() if "real seconds" in line][-1].split()
        return int(last[0]) / int(last[3])
