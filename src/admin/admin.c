#include "admin/admin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "admin/history.h"
#include "admin/reply.h"
#include "base/assert.h"
#include "base/log.h"

/* libmicrohttpd without a thread of its own: its sockets are in an epoll instance, whose descriptor
 * becomes readable when there is something to do. The loop polls that descriptor, and runs the
 * server when it is, or when the server asked for a time.
 *
 * Each connection is for one request, and has REQUEST_MAX_MS for all of it: who sends or reads too
 * slowly is cut off by a shutdown of the socket, which the server sees as the peer's end. */

enum {
    CONNECTIONS_MAX = 64,
    CONNECTION_BYTES =
        16 * 1024, /* memory for a request's line and header fields, and its reply's */
    REQUEST_MAX_MS = 10000,
    BACKLOG = 64,
};

struct admin {
    struct proxy *proxy;
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer, sampler;
    struct history history;
    unsigned open_handles;
    struct list guests; /* the longest here first */
};

/* A connection. */
struct guest {
    struct list node; /* in admin->guests */
    struct MHD_Connection *connection;
    uint64_t deadline_ms;
};

/* ---- requests ---- */

/* The page may run what it brings, and talk to where it came from; nothing else. */
static const char policy[] = "default-src 'none'; script-src 'unsafe-inline'; "
                             "style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
                             "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **request)
{
    (void)version, (void)upload, (void)upload_len, (void)request;
    struct admin *admin = arg;
    struct reply reply;
    reply_make(&reply, admin->proxy, &admin->history, method, url);
    struct MHD_Response *response = MHD_create_response_from_buffer(
        reply.len, (void *)(uintptr_t)reply.text,
        reply.owned ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!response) {
        if (reply.owned)
            free((void *)(uintptr_t)reply.text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply.type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    MHD_add_response_header(response, "Content-Security-Policy", policy);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (reply.status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, reply.status, response);
    MHD_destroy_response(response);
    return result;
}

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct admin *admin = arg;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        struct guest *guest = calloc(1, sizeof *guest);
        ENSURE(guest);
        guest->connection = connection;
        guest->deadline_ms = proxy_now(admin->proxy) + REQUEST_MAX_MS;
        list_append(&admin->guests, &guest->node);
        *context = guest;
    } else {
        struct guest *guest = *context;
        list_remove(&guest->node);
        free(guest);
    }
}

/* ---- the loop ---- */

static void cut_off_slow(struct admin *admin, uint64_t now)
{
    for (struct list *n = admin->guests.next; n != &admin->guests; n = n->next) {
        struct guest *guest = LIST_ENTRY(n, struct guest, node);
        if (guest->deadline_ms > now)
            return;
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(guest->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (info)
            shutdown(info->connect_fd, SHUT_RDWR);
        guest->deadline_ms = UINT64_MAX; /* it goes with the server's next look at it */
    }
}

static void run(struct admin *admin);

static void on_timer(uv_timer_t *timer)
{
    run(timer->data);
}

static void schedule(struct admin *admin, uint64_t now)
{
    uint64_t wait_ms = UINT64_MAX;
    MHD_UNSIGNED_LONG_LONG wanted_ms;
    if (MHD_get_timeout(admin->daemon, &wanted_ms) == MHD_YES)
        wait_ms = wanted_ms;
    struct list *oldest = list_first(&admin->guests);
    if (oldest) {
        uint64_t deadline_ms = LIST_ENTRY(oldest, struct guest, node)->deadline_ms;
        if (deadline_ms > now && deadline_ms - now < wait_ms)
            wait_ms = deadline_ms - now;
    }
    if (wait_ms < UINT64_MAX)
        uv_timer_start(&admin->timer, on_timer, wait_ms, 0);
    else
        uv_timer_stop(&admin->timer);
}

static void run(struct admin *admin)
{
    uint64_t now = proxy_now(admin->proxy);
    cut_off_slow(admin, now);
    MHD_run(admin->daemon);
    schedule(admin, now);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    run(poll->data);
}

/* ---- start and end ---- */

/* A listening socket, or a negative libuv error. */
static int listen_on(const char *address, int port)
{
    struct sockaddr_storage storage = {0};
    struct sockaddr *name = (struct sockaddr *)&storage;
    if (uv_ip4_addr(address, port, (struct sockaddr_in *)&storage) < 0) {
        int status = uv_ip6_addr(address, port, (struct sockaddr_in6 *)&storage);
        if (status < 0)
            return status;
    }
    int one = 1;
    int fd = socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return uv_translate_sys_error(errno);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    socklen_t len =
        name->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (bind(fd, name, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int status = uv_translate_sys_error(errno);
    close(fd);
    return status;
}

static struct MHD_Daemon *serve(struct admin *admin, int fd)
{
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, on_request, admin, MHD_OPTION_LISTEN_SOCKET,
                         fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES,
                         MHD_OPTION_NOTIFY_CONNECTION, on_connection, admin, MHD_OPTION_END);
    if (!daemon)
        close(fd);
    return daemon;
}

static void on_sample(uv_timer_t *timer)
{
    struct admin *admin = timer->data;
    struct snapshot snapshot;
    snapshot_take(&snapshot, admin->proxy);
    history_add(&admin->history, &snapshot);
    snapshot_free(&snapshot);
}

static void watch(struct admin *admin)
{
    uv_loop_t *loop = &admin->proxy->loop;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(admin->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    ENSURE(info);
    ENSURE(uv_poll_init(loop, &admin->poll, info->epoll_fd) == 0);
    ENSURE(uv_timer_init(loop, &admin->timer) == 0);
    ENSURE(uv_timer_init(loop, &admin->sampler) == 0);
    admin->poll.data = admin->timer.data = admin->sampler.data = admin;
    admin->open_handles = 3;
    ENSURE(uv_timer_start(&admin->sampler, on_sample, 0, HISTORY_STEP_MS) == 0);
    ENSURE(uv_poll_start(&admin->poll, UV_READABLE, on_poll) == 0);
    run(admin);
}

static bool admin_open(struct proxy *proxy, void **self)
{
    const char *address = proxy->config->admin.address;
    int port = proxy->config->admin.port;
    if (port == 0)
        return true;
    struct admin *admin = calloc(1, sizeof *admin);
    ENSURE(admin);
    admin->proxy = proxy;
    list_init(&admin->guests);
    int fd = listen_on(address, port);
    if (fd >= 0)
        admin->daemon = serve(admin, fd);
    if (!admin->daemon) {
        LOG(LOG_ERROR, "cannot_listen", LOG_T("for", "admin"), LOG_T("address", address),
            LOG_N("port", port),
            LOG_T("reason", fd < 0 ? uv_strerror(fd) : "the HTTP server does not start"));
        free(admin);
        return false;
    }
    watch(admin);
    LOG(LOG_INFO, "admin_listening", LOG_T("address", address), LOG_N("port", port));
    *self = admin;
    return true;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct admin *admin = handle->data;
    if (--admin->open_handles == 0)
        free(admin);
}

static void admin_close(void *self)
{
    struct admin *admin = self;
    /* The loop lets go of the descriptor before the server closes it. */
    uv_close((uv_handle_t *)&admin->poll, on_handle_closed);
    uv_close((uv_handle_t *)&admin->timer, on_handle_closed);
    uv_close((uv_handle_t *)&admin->sampler, on_handle_closed);
    MHD_stop_daemon(admin->daemon);
    ENSURE(list_empty(&admin->guests));
}

const struct proxy_side admin_side = {admin_open, admin_close};
