#include "proxy/queue.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "base/handles.h"
#include "base/log.h"
#include "proxy/drain.h"
#include "proxy/pool.h"
#include "proxy/runtime.h"
#include "proxy/spooler.h"
#include "spool/credential.h"

/* Two of one name would be one in the spool. */
struct queue *queue_find(struct pools *all, const char *identity, const char *vhost)
{
    for (struct list *n = all->queues.next; n != &all->queues; n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        if (strcmp(queue->vhost, vhost) == 0 &&
            (strcmp(queue->identity, identity) == 0 || strcmp(queue->user, identity) == 0))
            return queue;
    }
    return NULL;
}

struct queue *queue_new(struct pools *all, const char *user, const char *identity,
                        const char *vhost)
{
    struct queue *queue = calloc(1, sizeof *queue);
    ENSURE(queue);
    queue->rt = all->rt;
    queue->user = strdup(user);
    queue->identity = strdup(identity);
    queue->vhost = strdup(vhost);
    ENSURE(queue->user && queue->identity && queue->vhost);
    list_init(&queue->pools);
    queue->doubts.pass = 1;
    queue->handle = handles_add(queue);
    queue->made_ms = runtime_now(queue->rt);
    list_append(&all->queues, &queue->node);
    return queue;
}

void queue_set_password(struct queue *queue, const char *password)
{
    char *copy = strdup(password);
    ENSURE(copy);
    if (queue->password)
        credential_wipe(queue->password, strlen(queue->password));
    free(queue->password);
    queue->password = copy;
}

void queue_free(struct queue *queue)
{
    ENSURE(list_empty(&queue->pools) && !queue->drain);
    list_remove(&queue->node);
    handles_remove(queue->handle);
    window_clear(&queue->doubts.owed);
    if (queue->password)
        credential_wipe(queue->password, strlen(queue->password));
    free(queue->password);
    asides_clear(&queue->asides);
    declared_clear(&queue->declared);
    declared_clear(&queue->seen);
    declared_clear(&queue->promised);
    free(queue->user);
    free(queue->identity);
    free(queue->vhost);
    free(queue);
}

bool queue_has_backlog(const struct queue *queue)
{
    return queue->waiting + queue->appending > 0;
}

bool queue_must_drain(const struct queue *queue)
{
    return queue->waiting + queue->appending > queue->doubts.records + queue->doubts.appending;
}

uint64_t queue_used(const struct queue *queue)
{
    return queue->waiting + queue->appending + queue->reserved + queue->retained;
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
    if (doubts_hold(queue, destination) &&
        queue->doubts.records + queue->doubts.appending >= limit - limit / 4)
        return false;
    return queue_has_room(queue);
}

bool queue_holds(struct queue *queue)
{
    uint64_t now = runtime_now(queue->rt);
    if (!queue->drain || queue->paused || queue->asides.count > 0 ||
        queue->waiting + queue->appending > queue->rt->config->drain.window)
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
    if (queue->drain || queue->paused || queue->waiting <= queue->doubts.records ||
        !runtime_serves(queue->rt))
        return;
    for (struct list *n = queue->pools.next; n != &queue->pools && !queue->drain; n = n->next) {
        struct pool *pool = LIST_ENTRY(n, struct pool, queue_node);
        if (pool->state == POOL_DRAINING)
            queue->drain = drain_start(queue, pool);
    }
}

/* ---- forgetting ---- */

static bool is_in_use(const struct queue *queue, uint64_t now_ms)
{
    uint64_t after = queue->rt->config->spool.forget_after_ms;
    if (queue_used(queue) > 0 || queue->rejected > 0 || queue->drain ||
        now_ms - queue->made_ms < after)
        return true;
    for (struct list *n = queue->pools.next; n != &queue->pools; n = n->next) {
        const struct pool *pool = LIST_ENTRY(n, struct pool, queue_node);
        if (pool->client_count > 0 || pool->pinned || now_ms - pool->idle_since_ms < after)
            return true;
    }
    return false;
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
    queue->id = 0;
    if (list_empty(&queue->pools)) {
        queue_free(queue);
        return;
    }
    for (struct list *n = queue->pools.next; n != &queue->pools; n = n->next)
        pool_forgotten(LIST_ENTRY(n, struct pool, queue_node));
}

