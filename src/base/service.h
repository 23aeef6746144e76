#pragma once

/* What the service manager is told (sd_notify(3)); nothing without one, or without libsystemd. */

#include <stdint.h>

/* Takes over the sockets that the service manager has passed. Those that no stream comes in at are
 * named and closed; without a name: LISTEN_FDS itself is wrong, and none is there. To be called
 * before anything is opened, which would get the number of one that is missing. */
void service_take_sockets(void (*unusable)(const char *name, const char *reason));
/* A socket that listens at this numeric address and port and that the service manager holds open
 * while this process restarts (sd_listen_fds(3)), whatever it calls it. -1: there is none. The
 * caller owns it from then on, and gets it once. */
int service_socket(const char *address, int port);
/* Names and closes those that nobody has asked for; the address is NULL if it has no port. */
void service_close_sockets(void (*unused)(const char *name, const char *address));
/* The start takes longer than the service manager would wait for: so many milliseconds more may
 * pass until this is said again, or the process serves. */
void service_starting(uint64_t may_take_ms);
/* The process serves. */
void service_ready(void);
/* SIGHUP: until service_ready. */
void service_reloading(void);
/* So many milliseconds may pass until the process has ended. */
void service_stopping(uint64_t may_take_ms);
/* To be called again and again while the loop turns; tells it as often as the watchdog asks for. */
void service_alive(uint64_t now_ms);
