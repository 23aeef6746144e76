#include "admin/door.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "admin/command.h"
#include "admin/reply.h"
#include "base/assert.h"
#include "base/handles.h"
#include "proxy/listener.h"
#include "proxy/proxy.h"

/* libmicrohttpd without a thread of its own: its sockets are in an epoll instance, whose descriptor
 * becomes readable when there is something to do. The loop polls that descriptor, and runs the
 * server when it is, or when the server asked for a time.
 *
 * Each connection is for one request, and has a time for it: who sends or reads too slowly is cut
 * off by a shutdown of the socket, which the server sees as the peer's end. So is the oldest when
 * there are many, or a crowd that says nothing would keep a health check waiting. A command is
 * answered later: its connection is suspended until then, and has as much time again for the
 * answer. */

enum {
    CONNECTIONS_MAX = LISTENER_SIDE_CONNECTIONS / 2, /* the port's, and the control socket's */
    IDLE_MAX = CONNECTIONS_MAX - 12, /* the server takes 11 at once, and is never full of these */
    REQUEST_MAX_MS = 10000, /* all of it; of a command until it is run, and from its answer on */
    CONNECTION_BYTES = 16 * 1024, /* for a request's line and header fields, and its reply's */
};

/* A connection. */
struct guest {
    struct list node; /* in door->guests, unless its command is under way or it was cut off */
    struct MHD_Connection *connection;
    uint64_t deadline_ms;
};

/* A POST. */
struct request {
    struct list node; /* in door->requests while it is under way */
    uint64_t handle;
    struct door *door;
    struct MHD_Connection *connection;
    bool has_body, is_begun, is_answered;
    struct reply reply;
};

static void on_timer(uv_timer_t *timer);

/* ---- deadlines ---- */

static struct guest *guest_of(struct MHD_Connection *connection)
{
    return MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* All have the same time: the last to get it is the last to be cut off. */
static void set_deadline(struct door *door, struct guest *guest)
{
    guest->deadline_ms = runtime_now(&door->proxy->rt) + REQUEST_MAX_MS;
    list_remove(&guest->node);
    list_append(&door->guests, &guest->node);
}

/* It goes with the server's next look at it. */
static void cut_off(struct guest *guest)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(guest->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info)
        shutdown(info->connect_fd, SHUT_RDWR);
    list_remove(&guest->node);
}

static void cut_off_slow(struct door *door, uint64_t now)
{
    struct list *node;
    while ((node = list_first(&door->guests)) != NULL) {
        struct guest *guest = LIST_ENTRY(node, struct guest, node);
        if (guest->deadline_ms > now)
            return;
        cut_off(guest);
    }
}

static void cut_off_oldest_of_many(struct door *door)
{
    unsigned count = 0;
    for (struct list *n = door->guests.next; n != &door->guests; n = n->next)
        count++;
    if (count > IDLE_MAX)
        cut_off(LIST_ENTRY(list_first(&door->guests), struct guest, node));
}

/* ---- replies ---- */

/* The page may run what it brings, and talk to where it came from; nothing else. */
static const char policy[] = "default-src 'none'; script-src 'unsafe-inline'; "
                             "style-src 'unsafe-inline'; img-src data:; connect-src 'self'; "
                             "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static enum MHD_Result send_reply(struct MHD_Connection *connection, const struct reply *reply)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        reply->len, (void *)(uintptr_t)reply->text,
        reply->owned ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!response) {
        reply_free(reply);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    MHD_add_response_header(response, "Content-Security-Policy", policy);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (reply->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, reply->status, response);
    MHD_destroy_response(response);
    return result;
}

/* ---- commands ---- */

static void on_command_done(uint64_t handle, struct reply *reply)
{
    struct request *request = handles_get(handle);
    if (!request) { /* whoever asked is gone */
        reply_free(reply);
        return;
    }
    request->reply = *reply;
    request->is_answered = true;
    list_remove(&request->node);
    set_deadline(request->door, guest_of(request->connection));
    MHD_resume_connection(request->connection);
    request->door->has_answer = true;
    uv_timer_start(&request->door->timer, on_timer, 0, 0);
}

static struct request *new_request(struct door *door, struct MHD_Connection *connection)
{
    struct request *request = calloc(1, sizeof *request);
    ENSURE(request);
    request->door = door;
    request->connection = connection;
    request->handle = handles_add(request);
    list_init(&request->node);
    return request;
}

static enum MHD_Result take_parameter(void *arg, enum MHD_ValueKind kind, const char *key,
                                      size_t key_len, const char *value, size_t value_len)
{
    (void)kind;
    command_take(arg, key, key_len, value, value_len);
    return MHD_YES;
}

static void begin(struct request *request, const char *url)
{
    struct command_parameters parameters = {0};
    MHD_get_connection_values_n(request->connection, MHD_GET_ARGUMENT_KIND, take_parameter,
                                &parameters);
    if (request->has_body) /* a form's, whose fields are meant to say something */
        parameters.mistake = "a command has no body: seq=NUMBER stands behind a ?\n";
    request->is_begun = true;
    list_append(&request->door->requests, &request->node);
    list_remove(&guest_of(request->connection)->node);
    MHD_suspend_connection(request->connection);
    command_run(request->door->proxy, url, &parameters, on_command_done, request->handle);
}

