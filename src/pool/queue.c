#include "pool/queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "drain/drain.h"
#include "peer/runtime.h"
#include "pool/secrets.h"
#include "spooler/spooler.h"

static struct queue *queue_of(struct backlog *backlog)
{
    return LIST_ENTRY(backlog, struct queue, backlog);
}

static void on_changed(struct backlog *backlog)
{
    queue_changed(queue_of(backlog));
}

void queue_wake(struct queue *queue)
{
    for (struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        user->events->on_wake(user);
    }
}

static void on_promise_ended(struct backlog *backlog)
{
    queue_wake(queue_of(backlog));
}

static bool may_open(const struct backlog *backlog)
{
    const struct queue *queue = LIST_ENTRY(backlog, struct queue, backlog);
    for (const struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        const struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        if (!user->events->may_open(user))
            return false;
    }
    return true;
}

static const struct backlog_events backlog_events = {
    .on_changed = on_changed,
    .may_open = may_open,
    .on_promise_ended = on_promise_ended,
};

static uint64_t hash_of(const char *name, const char *vhost)
{
    return index_hash(vhost, index_hash(name, 0));
}

/* Two of one name would be one in the spool. */
struct queue *queue_find(const struct queues *queues, const char *identity, const char *vhost)
{
    for (struct index_node *n = index_find(&queues->by_name, hash_of(identity, vhost)); n;
         n = index_next(&queues->by_name, n)) {
        struct queue *queue = n->owner;
        if (strcmp(queue->vhost, vhost) == 0 &&
            (strcmp(queue->identity, identity) == 0 || strcmp(queue->user, identity) == 0))
            return queue;
    }
    return NULL;
}

static bool has_two_names(const struct queue *queue)
{
    return strcmp(queue->user, queue->identity) != 0;
}

struct queue *queue_new(struct runtime *rt, struct queues *queues, const char *user,
                        const char *identity, const char *vhost)
{
    struct queue *queue = calloc(1, sizeof *queue);
    ENSURE(queue);
    queue->rt = rt;
    queue->queues = queues;
    queue->user = strdup(user);
    queue->identity = strdup(identity);
    queue->vhost = strdup(vhost);
    ENSURE(queue->user && queue->identity && queue->vhost);
    list_init(&queue->users);
    queue->handle = handles_add(queue);
    backlog_init(&queue->backlog, queue->rt, &backlog_events, queue->user, queue->vhost);
    queue->made_ms = runtime_now(queue->rt);
    list_append(&queues->all, &queue->node);
    index_add(&queues->by_name, &queue->by_identity, hash_of(identity, vhost), queue);
    if (has_two_names(queue))
        index_add(&queues->by_name, &queue->by_user, hash_of(user, vhost), queue);
    return queue;
}

void queue_set_password(struct queue *queue, const char *password)
{
    secret_set(&queue->password, password);
}

void queue_free(struct queue *queue)
{
    ENSURE(list_empty(&queue->users));
    list_remove(&queue->node);
    index_remove(&queue->queues->by_name, &queue->by_identity);
    if (has_two_names(queue))
        index_remove(&queue->queues->by_name, &queue->by_user);
    handles_remove(queue->handle);
    backlog_deinit(&queue->backlog);
    secret_wipe(&queue->password);
    free(queue->user);
    free(queue->identity);
    free(queue->vhost);
    free(queue);
}

bool queue_has_backlog(const struct queue *queue)
{
    return queue->backlog.waiting + queue->appending > 0;
}

bool queue_must_drain(const struct queue *queue)
{
    return queue->backlog.waiting + queue->appending >
           queue->backlog.doubts.records + queue->backlog.doubts.appending;
}

bool queue_holds_few(const struct queue *queue)
{
    return !runtime_buffers(queue->rt) && queue->backlog.only_asides && queue->appending == 0;
}

bool queue_stores_first(const struct queue *queue)
{
    enum config_mode mode = queue->rt->config->spool.mode;
    return runtime_buffers(queue->rt) && queue->backlog.id && !queue->has_tokens &&
           (mode == MODE_ALWAYS || (mode == MODE_SLOW && queue->is_slow));
}

static void set_slow(struct queue *queue, bool is_slow)
{
    queue->is_slow = is_slow;
    LOG(LOG_INFO, is_slow ? "slow_started" : "slow_ended", LOG_T("user", queue->user),
        LOG_T("vhost", queue->vhost), LOG_N("ms", queue->backlog.confirm_ms));
}

void queue_note_late(struct queue *queue, uint64_t ms)
{
    if (queue->rt->config->spool.mode != MODE_SLOW || queue->is_slow)
        return;
    queue->backlog.confirm_ms = ms; /* what drains have measured before is past */
    set_slow(queue, true);
}

/* Nothing waits, and the last that did was confirmed in time. */
static void look_whether_slow(struct queue *queue)
{
    const struct config *config = queue->rt->config;
    bool is_fast = queue->backlog.confirm_ms < config->spool.slow_after_ms / 2;
    bool ends = config->spool.mode != MODE_SLOW || (is_fast && !queue_has_backlog(queue));
    if (queue->is_slow && ends)
        set_slow(queue, false);
}

static bool is_used(const struct queue *queue, uint64_t within_ms)
{
    uint64_t now_ms = runtime_now(queue->rt);
    for (struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        const struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        if (user->events->is_used(user, now_ms, within_ms))
            return true;
    }
    return false;
}

/* A drain without an end keeps its connection: as long as an idle one is kept. */
static void look_whether_followed(struct queue *queue)
{
    struct backlog *backlog = &queue->backlog;
    bool before = backlog->is_followed;
    backlog->is_followed = queue_stores_first(queue) && runtime_serves(queue->rt) &&
                           is_used(queue, queue->rt->config->pool.idle_timeout_ms);
    if (before && !backlog->is_followed && backlog->drain)
        drain_more(backlog->drain);
}

