"""The admin port, as a browser or Prometheus would ask it."""

import http.client
import json


class Admin:
    def __init__(self, port):
        self.port = port

    def ask(self, path, method="GET", fields=None):
        """(status, body as text, header fields)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers=fields or {})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body, answer.headers

    def get(self, path):
        status, body, _ = self.ask(path)
        assert status == 200, f"{path}: {status} {body}"
        return body

    def queues(self):
        return json.loads(self.get("/queues"))

    def metrics(self):
        """{series: value}, the series as it stands there: name{labels}."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
