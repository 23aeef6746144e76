"""Fixtures: a RabbitMQ for each test file, scripted brokers and proxies for each test."""

import logging
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from support.broker import FakeBroker  # noqa: E402
from support.http import Admin  # noqa: E402
from support.ports import free_port, release_port  # noqa: E402
from support.proxy import TICK_WAKES, Proxy  # noqa: E402
from support.rabbit import Rabbit  # noqa: E402

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it tells of every refused connect

BUFFER = {"pool.publish_buffer_size": 100000}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed


def pytest_configure(config):
    config.addinivalue_line("markers", "provokes(event, ...): the log may have these (support/proxy.py)")
    config.addinivalue_line("markers", "tick_wakes(why): the tick has to wake held clients here")


@pytest.fixture(scope="module")
def shared_rabbit():
    with Rabbit() as rabbit:
        yield rabbit


@pytest.fixture
def rabbit(shared_rabbit):
    """RabbitMQ, running; a test may stop it, the next one finds it running again."""
    if not shared_rabbit.is_running():
        shared_rabbit.start()
    yield shared_rabbit


@pytest.fixture
def broker():
    with FakeBroker() as fake:
        yield fake


@pytest.fixture
def make_proxy(request):
    """make_proxy(url, {"section.key": value}): ended at the end of the test, its log looked at."""
    made = []
    provokes = {event for mark in request.node.iter_markers("provokes") for event in mark.args}
    ticks = TICK_WAKES if request.node.get_closest_marker("tick_wakes") else {}

    def make(url, options=None, **kwargs):
        environment = {**ticks, **(kwargs.pop("environment", None) or {})}
        proxy = Proxy(url, {**BUFFER, **(options or {})}, environment=environment,
                      provokes=provokes | set(kwargs.pop("provokes", ())), **kwargs)
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        if getattr(request.node, "failed", False):
            print(proxy.log_text()[-8000:])
            proxy.discard()
        else:
            proxy.close()


@pytest.fixture
def make_watched(make_proxy):
    """make_watched(url, options): (proxy, its admin port)."""
    ports = []

    def make(url, options=None, **kwargs):
        ports.append(free_port())
        options = {"admin.port": ports[-1], **(options or {})}
        return make_proxy(url, options, **kwargs), Admin(ports[-1])

    yield make
    for port in ports:
        release_port(port)


def url_of(rabbit):
    return f"amqp://127.0.0.1:{rabbit.port}"


@pytest.fixture
def proxy(rabbit, make_proxy):
    return make_proxy(url_of(rabbit))


@pytest.fixture
def queue(rabbit, request):
    """A durable queue of the test's own."""
    name = request.node.name.split("[")[0]
    rabbit.delete(name)
    rabbit.declare(name)
    return name
