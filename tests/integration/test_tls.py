"""TLS on both sides: who is let in, who is trusted, and that it carries all the rest."""

import hashlib
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess

import pika
import pytest

from conftest import url_of
from support import amqp
from support.certificates import Authority
from support.http import Admin
from support.ports import free_port, release_port
from support.proxy import BINARY
from support.rabbit import Rabbit
from support.raw import RawClient
from support.wait import wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server(authority):
    return authority.sign("server")


@pytest.fixture(scope="module")
def shared_rabbit(authority, server):
    port = free_port()
    certificate, key = server
    with Rabbit(listeners__ssl__1=f"127.0.0.1:{port}", ssl_options__cacertfile=authority.certificate,
                ssl_options__certfile=certificate, ssl_options__keyfile=key) as rabbit:
        rabbit.tls_port = port
        yield rabbit
    release_port(port)


@pytest.fixture
def make_tls_proxy(make_proxy, server):
    """make_tls_proxy(url, options): (proxy, its port for TLS)."""
    ports = []

    def make(url, options=None, **settings):
        ports.append(free_port())
        certificate, key = server
        return make_proxy(url, {"listen.tls_port": ports[-1], "listen.tls_certificate": certificate,
                                "listen.tls_private_key": key, **(options or {})}, **settings), ports[-1]

    yield make
    for port in ports:
        release_port(port)


def context_of(authority, own=None):
    context = ssl.create_default_context(cafile=authority.certificate)
    if own:
        context.load_cert_chain(*own)
    return context


def connect(port, context):
    return pika.BlockingConnection(pika.ConnectionParameters(
        "127.0.0.1", port, ssl_options=pika.SSLOptions(context, "127.0.0.1"), heartbeat=0,
        connection_attempts=1, socket_timeout=60, stack_timeout=60,
        blocked_connection_timeout=60))


def test_publisher_over_tls_through_an_outage(rabbit, make_tls_proxy, authority, queue):
    proxy, port = make_tls_proxy(url_of(rabbit))
    bodies = [b"small", b"x" * 5_000_000, b"y" * 300_000, b"last"]
    with connect(port, context_of(authority)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies[:2]:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
        rabbit.stop()
        proxy.wait_event("buffering_started")
        for body in bodies[2:]:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
        rabbit.start()
        assert rabbit.wait_for(queue, len(bodies)) == bodies


def test_consumer_over_tls_on_both_sides(rabbit, make_tls_proxy, authority, queue):
    _, port = make_tls_proxy(f"amqps://127.0.0.1:{rabbit.tls_port}",
                             {"upstream.tls_ca": authority.certificate})
    with connect(port, context_of(authority)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        bodies = [bytes([n]) * 1_000_000 for n in range(20)]
        for body in bodies:
            channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2))
        arrived = []
        for _, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=60):
            arrived.append(body)
            if len(arrived) == len(bodies):
                break
        assert [hashlib.sha256(body).digest() for body in arrived] == \
            [hashlib.sha256(body).digest() for body in bodies]


