#pragma once

/* What the service manager is told (sd_notify(3)); nothing without one, or without libsystemd. */

#include <stdint.h>

/* The process serves. */
void service_ready(void);
/* SIGHUP: until service_ready. */
void service_reloading(void);
void service_stopping(void);
/* To be called again and again while the loop turns; tells it as often as the watchdog asks for. */
void service_alive(uint64_t now_ms);
