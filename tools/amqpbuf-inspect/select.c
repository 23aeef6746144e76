#include "select.h"

#include <inttypes.h>

#include "output.h"

static uint64_t expected(const struct queue_list *list, bool rejected)
{
    uint64_t total = 0;
    for (size_t i = 0; i < list->count; i++)
        total += rejected ? list->queues[i].seen.rejected : list->queues[i].seen.messages;
    return total;
}

enum inspect_exit select_run(struct inspect *inspect, const char *verb, unsigned flags,
                             bool (*visit)(struct walk *, void *arg, const struct item *),
                             void *arg, uint64_t *visited)
{
    const struct filter *filter = &inspect->filter;
    struct walk walk = {
        .inspect = inspect, .filter = filter, .flags = flags, .visit = visit, .arg = arg};
    struct queue_list list;
    *visited = 0;
    if (!queues_read(inspect, filter, &list))
        return INSPECT_DAMAGE;
    bool found = list.count > 0 || !filter->has_queue;
    if (!found)
        complain("there is no queue %" PRIu32 "%s", filter->queue,
                 filter->user || filter->vhost ? " of this user and vhost" : "");
    /* At a terminal the messages themselves are the progress. */
    progress_begin(verb, expected(&list, filter->rejected), !inspect->terminal);
    bool readable = walk_records(&walk, &list);
    progress_clear();
    queues_free(&list);
    *visited = walk.visited;
    return found && readable && walk.damage == 0 ? INSPECT_FINE : INSPECT_DAMAGE;
}
