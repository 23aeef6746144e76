#pragma once

/* A whole proxy in a thread of this process: real sockets on loopback, a spool in a folder of its
 * own, and buffering on. */

#include <stdint.h>

/* Starts it; `unverified_logins` is the option's value, `upstream_port` that of RabbitMQ, 0 for
 * none: a port that is bound and refuses. When the process exits the proxy is told to stop as by
 * SIGTERM, and must end with status 0: nothing is left open in its loop. */
void proxy_thread_start(const char *unverified_logins, uint16_t upstream_port);

/* A socket that is connected to it. */
int proxy_thread_connect(void);
