#include "base/service.h"

#ifdef AMQPBUF_SYSTEMD

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <systemd/sd-daemon.h>

/* A name that was claimed or closed is NULL. */
static struct {
    int count;
    char **names;
} sockets;

static void give_up(int index)
{
    free(sockets.names[index]);
    sockets.names[index] = NULL;
    close(SD_LISTEN_FDS_START + index);
}

void service_take_sockets(void (*unusable)(const char *name, const char *reason))
{
    int count = sd_listen_fds_with_names(1, &sockets.names);
    if (count < 0)
        unusable(NULL, strerror(-count));
    sockets.count = count > 0 ? count : 0;
    for (int i = 0; i < sockets.count; i++) {
        if (sd_is_socket(SD_LISTEN_FDS_START + i, AF_UNSPEC, SOCK_STREAM, 1) > 0)
            continue;
        unusable(sockets.names[i], "it is no stream socket that listens");
        give_up(i);
    }
}

static bool listens_at(int fd, const char *address, int port)
{
    struct in_addr v4;
    struct in6_addr v6;
    struct sockaddr_storage storage = {0};
    socklen_t len = sizeof storage;
    if (getsockname(fd, (struct sockaddr *)&storage, &len) < 0)
        return false;
    const struct sockaddr_in *in = (struct sockaddr_in *)&storage;
    const struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&storage;
    if (storage.ss_family == AF_INET && inet_pton(AF_INET, address, &v4) == 1)
        return in->sin_addr.s_addr == v4.s_addr && ntohs(in->sin_port) == port;
    if (storage.ss_family == AF_INET6 && inet_pton(AF_INET6, address, &v6) == 1)
        return memcmp(&in6->sin6_addr, &v6, sizeof v6) == 0 && ntohs(in6->sin6_port) == port;
    return false;
}

int service_socket(const char *address, int port)
{
    for (int i = 0; i < sockets.count; i++) {
        if (!sockets.names[i] || !listens_at(SD_LISTEN_FDS_START + i, address, port))
            continue;
        free(sockets.names[i]);
        sockets.names[i] = NULL;
        return SD_LISTEN_FDS_START + i;
    }
    return -1;
}

/* As a person would write it; false: it is of another family. */
static bool name_of(int fd, char *out, size_t size)
{
    struct sockaddr_storage storage = {0};
    socklen_t len = sizeof storage;
    char host[INET6_ADDRSTRLEN];
    if (getsockname(fd, (struct sockaddr *)&storage, &len) < 0)
        return false;
    const struct sockaddr_in *in = (struct sockaddr_in *)&storage;
    const struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&storage;
    if (storage.ss_family == AF_INET && inet_ntop(AF_INET, &in->sin_addr, host, sizeof host))
        snprintf(out, size, "%s:%u", host, ntohs(in->sin_port));
    else if (storage.ss_family == AF_INET6 &&
             inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host))
        snprintf(out, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    else
        return false;
    return true;
}

void service_close_sockets(void (*unused)(const char *name, const char *address))
{
    char address[INET6_ADDRSTRLEN + sizeof "[]:65535"];
    for (int i = 0; i < sockets.count; i++) {
        if (!sockets.names[i])
            continue;
        bool is_known = name_of(SD_LISTEN_FDS_START + i, address, sizeof address);
        unused(sockets.names[i], is_known ? address : NULL);
        give_up(i);
    }
    free(sockets.names);
    sockets.names = NULL;
    sockets.count = 0;
}

void service_starting(uint64_t may_take_ms)
{
    sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, may_take_ms * 1000);
}

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

void service_stopping(uint64_t may_take_ms)
{
    sd_notifyf(0, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRIu64, may_take_ms * 1000);
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

void service_take_sockets(void (*unusable)(const char *name, const char *reason))
{
    (void)unusable;
}

int service_socket(const char *address, int port)
{
    (void)address, (void)port;
    return -1;
}

void service_close_sockets(void (*unused)(const char *name, const char *address))
{
    (void)unused;
}

void service_starting(uint64_t may_take_ms)
{
    (void)may_take_ms;
}

void service_ready(void) {}

void service_reloading(void) {}

void service_stopping(uint64_t may_take_ms)
{
    (void)may_take_ms;
}

void service_alive(uint64_t now_ms)
{
    (void)now_ms;
}

#endif