void queue_cleanup(struct queue *queue, uint64_t now_ms)
{
    if (queue->id == 0 || queue->dropping || queue->rt->config->spool.forget_after_ms == 0 ||
        is_in_use(queue, now_ms))
        return;
    queue->dropping = true;
    spooler_post(queue->rt->spooler, job_new(JOB_QUEUE_DROP, queue->id, on_dropped, queue->handle));
}

void queue_pause(struct queue *queue, bool paused)
{
    if (queue->paused == paused)
        return;
    queue->paused = paused;
    LOG(LOG_WARN, paused ? "drain_paused" : "drain_resumed", LOG_T("user", queue->user),
        LOG_T("vhost", queue->vhost), LOG_N("messages", queue->waiting));
    if (queue->drain)
        drain_more(queue->drain);
    queue_changed(queue);
}

/* ---- names ---- */

static uint64_t hash_of_name(uint32_t method, const uint8_t *name, size_t len)
{
    uint8_t bytes[4 + 255];
    wire_put32(bytes, method);
    if (len > 255)
        len = 255;
    if (len > 0)
        memcpy(bytes + 4, name, len);
    return declared_hash(bytes, 4 + len);
}

static void note(struct queue *queue, uint64_t name)
{
    if (queue->seen.count < QUEUE_SEEN_MAX)
        declared_add(&queue->seen, name);
}

void queue_note_seen(struct queue *queue, uint32_t method, const uint8_t *name, size_t len)
{
    uint64_t hash = hash_of_name(method, name, len);
    queue_promise_ended(queue, hash);
    note(queue, hash);
}

void queue_promise(struct queue *queue, uint32_t method, const uint8_t *name, size_t len,
                   bool transient)
{
    uint64_t hash = hash_of_name(method, name, len);
    bool is_there = !transient && queue_has_seen(queue, method, name, len) &&
                    !declared_has(&queue->promised, hash);
    note(queue, hash);
    if (!is_there && queue->promised.count < QUEUE_SEEN_MAX)
        declared_add(&queue->promised, hash);
}

/* Both begin with two reserved octets and the name as a short string (1.6.2.1, 1.7.2.1). */
uint64_t queue_promise_of(const uint8_t *payload, size_t len)
{
    enum { NAME_AT = 6 }; /* behind class and method */
    uint32_t method = method_number(payload, len);
    bool declares = method == AMQP_QUEUE_DECLARE_METHOD || method == AMQP_EXCHANGE_DECLARE_METHOD;
    if (!declares || len <= NAME_AT || len - NAME_AT - 1 < payload[NAME_AT])
        return 0;
    return hash_of_name(method, payload + NAME_AT + 1, payload[NAME_AT]);
}

void queue_promise_ended(struct queue *queue, uint64_t promise)
{
    if (!promise || !declared_has(&queue->promised, promise))
        return;
    declared_remove(&queue->promised, promise);
    for (struct list *n = queue->pools.next; n != &queue->pools; n = n->next)
        pool_wake(LIST_ENTRY(n, struct pool, queue_node));
}

bool queue_is_promised(const struct queue *queue, uint32_t method, const uint8_t *name, size_t len)
{
    return queue->promised.count > 0 &&
           declared_has(&queue->promised, hash_of_name(method, name, len));
}

/* What is built in is always there; of too many names nothing is known any more. */
bool queue_has_seen(const struct queue *queue, uint32_t method, const uint8_t *name, size_t len)
{
    return len == 0 || (len >= 4 && memcmp(name, "amq.", 4) == 0) ||
           queue->seen.count >= QUEUE_SEEN_MAX ||
           declared_has(&queue->seen, hash_of_name(method, name, len));
}

void queue_reconfigured(struct queue *queue)
{
    if (queue->drain)
        drain_more(queue->drain);
    queue_changed(queue);
}

void queue_changed(struct queue *queue)
{
    for (struct list *n = queue->pools.next; n != &queue->pools; n = n->next) {
        struct pool *pool = LIST_ENTRY(n, struct pool, queue_node);
        pool_update(pool);
        pool_wake(pool);
    }
    queue_drain_if_possible(queue);
}
