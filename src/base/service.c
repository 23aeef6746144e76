#include "base/service.h"

#ifdef AMQPBUF_SYSTEMD

#include <inttypes.h>
#include <time.h>

#include <systemd/sd-daemon.h>

void service_ready(void)
{
    sd_notify(0, "READY=1");
}

/* The time makes it a reload that systemd can wait for (Type=notify-reload). */
void service_reloading(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
               (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
}

void service_stopping(void)
{
    sd_notify(0, "STOPPING=1");
}

void service_alive(uint64_t now_ms)
{
    static uint64_t told_ms;
    uint64_t limit_us;
    if (sd_watchdog_enabled(0, &limit_us) <= 0 || now_ms - told_ms < limit_us / 1000 / 3)
        return;
    told_ms = now_ms;
    sd_notify(0, "WATCHDOG=1");
}

#else

void service_ready(void) {}

void service_reloading(void) {}

void service_stopping(void) {}

void service_alive(uint64_t now_ms)
{
    (void)now_ms;
}

#endif
