#pragma once

/* The admin port: HTTP for people, Prometheus and health checks, on the proxy's own loop. It takes
 * snapshots and changes nothing. */

#include "proxy/proxy.h"

/* Listens on admin.address and admin.port; does nothing if the port is 0. An address that cannot
 * be listened on is logged and ends the start. */
extern const struct proxy_side admin_side;
