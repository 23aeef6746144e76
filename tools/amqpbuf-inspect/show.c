/* One message, waiting or rejected. */

#include <inttypes.h>

#include "output.h"
#include "print.h"
#include "scan.h"

struct showing {
    uint64_t seq;
    bool found, damaged;
};

static void told_damage(struct showing *showing, uint32_t queue, uint64_t seq, const char *what)
{
    if (seq != showing->seq)
        return; /* one behind it, met on the way */
    showing->damaged = true;
    complain("queue %" PRIu32 ", message %" PRIu64 " is damaged: %s", queue, seq, what);
}

static void on_damaged(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    told_damage(arg, queue, seq, what);
}

static void show_body(struct showing *showing, const struct item *item)
{
    const struct reader_record *record = item->record;
    if (record->kind == RECORD_PUBLISH)
        output_bytes(record->body, record->body_size);
    else
        told_damage(showing, record->queue, record->seq, "it is a declaration, without a body");
}

static bool show(struct scan *scan, void *arg, const struct item *item)
{
    struct showing *showing = arg;
    if (item->record->seq != showing->seq)
        return false;
    showing->found = true;
    if (scan->inspect->body_only) {
        show_body(showing, item);
        return false;
    }
    print_item(scan, item, true, scan->inspect->terminal ? JSON_INDENT(2) : JSON_COMPACT);
    return false;
}

static bool show_from(struct inspect *inspect, const struct shown_queue *queue,
                      struct showing *showing)
{
    struct filter filter;
    filter_init(&filter);
    filter.after = showing->seq - 1;
    struct scan scan = {.inspect = inspect,
                        .filter = &filter,
                        .flags = READER_BODIES,
                        .each = show,
                        .damaged = on_damaged,
                        .arg = showing};
    bool readable = scan_queue(&scan, queue, false, scan.filter->after);
    if (readable && !showing->found && !showing->damaged)
        readable = scan_queue(&scan, queue, true, scan.filter->after);
    return readable;
}

enum inspect_exit show_run(struct inspect *inspect)
{
    struct filter filter;
    struct queue_list list;
    struct showing showing = {.seq = inspect->show_seq};
    filter_init(&filter);
    filter.has_queue = true;
    filter.queue = inspect->show_queue;
    if (!queues_read(inspect, &filter, &list))
        return INSPECT_DAMAGE;
    bool readable = true;
    if (list.count == 0)
        complain("there is no queue %" PRIu32, inspect->show_queue);
    else {
        readable = showing.seq == 0 || show_from(inspect, &list.queues[0], &showing);
        if (readable && !showing.found && !showing.damaged)
            complain("there is no message %" PRIu64 " in queue %" PRIu32, showing.seq,
                     inspect->show_queue);
    }
    queues_free(&list);
    return readable && showing.found && !showing.damaged ? INSPECT_FINE : INSPECT_DAMAGE;
}
