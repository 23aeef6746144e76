#pragma once

/* The admin port and the control socket: HTTP for people, Prometheus, health checks and
 * amqpbuf-ctl, on the proxy's own loop. The port only reads; the socket, SPOOL/control.sock, is
 * for the proxy's own user alone, and takes commands too. */

#include "proxy/proxy.h"

/* Listens on admin.address and admin.port unless the port is 0, and on the control socket if there
 * is a spool. A port that cannot be listened on is logged and ends the start; a socket that cannot
 * is logged. */
extern const struct proxy_side admin_side;