def test_both_ports_at_once_and_plain_alone_off(broker, make_tls_proxy, authority):
    proxy, port = make_tls_proxy(broker.url)
    with RawClient(proxy.port) as plain:
        plain.close()
    connect(port, context_of(authority)).close()
    only, port = make_tls_proxy(broker.url, {"listen.port": 0})
    connect(port, context_of(authority)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", only.port))


def speaks(server_socket, context):
    """Whether the next connection shakes hands and sends AMQP. Those that a killed proxy has left in
    the backlog do not."""
    accepted, _ = server_socket.accept()
    with accepted:
        try:
            with context.wrap_socket(accepted, server_side=True) as secured:
                return secured.recv(8) == amqp.PROTOCOL_HEADER
        except OSError:
            return False


@pytest.mark.parametrize("name, trouble", [
    ("other", "mismatch"), ("expired", "expired"), ("unknown", "local issuer|self-signed"),
])
def test_upstream_that_cannot_be_trusted(make_proxy, authority, tmp_path, name, trouble):
    signer = Authority(tmp_path, "unknown") if name == "unknown" else authority
    certificate, key = {
        "other": lambda: signer.sign("other", "DNS:elsewhere.example"),
        "expired": lambda: signer.sign("expired", days=-1),
        "unknown": lambda: signer.sign("unknown-server"),
    }[name]()
    port = free_port()
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", port)) as server_socket:
        url = f"amqps://guest:guest@127.0.0.1:{port}"
        proxy = make_proxy(url, {"upstream.tls_ca": authority.certificate})
        accepted, _ = server_socket.accept()
        with pytest.raises(ssl.SSLError):
            listener.wrap_socket(accepted, server_side=True).recv(1)
        reason = proxy.wait_event("upstream_failed")["reason"]
        assert "TLS" in reason and any(word in reason for word in trouble.split("|")), reason
        accepted.close()
        proxy.options["upstream.tls_verify"] = "no"
        proxy.crash_and_start()
        wait_until(lambda: speaks(server_socket, listener), "it speaks to it")
    release_port(port)


def test_upstream_is_asked_for_by_name(make_proxy, authority, server):
    """Server name indication, and the name `localhost` against the certificate."""
    asked = []
    listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listener.load_cert_chain(*server)
    listener.sni_callback = lambda _socket, name, _context: asked.append(name)
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as server_socket:
        make_proxy(f"amqps://guest:guest@localhost:{port}",
                   {"upstream.tls_ca": authority.certificate})
        accepted, _ = server_socket.accept()
        secured = listener.wrap_socket(accepted, server_side=True)
        assert secured.recv(8) == amqp.PROTOCOL_HEADER
        assert asked == ["localhost"]
        secured.close()
    release_port(port)


def test_client_certificates(broker, make_tls_proxy, authority, tmp_path):
    proxy, port = make_tls_proxy(broker.url, {"listen.tls_client_ca": authority.certificate})
    connect(port, context_of(authority, authority.sign("job"))).close()
    stranger = Authority(tmp_path, "stranger").sign("somebody")
    for own in (None, stranger):
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            connect(port, context_of(authority, own))
    proxy.wait_event("tls_failed", 2)


def test_plain_client_on_the_tls_port(broker, make_tls_proxy, authority):
    proxy, port = make_tls_proxy(broker.url)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        plain.sendall(amqp.PROTOCOL_HEADER)
        while plain.recv(4096):  # an alert, then the end
            pass
    proxy.wait_event("tls_failed")
    connect(port, context_of(authority)).close()


def test_stalled_handshake_meets_its_limit(broker, make_tls_proxy, authority):
    proxy, port = make_tls_proxy(broker.url, {"listen.handshake_timeout": "500ms"})
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stalled:
        stalled.sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
        assert stalled.recv(1) == b""
    assert proxy.is_running()
    connect(port, context_of(authority)).close()


def test_renegotiation_and_old_versions_are_refused(broker, make_tls_proxy, authority):
    _, port = make_tls_proxy(broker.url)
    asked = subprocess.run(
        ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}"], input=b"R\n",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    assert b"RENEGOTIATING" in asked.stdout and b"no renegotiation" in asked.stdout, asked.stdout
    old = subprocess.run(
        ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0",
         "-connect", f"127.0.0.1:{port}"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False)
    assert b"alert protocol version" in old.stdout, old.stdout
    connect(port, context_of(authority)).close()


@pytest.mark.provokes("reload_failed")
def test_certificates_are_read_again_on_sighup(broker, make_tls_proxy, authority, tmp_path):
    paths = [tmp_path / "own.pem", tmp_path / "own.key"]

    def install(pair):
        for source, target in zip(pair, paths):
            shutil.copy(source, target)

    def serial():
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain, \
                context_of(authority).wrap_socket(plain, server_hostname="localhost") as secured:
            return secured.getpeercert()["serialNumber"]

    install(authority.sign("first"))
    proxy, port = make_tls_proxy(broker.url, {"listen.tls_certificate": paths[0],
                                              "listen.tls_private_key": paths[1]})
    before = serial()
    with connect(port, context_of(authority)) as connection:
        install(authority.sign("second"))
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_event("reloaded")
        wait_until(lambda: serial() != before, "the new certificate is shown")
        now = serial()
        paths[1].write_text("no key")
        os.kill(proxy.pid, signal.SIGHUP)
        assert str(paths[1]) in proxy.wait_event("reload_failed")["reason"]
        assert serial() == now
        connection.channel()  # and who is connected stays


@pytest.mark.provokes("reload_failed")
def test_a_reload_changes_all_or_nothing(broker, make_tls_proxy, authority, tmp_path):
    """A fault of either side's files keeps the other side's, and the settings; one event names both."""
    own = {side: [tmp_path / f"{side}.pem", tmp_path / f"{side}.key"] for side in ("listen", "upstream")}

    def install(*sides):
        for side in sides:
            for source, target in zip(authority.sign("own"), own[side]):
                shutil.copy(source, target)

    def serial():
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain, \
                context_of(authority).wrap_socket(plain, server_hostname="localhost") as secured:
            return secured.getpeercert()["serialNumber"]

    install("listen", "upstream")
    options = {f"{side}.tls_{kind}": own[side][n] for side in own
               for n, kind in enumerate(("certificate", "private_key"))}
    proxy, port = make_tls_proxy(f"{broker.url},amqps://127.0.0.1:1",
                                 {**options, "listen.max_connections": 100})
    before = serial()
    proxy.options["listen.max_connections"] = 1
    for faulty in (["upstream"], ["listen"], ["listen", "upstream"]):
        install("listen", "upstream")
        for side in faulty:
            own[side][0].write_text("half a file")
        count = len(proxy.events("reload_failed"))
        proxy._write_configuration()
        os.kill(proxy.pid, signal.SIGHUP)
        reason = proxy.wait_event("reload_failed", count + 1)["reason"]
        assert [side for side in own if str(own[side][0]) in reason] == faulty
        assert serial() == before
    with RawClient(proxy.port), RawClient(proxy.port):  # more than one may connect
        pass
    assert not proxy.events("reloaded") and not proxy.events("tls_unusable")
    install("listen", "upstream")
    proxy.reload()
    assert serial() != before


def test_a_certificate_that_has_expired_is_told(broker, make_tls_proxy, authority):
    """Clients refuse it, and few say why."""
    certificate, key = authority.sign("expired", days=-1)
    proxy, _ = make_tls_proxy(broker.url, {"listen.tls_certificate": certificate, "listen.tls_private_key": key})
    untimely = proxy.wait_event("certificate_untimely")
    assert (untimely["file"], untimely["reason"]) == (str(certificate), "it has expired")
    proxy.reload()
    assert len(proxy.events("certificate_untimely")) == 2
    done = check("listen.tls_port=5671", f"listen.tls_certificate={certificate}", f"listen.tls_private_key={key}")
    assert done.returncode == 0 and f"warning: certificate {certificate}: it has expired\n" == done.stderr
    for path, renewed in zip((certificate, key), authority.sign("renewed")):
        shutil.copy(renewed, path)
    proxy.reload()
    assert len(proxy.events("certificate_untimely")) == 2


def test_a_certificate_that_expires_in_use_is_told(broker, make_tls_proxy, authority, server):
    """Also one behind it in its file. A test's hour is short."""
    own, key = (file.read_text() for file in server)
    chain = authority.folder / "chain.pem"
    chain.write_text(own + authority.sign("between", days=-1)[0].read_text())
    (authority.folder / "chain.key").write_text(key)
    proxy, _ = make_tls_proxy(broker.url, {"listen.tls_certificate": chain,
                                           "listen.tls_private_key": authority.folder / "chain.key"},
                              environment={"AMQPBUF_TEST_CERTIFICATES_MS": "200"})
    untimely = proxy.wait_event("certificate_untimely", 3)
    assert (untimely["file"], untimely["reason"]) == (str(chain), "one of its chain has expired")
    shutil.copy(server[0], chain)
    proxy.reload()
    told = len(proxy.events("certificate_untimely"))
    proxy.term()
    assert len(proxy.events("certificate_untimely")) == told


@pytest.mark.parametrize("options, is_resumed", [(0, True), (ssl.OP_NO_TICKET, False)])
def test_no_session_is_kept_for_a_client_that_is_gone(broker, make_tls_proxy, authority, options, is_resumed):
    """Thousands of them would be memory that nothing bounds. A ticket is kept by the client."""
    _, port = make_tls_proxy(broker.url)
    context = context_of(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.options |= options
    session = None
    for _ in range(2):
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), session=session,
                                 server_hostname="127.0.0.1") as client:
            reused, session = client.session_reused, client.session
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while client.recv(100):
                pass
    assert reused == is_resumed


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_private_key"])
def test_unusable_file_ends_the_start_with_a_clear_line(tmp_path, server, missing):
    files = {"tls_certificate": server[0], "tls_private_key": server[1]}
    files[missing] = pathlib.Path("/nowhere.pem")
    done = subprocess.run(
        [BINARY, "--set", f"listen.tls_port={free_port()}", "--set", f"spool.path={tmp_path}/spool",
         *(word for key, path in files.items() for word in ("--set", f"listen.{key}={path}"))],
        stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 1
    assert b"tls_unusable" in done.stderr
    assert b"/nowhere.pem: No such file or directory" in done.stderr


def check(*settings):
    return subprocess.run([BINARY, "--check", *(word for setting in settings for word in ("--set", setting))],
                          capture_output=True, text=True, timeout=60, check=False)


def test_check_names_files_that_cannot_be_used(server, authority, tmp_path):
    """Before a restart or a reload finds out."""
    certificate, key = server
    other = authority.sign("other")[1]
    sealed, pipe = tmp_path / "sealed.key", tmp_path / "pipe"
    subprocess.run(["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:x", "-out", sealed],
                   check=True, timeout=60)
    os.mkfifo(pipe)
    empty = tmp_path / "empty.key"
    empty.touch()
    for section, side in (("listen", "listen.tls_port=5671"), ("upstream", "upstream.url=amqps://rabbit")):
        def pair(one, two, section=section, side=side):
            return check(side, f"{section}.tls_certificate={one}", f"{section}.tls_private_key={two}")

        assert pair(certificate, key).returncode == 0
        assert "has a pass phrase" in pair(certificate, sealed).stderr
        assert "there is none in it" in pair(certificate, empty).stderr
        assert "is a pipe" in pair(pipe, key).stderr
        for refused, named in ((pair("/nowhere.pem", key), "/nowhere.pem"),
                               (pair(certificate, "/nowhere.pem"), "/nowhere.pem"),
                               (pair(certificate, other), str(other))):
            assert refused.returncode == 2 and refused.stdout == ""
            assert f"[{section}]" in refused.stderr and named in refused.stderr, refused.stderr
    assert check("upstream.url=amqps://rabbit", "upstream.tls_ca=/nowhere.pem").returncode == 2
    assert check("upstream.tls_ca=/nowhere.pem").returncode == 0  # used by nobody


@pytest.mark.provokes("out_of_memory", "client_refused")
def test_who_cannot_be_read_for_want_of_memory_is_let_go(broker, make_tls_proxy, authority):
    """At once, as without TLS: what has come would lie there until more comes."""
    broker.down()
    proxy, port = make_tls_proxy(broker.url, {"listen.handshake_timeout": "1h"},
                                 environment={"AMQPBUF_TEST_MEMORY_MAX": "1000"})
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context_of(authority).wrap_socket(plain, server_hostname="localhost")
    proxy.wait_event("out_of_memory")


class Records:
    """TLS records in a buffer: what is written to it goes out with one send, its end as well."""

    def __init__(self, port, context):
        self.plain = socket.create_connection(("127.0.0.1", port))
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        self._until_done(self._tls.do_handshake)

    def _until_done(self, act):
        while True:
            try:
                done = act()
            except ssl.SSLWantReadError:
                self.plain.sendall(self._out.read())
                self._in.write(self.plain.recv(1 << 16))
                continue
            self.plain.sendall(self._out.read())
            return done

    def sendall(self, data):
        self._tls.write(data)
        self.plain.sendall(self._out.read())

    def recv(self, size):
        return self._until_done(lambda: self._tls.read(size))

    def send_and_end(self, data):
        """Data and close_notify, in one piece."""
        self._tls.write(data)
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.plain.sendall(self._out.read())


@pytest.mark.parametrize("half_open", [True, False])
def test_an_end_behind_publishes_that_have_to_wait(broker, make_tls_proxy, authority, half_open):
    """They were received: an end of TLS in the same piece does not overtake them."""
    proxy, port = make_tls_proxy(broker.url, {"pool.window": 4, "drain.window": 4})
    broker.acks = False
    client = RawClient.__new__(RawClient)
    client.socket = Records(port, context_of(authority))
    client.stream = amqp.FrameStream(client.socket)
    client.confirms = amqp.Confirms()
    client.begin("guest", "guest")
    client.tune_ok()
    client.send_method(0, "connection.open", vhost="/")
    client.expect("connection.open-ok")
    client.open_channel()
    bodies = [b"%d" % number for number in range(30)]
    client.socket.send_and_end(b"".join(amqp.publish_frames(1, body, routing_key="q")
                                        for body in bodies))
    if not half_open:
        client.socket.plain.close()
    wait_until(lambda: len(broker.messages) >= 4, "a full window")
    broker.acks = True
    connection = broker.connections[-1]
    connection.send_method(broker.messages[-1].channel, "basic.ack", multiple=True,
                           delivery_tag=len(broker.messages))
    assert broker.wait_messages(len(bodies)) == bodies
    proxy.wait_event("client_closed")  # and the end is seen, though no more bytes come
    client.socket.plain.close()


def test_the_beginning_of_a_record_is_counted(broker, make_tls_proxy, authority):
    """OpenSSL makes room for all of a record, however little of it has come."""
    admin = Admin(free_port())
    _, port = make_tls_proxy(broker.url, {"admin.port": admin.port})

    def grown(by):
        return admin.metrics()["amqpbuf_message_memory_bytes"] - before >= by

    clients = [context_of(authority).wrap_socket(socket.create_connection(("127.0.0.1", port)),
                                                 server_hostname="localhost") for _ in range(20)]
    before = admin.metrics()["amqpbuf_message_memory_bytes"]
    for client in clients:
        os.write(client.fileno(), b"\x17\x03\x03\x40\x00" + bytes(10))
    wait_until(lambda: grown(len(clients) * 16384), "it is counted")
    for client in clients:
        client.close()
    wait_until(lambda: not grown(16384), "and given back")
    release_port(admin.port)
