"""An outage, with something that waits."""

from .raw import RawClient


def spool(broker, proxy, bodies):
    """Leaves the scripted broker down, and the bodies in the spool."""
    RawClient(proxy.port).close()  # the login has to be known
    broker.down()
    proxy.wait_event("upstream_lost")
    with RawClient(proxy.port) as client:
        client.open_channel(confirms=True)
        for body in bodies:
            client.publish(body, "q")
        client.acked_up_to(len(bodies))
        client.close()