uint64_t queue_used(const struct queue *queue)
{
    return queue->backlog.waiting + queue->appending + queue->reserved + queue->committing +
           queue->retained;
}

uint64_t queue_room(const struct queue *queue)
{
    uint64_t limit = queue->rt->config->pool.publish_buffer_size, used = queue_used(queue);
    return used < limit ? limit - used : 0;
}

bool queue_has_room(const struct queue *queue)
{
    return queue_room(queue) > 0;
}

bool queue_has_room_for(const struct queue *queue, uint64_t destination)
{
    uint64_t limit = queue->rt->config->pool.publish_buffer_size;
    if (doubts_hold(&queue->backlog.doubts, destination) &&
        queue->backlog.doubts.records + queue->backlog.doubts.appending >= limit - limit / 4)
        return false;
    return queue_has_room(queue);
}

bool queue_holds(struct queue *queue)
{
    uint64_t now = runtime_now(queue->rt);
    if (!queue->backlog.drain || queue->backlog.paused || queue_stores_first(queue) ||
        queue->backlog.asides.count > 0 ||
        queue->backlog.waiting + queue->appending > backlog_window(&queue->backlog))
        return false;
    if (now >= queue->hold_again_ms) {
        queue->hold_until_ms = now + QUEUE_HOLD_MS;
        queue->hold_again_ms = now + QUEUE_HOLD_AGAIN_MS;
    }
    return now < queue->hold_until_ms;
}

void queue_drain_if_possible(struct queue *queue)
{
    /* What others have sent live and is not confirmed yet holds nothing up: a channel's own later
     * publishes wait for it in the router (P2). */
    look_whether_followed(queue);
    bool is_wanted = queue->backlog.waiting > queue->backlog.doubts.records ||
                     (queue->backlog.is_followed && !queue->backlog.alone);
    if (queue->backlog.drain || queue->backlog.paused || !is_wanted || !runtime_serves(queue->rt))
        return;
    for (struct list *n = queue->users.next; n != &queue->users && !queue->backlog.drain;
         n = n->next) {
        struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        struct upstream *u = user->events->pick_upstream(user);
        if (u)
            queue->backlog.drain = drain_start(&queue->backlog, u);
    }
}

/* ---- forgetting ---- */

static bool is_in_use(const struct queue *queue, uint64_t now_ms)
{
    uint64_t after = queue->rt->config->spool.forget_after_ms;
    return queue_used(queue) > 0 || queue->backlog.rejected > 0 || queue->backlog.drain ||
           now_ms - queue->made_ms < after || is_used(queue, after);
}

static void on_dropped(struct job *job)
{
    struct queue *queue = handles_get(job->owner);
    if (!queue)
        return;
    queue->dropping = false;
    if (job->status != STATUS_OK) { /* a message has come meanwhile, or the disk fails */
        LOG(LOG_INFO, "login_kept", LOG_T("user", queue->user), LOG_T("vhost", queue->vhost),
            LOG_T("reason", job->error));
        return;
    }
    LOG(LOG_INFO, "login_forgotten", LOG_T("user", queue->user), LOG_T("vhost", queue->vhost));
    backlog_was_dropped(&queue->backlog);
    secret_wipe(&queue->password);
    if (list_empty(&queue->users)) {
        queue_free(queue);
        return;
    }
    for (struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        user->events->on_forgotten(user);
    }
}

void queue_cleanup(struct queue *queue, uint64_t now_ms)
{
    look_whether_followed(queue);
    if (queue->backlog.id == 0 || queue->dropping ||
        queue->rt->config->spool.forget_after_ms == 0 || is_in_use(queue, now_ms))
        return;
    queue->dropping = true;
    spooler_post(queue->rt->spooler,
                 job_new(JOB_QUEUE_DROP, queue->backlog.id, on_dropped, queue->handle));
}

void queue_pause(struct queue *queue, bool paused)
{
    if (queue->backlog.paused == paused)
        return;
    queue->backlog.paused = paused;
    LOG(LOG_WARN, paused ? "drain_paused" : "drain_resumed", LOG_T("user", queue->user),
        LOG_T("vhost", queue->vhost), LOG_N("messages", queue->backlog.waiting));
    if (queue->backlog.drain)
        drain_more(queue->backlog.drain);
    queue_changed(queue);
}

void queue_note_seen(struct queue *queue, uint32_t kind, const uint8_t *name, size_t len)
{
    uint64_t hash = names_hash(kind, name, len);
    backlog_promise_ended(&queue->backlog, hash);
    names_note_seen(&queue->backlog.names, hash);
}

void queue_note_gone(struct queue *queue, uint32_t kind, const uint8_t *name, size_t len)
{
    names_note_gone(&queue->backlog.names, names_hash(kind, name, len));
}

void queue_note_missing(struct queue *queue, const char *text)
{
    names_note_missing(&queue->backlog.names, text, queue->vhost);
}

void queue_reconfigured(struct queue *queue)
{
    if (queue->backlog.drain)
        drain_more(queue->backlog.drain);
    queue_changed(queue);
}

void queue_wants_connection(struct queue *queue)
{
    for (struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        user->events->on_wanted(user);
    }
}

void queue_changed(struct queue *queue)
{
    look_whether_slow(queue);
    for (struct list *n = queue->users.next; n != &queue->users; n = n->next) {
        struct queue_user *user = LIST_ENTRY(n, struct queue_user, node);
        user->events->on_changed(user);
    }
    queue_drain_if_possible(queue);
}
