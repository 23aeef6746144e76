"""A client that sends whatever bytes a test wants, and one that talks to the fake broker as well."""

import socket
import struct

from . import amqp

TIMEOUT_S = 60

told_to_leave = set()  # addresses of clients that have read a connection.close


class RawClient:
    """Does the handshake like a library would; after that the test decides on every byte."""

    def __init__(self, port, user="guest", password="guest", vhost="/", mechanism="PLAIN",
                 frame_max=0, channel_max=0, heartbeat=0, handshake=True, receive_buffer=None,
                 tls=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = "%s:%d" % self.socket.getsockname()
        told_to_leave.discard(self.address)  # another one had it
        self.confirms = amqp.Confirms()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self.stream = amqp.FrameStream(self.socket)
        self.server_properties, self.tune = {}, {}
        self.frame_max = 131072
        if handshake:
            self.begin(user, password, mechanism)
            self.tune_ok(frame_max, channel_max, heartbeat)
            self.send_method(0, "connection.open", vhost=vhost)
            self.expect("connection.open-ok")

    def begin(self, user, password, mechanism="PLAIN", properties=None):
        """From the protocol header to connection.tune."""
        self.start_ok(user, password, mechanism, properties)
        self.tune = self.expect("connection.tune").args

    def start_ok(self, user, password, mechanism="PLAIN", properties=None):
        """From the protocol header to start-ok, which the test sees answered."""
        self.send(amqp.PROTOCOL_HEADER)
        self.server_properties = self.expect("connection.start").args["server_properties"]
        response = f"\0{user}\0{password}".encode()
        if mechanism == "AMQPLAIN":
            response = amqp.table({"LOGIN": user, "PASSWORD": password})[4:]
        capabilities = {"capabilities": {"connection.blocked": True, "basic.nack": True,
                                         "authentication_failure_close": True}}
        self.send_method(0, "connection.start-ok", mechanism=mechanism, response=response,
                         locale="en_US", client_properties=properties or capabilities)

    def refusal(self, user, password, vhost="/"):
        """(where, code, text) of the connection.close that this login gets; None if it is let in."""
        self.start_ok(user, password)
        answer = self.read()
        where = "start-ok"
        if answer.name == "connection.tune":
            self.tune = answer.args
            self.tune_ok()
            self.send_method(0, "connection.open", vhost=vhost)
            answer = self.read()
            where = "open"
            if answer.name == "connection.open-ok":
                return None
        assert answer.name == "connection.close", answer
        self.send_method(0, "connection.close-ok")
        assert self.read() is None
        return where, answer.args["reply_code"], answer.args["reply_text"]

    def tune_ok(self, frame_max=0, channel_max=0, heartbeat=0):
        self.frame_max = frame_max or self.tune["frame_max"]
        self.send_method(0, "connection.tune-ok", frame_max=self.frame_max, heartbeat=heartbeat,
                         channel_max=channel_max or self.tune["channel_max"])

    # ---- sending ----

    def send(self, data):
        self.confirms.sent(data)
        self.socket.sendall(data)

    def send_method(self, channel, name, **args):
        self.send(amqp.method_frame(channel, name, **args))

    def call(self, channel, name, answer=None, **args):
        """Sends a method and returns its answer's frame; -ok by default."""
        self.send_method(channel, name, **args)
        return self.expect(answer or f"{name}-ok", channel)

    def open_channel(self, channel=1, confirms=False):
        self.call(channel, "channel.open")
        if confirms:
            self.call(channel, "confirm.select")

    def publish(self, body, routing_key, channel=1, **args):
        self.send(amqp.publish_frames(channel, body, routing_key=routing_key,
                                      frame_max=self.frame_max, **args))

    # ---- reading ----

    def read(self):
        """The next frame that is no heartbeat; None at the end of the connection."""
        while True:
            frame = self.stream.read()
            if frame is None:
                return None
            self.confirms.received(frame)
            if frame.name == "connection.close":
                told_to_leave.add(self.address)
            if frame.type != amqp.HEARTBEAT:
                return frame

    def expect(self, name, channel=None):
        frame = self.read()
        assert frame is not None, f"the connection ended instead of {name}"
        assert frame.name == name, f"expected {name}, got {frame} {frame.args}"
        assert channel is None or frame.channel == channel, f"{name} on channel {frame.channel}"
        return frame

    def expect_close(self, code):
        """connection.close with that code; answers it, and sees the end of file."""
        close = self.expect("connection.close", 0)
        assert close.args["reply_code"] == code, close.args
        self.send_method(0, "connection.close-ok")
        assert self.read() is None
        self.socket.close()
        return close.args["reply_text"]

    def acked_up_to(self, tag):
        """Reads basic.ack frames until every tag up to `tag` is acked."""
        self.acked_up_to_tags(set(range(1, tag + 1)))

    def acked_up_to_tags(self, open_tags):
        """Reads basic.ack frames until each of these tags is acked."""
        while open_tags:
            ack = self.expect("basic.ack").args
            if ack["multiple"]:
                open_tags = {t for t in open_tags if t > ack["delivery_tag"]}
            else:
                open_tags = open_tags - {ack["delivery_tag"]}

    # ---- ends ----

    def close(self):
        self.call(0, "connection.close", reply_code=200, reply_text="bye")
        self.socket.close()

    def publish_and_close(self, body, routing_key, channel=1):
        """In one write, so that no answer to the publish comes between."""
        self.send(amqp.publish_frames(channel, body, routing_key=routing_key,
                                      frame_max=self.frame_max) +
                  amqp.method_frame(0, "connection.close", reply_code=200, reply_text="bye"))
        self.expect("connection.close-ok")
        self.socket.close()

    def die(self):
        """Like a killed process."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
