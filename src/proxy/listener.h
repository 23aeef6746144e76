#pragma once

/* Where publishers come in: a port for plain AMQP and one for AMQP over TLS. */

#include <stdbool.h>

#include <uv.h>

struct certificates;
struct clients;
struct config;
struct runtime;

/* Descriptors that clients leave to who asks the proxy's side (proxy_struct.h). */
enum { LISTENER_SIDE_CONNECTIONS = 64 };

struct listener {
    uv_tcp_t tcp;
    struct runtime *rt;
    struct clients *clients;
    const struct certificates *certificates; /* NULL: plain */
};

/* Takes as many file descriptors as the process may have. Says so if clients can have fewer of them
 * than the configuration allows; false, after a line in the log, if hardly any are left for them.
 */
bool listener_take_descriptors(const struct config *);
/* Prepares the handle; from now on it must be closed with uv_close. With certificates (as they are
 * when a client comes) it is that of TLS. */
void listener_init(struct listener *, struct runtime *, struct clients *,
                   const struct certificates *);
/* Listens on listen.address and its port (on the service manager's socket if it has one there);
 * does nothing if the port is 0. False, after a line in the log, if it cannot. */
bool listener_start(struct listener *);
