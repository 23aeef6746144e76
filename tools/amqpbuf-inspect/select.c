#include "select.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/assert.h"
#include "output.h"

enum { FOLLOW_MS = 500 };

/* How far each queue was gone through. */
struct mark {
    uint32_t queue;
    uint64_t reached;
};

struct marks {
    struct mark *all;
    size_t count;
};

static struct mark *mark_of(struct marks *marks, uint32_t queue, uint64_t after)
{
    for (size_t i = 0; i < marks->count; i++)
        if (marks->all[i].queue == queue)
            return &marks->all[i];
    marks->all = reallocarray(marks->all, marks->count + 1, sizeof *marks->all);
    ENSURE(marks->all);
    marks->all[marks->count] = (struct mark){queue, after};
    return &marks->all[marks->count++];
}

static uint64_t expected(const struct queue_list *list, bool rejected)
{
    uint64_t total = 0;
    for (size_t i = 0; i < list->count; i++)
        total += rejected ? list->queues[i].seen.rejected : list->queues[i].seen.messages;
    return total;
}

static bool scan_all(struct scan *scan, const struct queue_list *list, struct marks *marks)
{
    bool readable = true;
    for (size_t i = 0; i < list->count && !scan->ended && !output_stopped(); i++) {
        const struct shown_queue *queue = &list->queues[i];
        struct mark *mark = mark_of(marks, queue->seen.id, scan->filter->after);
        readable = scan_queue(scan, queue, scan->filter->rejected, mark->reached) && readable;
        mark->reached = scan->reached;
    }
    return readable;
}

/* What has come since, again and again. */
static bool follow(struct scan *scan, const struct selection *selection, struct marks *marks)
{
    bool readable = true;
    while (readable && !scan->ended) {
        struct queue_list list;
        if (selection->pause)
            selection->pause(selection->arg);
        if (!output_pause(FOLLOW_MS))
            break;
        inspect_look_at_clock(scan->inspect);
        readable = queues_read(scan->inspect, scan->filter, &list);
        if (readable)
            readable = scan_all(scan, &list, marks);
        queues_free(&list);
    }
    return readable;
}

enum inspect_exit select_run(struct inspect *inspect, struct selection *selection)
{
    const struct filter *filter = &inspect->filter;
    struct scan scan = {.inspect = inspect,
                        .filter = filter,
                        .flags = selection->flags,
                        .each = selection->each,
                        .arg = selection->arg,
                        .ended = filter->limit == 0};
    struct marks marks = {0};
    struct queue_list list;
    if (!queues_read(inspect, filter, &list))
        return INSPECT_DAMAGE;
    bool found = list.count > 0 || !filter->has_queue;
    if (!found)
        complain("there is no queue %" PRIu32 "%s", filter->queue,
                 filter->user || filter->vhost ? " of this user and vhost" : "");
    /* At a terminal the messages themselves are the progress. */
    progress_begin(selection->verb, expected(&list, filter->rejected), !inspect->terminal);
    bool readable = scan_all(&scan, &list, &marks);
    progress_clear();
    queues_free(&list);
    if (found && readable && inspect->follow)
        readable = follow(&scan, selection, &marks);
    free(marks.all);
    selection->visited = scan.visited;
    return found && readable && scan.damage == 0 ? INSPECT_FINE : INSPECT_DAMAGE;
}
