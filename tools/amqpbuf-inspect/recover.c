/* What can be had of a spool that LMDB cannot read, or not all of: `dump --recover`. */

#include <inttypes.h>

#include "amqpbuf/spool_salvage.h"
#include "output.h"
#include "print.h"
#include "json/json.h"

struct recovering {
    const struct filter *filter;
    struct method_arena arena;
    uint64_t printed, damaged;
    uint64_t whole_waiting, whole_rejected; /* of the queue that is gone through */
    bool knows_what_is_free;
};

static void tell(struct recovering *recovering, uint32_t queue, uint64_t seq, const char *what)
{
    recovering->damaged++;
    complain("queue %" PRIu32 ", message %" PRIu64 " is damaged: %s", queue, seq, what);
}

static void print(struct recovering *recovering, const struct salvage_queue *queue,
                  const struct reader_record *record, const struct routing *routing,
                  const char *damage)
{
    json_t *json = json_record(queue->user, queue->vhost, record, routing, true);
    if (!json) {
        tell(recovering, queue->id, record->seq, damage ? damage : "its properties cannot be read");
        return;
    }
    if (damage) {
        tell(recovering, queue->id, record->seq, damage);
        json_object_set_new(json, "damage", json_string(damage));
    }
    recovering->printed++;
    print_json(json, JSON_COMPACT);
}

static bool wants(const struct recovering *recovering, const struct salvage_queue *queue,
                  uint64_t seq)
{
    const struct filter *filter = recovering->filter;
    return seq > filter->after && filter_wants_queue(filter, queue->id, queue->user, queue->vhost);
}

static bool on_record(void *arg, const struct salvage_queue *queue,
                      const struct reader_record *record, const char *damage)
{
    struct recovering *recovering = arg;
    struct routing routing;
    if (!damage && record->is_rejected)
        recovering->whole_rejected++;
    else if (!damage)
        recovering->whole_waiting++;
    if (!wants(recovering, queue, record->seq))
        return !output_stopped();
    if (!routing_decode(&routing, record, &recovering->arena))
        tell(recovering, queue->id, record->seq, damage ? damage : "its method cannot be read");
    else if (filter_wants_record(recovering->filter, record, &routing))
        print(recovering, queue, record, &routing, damage);
    return recovering->printed < recovering->filter->limit && !output_stopped();
}

static void on_lost(void *arg, const struct salvage_queue *queue, uint64_t seq, const char *what)
{
    if (wants(arg, queue, seq))
        tell(arg, queue->id, seq, what);
}

static void say_missing(struct recovering *recovering, const struct salvage_queue *queue,
                        const char *which, uint64_t there, uint64_t all)
{
    if (there >= all)
        return;
    recovering->damaged++;
    complain("queue %" PRIu32 ": %" PRIu64 " of %" PRIu64 " messages that %s are lost or damaged",
             queue->id, all - there, all, which);
}

/* Counters are worth nothing beside messages that were deleted. */
static void on_end(void *arg, const struct salvage_queue *queue)
{
    struct recovering *recovering = arg;
    bool is_wanted = filter_wants_queue(recovering->filter, queue->id, queue->user, queue->vhost);
    if (is_wanted && queue->is_counted && recovering->knows_what_is_free) {
        say_missing(recovering, queue, "wait", recovering->whole_waiting, queue->messages);
        say_missing(recovering, queue, "were rejected", recovering->whole_rejected,
                    queue->rejected);
    }
    recovering->whole_waiting = recovering->whole_rejected = 0;
}

enum inspect_exit recover_run(struct inspect *inspect)
{
    static const struct salvage_visitor visitor = {on_record, on_lost, on_end};
    struct salvage *salvage;
    struct failure failure = {0};
    struct recovering recovering = {.filter = &inspect->filter};
    enum status status = salvage_open(&salvage, inspect->spool, &failure);
    if (status != STATUS_OK) {
        if (status == STATUS_NO_SPOOL)
            complain("there is no spool in %s; give its directory with -s DIR", inspect->spool);
        else
            complain("%s", failure.text);
        return status == STATUS_IN_USE ? INSPECT_DAMAGE : INSPECT_NO_SPOOL;
    }
    recovering.knows_what_is_free = salvage_knows_what_is_free(salvage);
    if (!recovering.knows_what_is_free)
        complain("which pages are free cannot be read: messages that were delivered and deleted "
                 "may be among these");
    if (salvage_unreadable_pages(salvage) > 0)
        complain("%" PRIu64 " pages of data.mdb cannot be read from the disk",
                 salvage_unreadable_pages(salvage));
    method_arena_init(&recovering.arena);
    if (inspect->filter.limit > 0)
        salvage_records(salvage, &visitor, &recovering);
    method_arena_deinit(&recovering.arena);
    bool is_whole = recovering.damaged == 0 && recovering.knows_what_is_free &&
                    salvage_unreadable_pages(salvage) == 0;
    salvage_close(salvage);
    return is_whole ? INSPECT_FINE : INSPECT_DAMAGE;
}
