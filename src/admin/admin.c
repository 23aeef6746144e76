#include "admin/admin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "admin/door.h"
#include "admin/history.h"
#include "base/assert.h"
#include "base/log.h"
#include "base/service.h"

enum { BACKLOG = 64 };

struct admin {
    struct proxy *proxy;
    struct door port, control;
    uv_timer_t sampler;
    struct history history;
    unsigned parts; /* that are open */
    char control_path[sizeof((struct sockaddr_un *)0)->sun_path];
};

/* ---- listening ---- */

/* Binds and listens; a negative libuv error if that fails. */
static int listen_at(const struct sockaddr *name, socklen_t len)
{
    int one = 1;
    int fd = socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return uv_translate_sys_error(errno);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* Of the file that bind makes of a path: a umask would be other threads' too. */
    fchmod(fd, 0600);
    if (bind(fd, name, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int status = uv_translate_sys_error(errno);
    close(fd);
    return status;
}

static int listen_on_port(const char *address, int port)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr *name = (struct sockaddr *)&storage;
    if (uv_ip4_addr(address, port, (struct sockaddr_in *)&storage) < 0) {
        int status = uv_ip6_addr(address, port, (struct sockaddr_in6 *)&storage);
        if (status < 0)
            return status;
    }
    return listen_at(name, name->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                                      : sizeof(struct sockaddr_in6));
}

/* The spool is locked: a socket that is there already is a dead proxy's. */
static int listen_on_path(const char *path)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, path, strlen(path) + 1);
    if (unlink(path) < 0 && errno != ENOENT)
        return uv_translate_sys_error(errno);
    return listen_at((struct sockaddr *)&name, sizeof name);
}

/* ---- parts ---- */

static void closed(struct admin *admin)
{
    if (--admin->parts == 0)
        free(admin);
}

static void on_port_closed(struct door *door)
{
    closed(LIST_ENTRY(door, struct admin, port));
}

static void on_control_closed(struct door *door)
{
    closed(LIST_ENTRY(door, struct admin, control));
}

static void on_sampler_closed(uv_handle_t *handle)
{
    closed(LIST_ENTRY((uv_timer_t *)handle, struct admin, sampler));
}

static bool open_door(struct admin *admin, struct door *door, int fd)
{
    door->proxy = admin->proxy;
    door->history = &admin->history;
    if (fd < 0 || !door_open(door, fd))
        return false;
    admin->parts++;
    return true;
}

static bool open_port(struct admin *admin)
{
    const char *address = admin->proxy->rt.config->admin.address;
    int port = admin->proxy->rt.config->admin.port;
    if (port == 0)
        return true;
    int fd = service_socket(address, port);
    if (fd < 0)
        fd = listen_on_port(address, port);
    admin->port.on_closed = on_port_closed;
    if (open_door(admin, &admin->port, fd)) {
        LOG(LOG_INFO, "admin_listening", LOG_T("address", address), LOG_N("port", port));
        return true;
    }
    LOG(LOG_ERROR, "cannot_listen", LOG_T("for", "admin"), LOG_T("address", address),
        LOG_N("port", port),
        LOG_T("reason", fd < 0 ? uv_strerror(fd) : "the HTTP server does not start"));
    return false;
}

/* Without it amqpbuf-ctl cannot be used: no reason to serve nobody. */
static void open_control(struct admin *admin)
{
    const char *spool = admin->proxy->rt.config->spool.path;
    if (!admin->proxy->rt.spooler)
        return;
    int len = snprintf(admin->control_path, sizeof admin->control_path, "%s/control.sock", spool);
    int fd = (size_t)len < sizeof admin->control_path ? listen_on_path(admin->control_path)
                                                      : UV_ENAMETOOLONG;
    admin->control.commands = true;
    admin->control.on_closed = on_control_closed;
    if (!open_door(admin, &admin->control, fd))
        LOG(LOG_WARN, "no_control_socket", LOG_T("path", spool),
            LOG_T("reason", fd < 0 ? uv_strerror(fd) : "the HTTP server does not start"));
}

static void on_sample(uv_timer_t *timer)
{
    struct admin *admin = LIST_ENTRY(timer, struct admin, sampler);
    struct snapshot snapshot;
    snapshot_take(&snapshot, admin->proxy);
    history_add(&admin->history, &snapshot);
    snapshot_free(&snapshot);
}

/* ---- start and end ---- */

static bool admin_open(struct proxy *proxy, void **self)
{
    struct admin *admin = calloc(1, sizeof *admin);
    ENSURE(admin);
    admin->proxy = proxy;
    if (!open_port(admin)) {
        free(admin);
        return false;
    }
    open_control(admin);
    ENSURE(uv_timer_init(&proxy->rt.loop, &admin->sampler) == 0);
    ENSURE(uv_timer_start(&admin->sampler, on_sample, 0, HISTORY_STEP_MS) == 0);
    admin->parts++;
    *self = admin;
    return true;
}

static void admin_close(void *self)
{
    struct admin *admin = self;
    if (admin->port.daemon)
        door_close(&admin->port);
    if (admin->control.daemon) {
        door_close(&admin->control);
        unlink(admin->control_path);
    }
    uv_close((uv_handle_t *)&admin->sampler, on_sampler_closed);
}

const struct proxy_side admin_side = {admin_open, admin_close};
