"""Real publishers in processes of their own: PHP batch jobs, and amqp-publish."""

import pathlib
import subprocess
import urllib.parse

from .process import spawn
from .wait import TIMEOUT_S

PHP = pathlib.Path(__file__).parent / "php"
AMQPLIB = "publish_amqplib.php"
EXTENSION = "publish_extension.php"


def php_command(script, port, routing_key, **options):
    flags = {"port": port, "routing-key": routing_key}
    flags.update({name.replace("_", "-"): value for name, value in options.items()})
    return ["php", str(PHP / script)] + [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]


class Job:
    """A started job. Runs as long as it likes; `done` waits for it."""

    def __init__(self, command, **options):
        self.command = command
        self.process = spawn(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             **options)

    def done(self, timeout=2 * TIMEOUT_S):
        """Waits; returns (exit status, output)."""
        try:
            output, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"not ended within {timeout} s: {' '.join(self.command)}") from None
        return self.process.returncode, output

    def succeed(self):
        status, output = self.done()
        assert status == 0, f"{' '.join(self.command)} ended in {status}: {output}"
        return output

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def php_job(script, port, routing_key, **options):
    return Job(php_command(script, port, routing_key, **options))


def amqp_publish(port, routing_key, body, user="guest", password="guest", vhost="/"):
    """amqp-publish of amqp-tools: librabbitmq's own command."""
    url = f"amqp://{user}:{password}@127.0.0.1:{port}/{urllib.parse.quote(vhost, safe='')}"
    return Job(["amqp-publish", "--url", url, "--routing-key", routing_key, "--persistent",
                "--body", body])


def run_jobs(make, count, at_once):
    """Runs make(1) ... make(count), never more than `at_once` together. All must succeed."""
    running = []
    try:
        for number in range(1, count + 1):
            if len(running) == at_once:
                running.pop(0).succeed()
            running.append(make(number))
        while running:
            running.pop(0).succeed()
    finally:
        for job in running:
            job.kill()
