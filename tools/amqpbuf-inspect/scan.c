#include "scan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "output.h"

void inspect_look_at_clock(struct inspect *inspect)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    inspect->now_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

struct collecting {
    const struct filter *filter;
    struct queue_list *list;
};

static bool collect(void *arg, const struct reader_queue *seen)
{
    struct collecting *collecting = arg;
    struct queue_list *list = collecting->list;
    if (!filter_wants_queue(collecting->filter, seen->id, seen->user, seen->vhost))
        return true;
    list->queues = reallocarray(list->queues, list->count + 1, sizeof *list->queues);
    ENSURE(list->queues);
    struct shown_queue *queue = &list->queues[list->count++];
    *queue = (struct shown_queue){*seen, strdup(seen->user), strdup(seen->vhost)};
    ENSURE(queue->user && queue->vhost);
    queue->seen.user = queue->user;
    queue->seen.vhost = queue->vhost;
    return true;
}

bool queues_read(struct inspect *inspect, const struct filter *filter, struct queue_list *list)
{
    struct failure failure = {0};
    *list = (struct queue_list){0};
    struct collecting collecting = {filter, list};
    if (reader_queues(inspect->reader, collect, &collecting, &failure) == STATUS_OK)
        return true;
    complain("%s", failure.text);
    queues_free(list);
    return false;
}

void queues_free(struct queue_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->queues[i].user);
        free(list->queues[i].vhost);
    }
    free(list->queues);
    *list = (struct queue_list){0};
}

void scan_damage(struct scan *scan, uint32_t queue, uint64_t seq, const char *what)
{
    scan->damage++;
    if (scan->damaged)
        scan->damaged(scan->arg, queue, seq, what);
    else
        complain("queue %" PRIu32 ", message %" PRIu64 " is damaged: %s", queue, seq, what);
}

struct scanning {
    struct scan *scan;
    const struct shown_queue *queue;
    struct method_arena arena;
};

static void on_damaged(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    struct scanning *scanning = arg;
    progress_step();
    scanning->scan->reached = seq;
    scan_damage(scanning->scan, queue, seq, what);
}

static bool on_record(void *arg, const struct reader_record *record)
{
    struct scanning *scanning = arg;
    struct scan *scan = scanning->scan;
    struct routing routing;
    progress_step();
    scan->reached = record->seq;
    if (!routing_decode(&routing, record, &scanning->arena)) {
        scan_damage(scan, record->queue, record->seq, "its method cannot be read");
        return !output_stopped();
    }
    if (!filter_wants_record(scan->filter, record, &routing))
        return !output_stopped();
    struct item item = {scanning->queue, record, &routing};
    scan->visited++;
    bool more = scan->each(scan, scan->arg, &item);
    scan->ended = !more || scan->visited >= scan->filter->limit || output_stopped();
    return !scan->ended;
}

bool scan_queue(struct scan *scan, const struct shown_queue *queue, bool rejected, uint64_t after)
{
    struct failure failure = {0};
    struct scanning scanning = {.scan = scan, .queue = queue};
    scan->reached = after;
    method_arena_init(&scanning.arena);
    unsigned flags = scan->flags | (rejected ? READER_REJECTED : 0);
    enum status status = reader_records(scan->inspect->reader, queue->seen.id, after, flags,
                                        on_record, on_damaged, &scanning, &failure);
    method_arena_deinit(&scanning.arena);
    if (status != STATUS_OK)
        complain("queue %" PRIu32 ": %s", queue->seen.id, failure.text);
    return status == STATUS_OK;
}
