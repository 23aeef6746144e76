#pragma once

/* A whole proxy in a thread of this process: real sockets on loopback, a spool in a folder of its
 * own, buffering on, and no RabbitMQ: its port is bound and refuses. */

#include <stdint.h>

/* Starts it; `unverified_logins` is the option's value. When the process exits the proxy is told to
 * stop as by SIGTERM, and must end with status 0: nothing is left open in its loop. */
void proxy_thread_start(const char *unverified_logins);

/* A socket that is connected to it. */
int proxy_thread_connect(void);
