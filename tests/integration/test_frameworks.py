"""Frameworks as they are, with nothing but an address in their configuration: jobs are dispatched
before, during and after an outage of RabbitMQ and a restart of amqpbuf, and each is done."""

import contextlib
import os
import pathlib
import sys
import threading

import pytest

from conftest import url_of
from support.jobs import Job
from support.process import spawn
from support.wait import wait_until

HERE = pathlib.Path(__file__).resolve().parents[1] / "support" / "frameworks"
JARS = "/usr/share/java/amqp-client.jar:/usr/share/java/slf4j-api.jar:" \
       "/usr/share/java/slf4j-nop.jar"


class Framework:
    """Where its jobs go, and the commands: of its worker, and of who dispatches."""

    goes_on = True  # the worker connects again by itself; else a supervisor starts it again
    delays = True

    def __init__(self, port, folder, queue):
        self.port, self.queue, self.done = port, queue, folder / "done"
        self.done.touch()
        self.environment = dict(os.environ)

    def finished(self):
        return set(self.done.read_text().split())

    def dispatch(self, prefix, count=5, delay_s=0):
        job = Job(self.dispatch_command(prefix, count, delay_s), env=self.environment, cwd=HERE)
        job.succeed()
        return {f"{prefix}-{number}" for number in range(count)}

    def wait_done(self, jobs, output):
        wait_until(lambda: jobs <= self.finished(),
                   lambda: f"{jobs - self.finished()} of {len(jobs)} are not done\n"
                           f"{output()[-4000:]}", progress=lambda: len(self.finished()))


class Celery(Framework):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.environment.update(BROKER=f"amqp://guest:guest@127.0.0.1:{self.port}//",
                                QUEUE=self.queue, DONE=str(self.done))

    def work_command(self):
        return [sys.executable, "-m", "celery", "-A", "jobs_celery", "worker", "--pool", "solo",
                "--loglevel", "INFO"]

    def dispatch_command(self, prefix, count, delay_s):
        return [sys.executable, "jobs_celery.py", prefix, str(count), str(delay_s)]


class Symfony(Framework):
    goes_on = False  # messenger:consume ends with an exception of php-amqp, as without amqpbuf

    def dsn(self):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2f/{self.queue}?confirm_timeout=30" \
               f"&connect_timeout=30"

    def work_command(self):
        return ["php", "symfony.php", "work", self.dsn(), str(self.done)]

    def dispatch_command(self, prefix, count, delay_s):
        return ["php", "symfony.php", "dispatch", self.dsn(), prefix, str(count),
                str(int(delay_s * 1000))]


class Laravel(Framework):
    goes_on = False  # queue:work ends over what says "Lost connection", and others of its words

    def work_command(self):
        return ["php", "laravel.php", "work", str(self.port), self.queue, str(self.done)]

    def dispatch_command(self, prefix, count, delay_s):
        return ["php", "laravel.php", "dispatch", str(self.port), self.queue, prefix, str(count),
                str(delay_s)]


class Java(Framework):
    delays = False  # the client has none

    def work_command(self):
        return ["java", "-cp", JARS, "Jobs.java", "work", str(self.port), self.queue,
                str(self.done)]

    def dispatch_command(self, prefix, count, _delay_s):
        return ["java", "-cp", JARS, "Jobs.java", "dispatch", str(self.port), self.queue, prefix,
                str(count)]


class Supervisor(threading.Thread):
    """Runs a worker, and starts it again when it has ended, as systemd or supervisord would."""

    def __init__(self, framework, log):
        super().__init__(daemon=True)
        self.framework, self.log = framework, log
        self.starts, self.process = 0, None
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            with open(self.log, "ab") as log:
                self.process = spawn(self.framework.work_command(), cwd=HERE, stdout=log,
                                     stderr=log, env=self.framework.environment)
            self.starts += 1
            self.process.wait()
            self.stopping.wait(0.2)

    def output(self):
        return self.log.read_text(errors="replace")

    def stop(self):
        self.stopping.set()
        while self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.join(0.1)


@pytest.mark.provokes("client_refused")
@pytest.mark.parametrize("kind", [Celery, Symfony, Laravel, Java])
def test_jobs_through_an_outage_and_a_restart(rabbit, make_proxy, tmp_path, kind):
    proxy = make_proxy(url_of(rabbit))
    framework = kind(proxy.port, tmp_path, kind.__name__.lower())
    worker = Supervisor(framework, tmp_path / "worker.log")
    worker.start()
    try:
        jobs = framework.dispatch("before") | framework.dispatch("flaky", 2)
        framework.wait_done(jobs, worker.output)

        rabbit.stop()
        proxy.wait_event("upstream_lost")
        jobs |= framework.dispatch("during") | framework.dispatch("flaky-during", 2)
        if kind.delays:
            jobs |= framework.dispatch("delayed", 2, 1)
        assert proxy.waiting() >= 7
        rabbit.start()
        jobs |= framework.dispatch("after")
        framework.wait_done(jobs, worker.output)

        proxy.restart()
        jobs |= framework.dispatch("restarted") | framework.dispatch("flaky-restarted", 2)
        framework.wait_done(jobs, worker.output)
    finally:
        worker.stop()
    assert framework.finished() == jobs
    # Celery's broadcasts go to transient exchanges and queues of workers that are gone.
    assert [record for record in proxy.dump("--rejected")
            if framework.queue in (record["exchange"], record["routing_key"])] == []
    assert proxy.waiting() == 0
    if kind.goes_on:
        assert worker.starts == 1