static enum MHD_Result on_post(struct door *door, struct MHD_Connection *connection,
                               const char *url, size_t *upload_len, void **context)
{
    struct request *request = *context;
    if (!request) {
        *context = new_request(door, connection);
        return MHD_YES; /* its body comes first */
    }
    if (*upload_len > 0) {
        *upload_len = 0;
        request->has_body = true;
        return MHD_YES;
    }
    if (!request->is_begun) {
        begin(request, url);
        return MHD_YES;
    }
    return request->is_answered ? send_reply(connection, &request->reply) : MHD_YES;
}

static void on_completed(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode why)
{
    (void)arg, (void)connection, (void)why;
    struct request *request = *context;
    if (!request)
        return;
    list_remove(&request->node);
    handles_remove(request->handle);
    free(request);
    *context = NULL;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **context)
{
    (void)version, (void)upload;
    struct door *door = arg;
    if (door->commands && strcmp(method, MHD_HTTP_METHOD_POST) == 0)
        return on_post(door, connection, url, upload_len, context);
    struct reply reply;
    struct question question = {.method = method, .path = url};
    if (!door->commands) /* no browser opens a socket by its path */
        question.host =
            MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST);
    reply_make(&reply, door->proxy, door->history, &question);
    return send_reply(connection, &reply);
}

/* ---- connections ---- */

static void on_connection(void *arg, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct door *door = arg;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        struct guest *guest = calloc(1, sizeof *guest);
        ENSURE(guest);
        guest->connection = connection;
        list_init(&guest->node);
        set_deadline(door, guest);
        door->guest_count++;
        *context = guest;
        cut_off_oldest_of_many(door);
    } else {
        struct guest *guest = *context;
        list_remove(&guest->node);
        door->guest_count--;
        free(guest);
    }
}

/* ---- the loop ---- */

static void schedule(struct door *door, uint64_t now)
{
    uint64_t wait_ms = UINT64_MAX;
    MHD_UNSIGNED_LONG_LONG wanted_ms;
    if (MHD_get_timeout(door->daemon, &wanted_ms) == MHD_YES)
        wait_ms = wanted_ms;
    if (door->has_answer)
        wait_ms = 0;
    struct list *oldest = list_first(&door->guests);
    if (oldest) {
        uint64_t deadline_ms = LIST_ENTRY(oldest, struct guest, node)->deadline_ms;
        if (deadline_ms > now && deadline_ms - now < wait_ms)
            wait_ms = deadline_ms - now;
    }
    if (wait_ms < UINT64_MAX)
        uv_timer_start(&door->timer, on_timer, wait_ms, 0);
    else
        uv_timer_stop(&door->timer);
}

static void run(struct door *door)
{
    uint64_t now = runtime_now(&door->proxy->rt);
    cut_off_slow(door, now);
    door->has_answer = false;
    bool was_full = door->guest_count >= CONNECTIONS_MAX;
    MHD_run(door->daemon);
    /* While full it does not listen, and it begins to again with its next run, not at once. */
    if (was_full && door->guest_count < CONNECTIONS_MAX)
        MHD_run(door->daemon);
    schedule(door, now);
}

static void on_timer(uv_timer_t *timer)
{
    run(LIST_ENTRY(timer, struct door, timer));
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    run(LIST_ENTRY(poll, struct door, poll));
}

/* ---- start and end ---- */

bool door_open(struct door *door, int fd)
{
    uv_loop_t *loop = &door->proxy->rt.loop;
    list_init(&door->guests);
    list_init(&door->requests);
    door->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, door,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, door, MHD_OPTION_NOTIFY_COMPLETED, on_completed, door, MHD_OPTION_END);
    if (!door->daemon) {
        close(fd);
        return false;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(door->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    ENSURE(info);
    ENSURE(uv_poll_init(loop, &door->poll, info->epoll_fd) == 0);
    ENSURE(uv_timer_init(loop, &door->timer) == 0);
    door->open_handles = 2;
    ENSURE(uv_poll_start(&door->poll, UV_READABLE, on_poll) == 0);
    run(door);
    return true;
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct door *door = LIST_ENTRY((uv_poll_t *)handle, struct door, poll);
    if (--door->open_handles == 0)
        door->on_closed(door);
}

static void on_timer_closed(uv_handle_t *handle)
{
    struct door *door = LIST_ENTRY((uv_timer_t *)handle, struct door, timer);
    if (--door->open_handles == 0)
        door->on_closed(door);
}

void door_close(struct door *door)
{
    struct list *node;
    while ((node = list_first(&door->requests)) != NULL) { /* suspended ones cannot be closed */
        list_remove(node);
        MHD_resume_connection(LIST_ENTRY(node, struct request, node)->connection);
    }
    MHD_run(door->daemon);
    /* The loop lets go of the descriptor before the server closes it. */
    uv_close((uv_handle_t *)&door->poll, on_poll_closed);
    uv_close((uv_handle_t *)&door->timer, on_timer_closed);
    MHD_stop_daemon(door->daemon);
    ENSURE(door->guest_count == 0);
}
