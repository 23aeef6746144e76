#include "spooler/gauges.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/memory.h"

/* From a commit that the page cache takes to a disk that is about to die. */
const double commit_bounds_s[COMMIT_BUCKETS] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                                0.025,  0.05,    0.1,    0.25,  0.5,    1,     5};

void gauges_init(struct gauges *g)
{
    *g = (struct gauges){0};
    ENSURE(uv_mutex_init(&g->lock) == 0);
}

void gauges_deinit(struct gauges *g)
{
    uv_mutex_destroy(&g->lock);
    free(g->view.queues);
}

void gauges_add_commit(struct gauges *g, uint64_t duration_ns)
{
    double seconds = (double)duration_ns / 1e9;
    unsigned bucket = 0;
    while (bucket < COMMIT_BUCKETS && seconds > commit_bounds_s[bucket])
        bucket++;
    uv_mutex_lock(&g->lock);
    g->view.commits[bucket]++;
    g->view.commit_sum_s += seconds;
    uv_mutex_unlock(&g->lock);
}

/* Where the queue of that id is, or would be put in. */
static uint32_t place_of(const struct spool_view *view, uint32_t id)
{
    uint32_t low = 0, high = view->queue_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (view->queues[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const struct queue_gauges *spool_view_find(const struct spool_view *view, uint32_t id)
{
    uint32_t at = place_of(view, id);
    return at < view->queue_count && view->queues[at].id == id ? &view->queues[at] : NULL;
}

static struct queue_gauges *insert_queue(struct gauges *g, uint32_t at)
{
    struct spool_view *view = &g->view;
    if (view->queue_count == g->capacity) {
        g->capacity = 2 * g->capacity + 16;
        view->queues = memory_grow(view->queues, g->capacity, sizeof *view->queues);
    }
    struct queue_gauges *queue = &view->queues[at];
    memmove(queue + 1, queue, (view->queue_count++ - at) * sizeof *queue);
    return queue;
}

static void update_queue(void *arg, const struct store_queue *queue)
{
    struct gauges *g = arg;
    uint32_t at = place_of(&g->view, queue->id);
    bool is_known = at < g->view.queue_count && g->view.queues[at].id == queue->id;
    struct queue_gauges *gauges = is_known ? &g->view.queues[at] : insert_queue(g, at);
    *gauges = (struct queue_gauges){
        .id = queue->id,
        .messages = queue->messages,
        .bytes = queue->bytes,
        .rejected = queue->rejected,
        .first_seq = queue->first_seq,
        .last_seq = queue->last_seq,
        .oldest_at_us = queue->oldest_at_us,
        .newest_at_us = queue->newest_at_us,
    };
}

void gauges_update(struct gauges *g, struct store *store)
{
    uv_mutex_lock(&g->lock);
    store_usage(store, &g->view.used_bytes, &g->view.max_bytes);
    g->view.held_bytes = store_holder(store).bytes;
    store_changes(store, update_queue, g);
    uv_mutex_unlock(&g->lock);
}

void gauges_forget(struct gauges *g, uint32_t id)
{
    uv_mutex_lock(&g->lock);
    uint32_t at = place_of(&g->view, id);
    if (at < g->view.queue_count && g->view.queues[at].id == id) {
        struct queue_gauges *queue = &g->view.queues[at];
        g->view.queue_count--;
        memmove(queue, queue + 1, (g->view.queue_count - at) * sizeof *queue);
    }
    uv_mutex_unlock(&g->lock);
}

void gauges_copy(struct gauges *g, struct spool_view *view)
{
    uv_mutex_lock(&g->lock);
    *view = g->view;
    if (view->queue_count > 0) {
        view->queues = malloc(view->queue_count * sizeof *view->queues);
        ENSURE(view->queues);
        memcpy(view->queues, g->view.queues, view->queue_count * sizeof *view->queues);
    } else {
        view->queues = NULL;
    }
    uv_mutex_unlock(&g->lock);
}
