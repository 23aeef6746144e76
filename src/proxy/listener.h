#pragma once

/* Where publishers come in: a port for plain AMQP and one for AMQP over TLS. */

#include <stdbool.h>

#include <uv.h>

struct proxy;

struct listener {
    uv_tcp_t tcp;
    struct proxy *proxy;
    bool tls;
};

/* Takes as many file descriptors as the process may have. */
void listener_raise_descriptors(void);
/* Prepares the handle; from now on it must be closed with uv_close. */
void listener_init(struct listener *, struct proxy *, bool tls);
/* Listens on listen.address and its port (on the service manager's socket "amqp" or "amqps" if that
 * is the same); does nothing if the port is 0. False, after a line in the log, if it cannot. */
bool listener_start(struct listener *);
