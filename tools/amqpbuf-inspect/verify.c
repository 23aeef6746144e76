/* Reads every record of every queue, and says what is wrong with any. The checksums are checked by
 * the reader; here, that a record makes sense, that sequence numbers rise, and that each queue's
 * counters agree with what is in it. A queue that the proxy is using meanwhile changes between one
 * read transaction and the next, so its counters are compared only if they stood still. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/properties.h"
#include "base/assert.h"
#include "output.h"
#include "scan.h"
#include "text.h"
#include "json/escape.h"

struct tally {
    uint64_t sound, bytes, damaged;
};

struct checked {
    struct tally waiting, rejected;
};

struct verifying {
    struct inspect *inspect;
    const struct shown_queue *queue;
    bool rejected; /* the list at work */
    struct tally *tally;
    uint64_t last_seq;
    uint64_t problems; /* found in all */
};

static void print_problem(struct verifying *verifying, const char *text)
{
    bool colour = verifying->inspect->colour;
    verifying->problems++;
    output_format("%s%s%s\n", colour ? "\033[31m" : "", text, colour ? "\033[0m" : "");
}

static void on_damaged(void *arg, uint32_t queue, uint64_t seq, const char *what)
{
    struct verifying *verifying = arg;
    char text[256];
    verifying->tally->damaged++;
    snprintf(text, sizeof text, "queue %" PRIu32 ", %smessage %" PRIu64 ": %s", queue,
             verifying->rejected ? "rejected " : "", seq, what);
    print_problem(verifying, text);
}

/* What is wrong with a record whose checksum is right; NULL if nothing is. */
static const char *find_fault(const struct verifying *verifying, const struct reader_record *record)
{
    if (record->seq <= verifying->last_seq)
        return "it is out of order";
    if (record->is_rejected != verifying->rejected)
        return "it stands in the wrong list";
    if (record->kind == RECORD_DECLARE)
        return record->header_len == 0 && record->body_size == 0
                   ? NULL
                   : "it is a declaration, but has content";
    struct properties properties;
    if (!properties_decode(&properties, record->header, record->header_len))
        return "its properties cannot be read";
    uint64_t body_size = properties.body_size;
    properties_deinit(&properties);
    return body_size == record->body_size ? NULL : "its body is not as long as its header says";
}

static bool check(struct scan *scan, void *arg, const struct item *item)
{
    struct verifying *verifying = arg;
    const struct reader_record *record = item->record;
    const char *fault = find_fault(verifying, record);
    verifying->last_seq = record->seq;
    if (fault) {
        scan_damage(scan, record->queue, record->seq, fault);
        return true;
    }
    verifying->tally->sound++;
    verifying->tally->bytes += record->method_len + record->header_len + record->body_size;
    return true;
}

static bool check_list(struct verifying *verifying, const struct shown_queue *queue, bool rejected,
                       struct tally *tally)
{
    struct filter everything;
    filter_init(&everything);
    struct scan scan = {.inspect = verifying->inspect,
                        .filter = &everything,
                        .flags = READER_BODIES,
                        .each = check,
                        .damaged = on_damaged,
                        .arg = verifying};
    verifying->queue = queue;
    verifying->rejected = rejected;
    verifying->tally = tally;
    verifying->last_seq = 0;
    return scan_queue(&scan, queue, rejected, 0);
}

static void print_queue(const struct shown_queue *queue, const struct checked *checked)
{
    char *user = escape_text(queue->user, strlen(queue->user));
    char *vhost = escape_text(queue->vhost, strlen(queue->vhost));
    output_format("queue %" PRIu32 " (%s at %s): %" PRIu64 " messages, %" PRIu64
                  " rejected, %" PRIu64 " damaged\n",
                  queue->seen.id, user, vhost, checked->waiting.sound + checked->waiting.damaged,
                  checked->rejected.sound + checked->rejected.damaged,
                  checked->waiting.damaged + checked->rejected.damaged);
    free(user);
    free(vhost);
}

static bool stood_still(const struct reader_queue *a, const struct reader_queue *b)
{
    return a->next_seq == b->next_seq && a->messages == b->messages && a->bytes == b->bytes &&
           a->rejected == b->rejected && a->first_seq == b->first_seq && a->last_seq == b->last_seq;
}

static void compare(struct verifying *verifying, const struct reader_queue *queue,
                    const char *counter, uint64_t counted, uint64_t found)
{
    char text[256];
    if (counted == found)
        return;
    snprintf(text, sizeof text,
             "queue %" PRIu32 ": its %s counter says %" PRIu64 ", but there are %" PRIu64,
             queue->id, counter, counted, found);
    print_problem(verifying, text);
}

static void compare_counters(struct verifying *verifying, const struct reader_queue *queue,
                             const struct checked *checked)
{
    const struct tally *waiting = &checked->waiting, *rejected = &checked->rejected;
    char text[256];
    if (queue->damage) {
        snprintf(text, sizeof text, "queue %" PRIu32 ": %s", queue->id, queue->damage);
        print_problem(verifying, text);
        return;
    }
    compare(verifying, queue, "message", queue->messages, waiting->sound + waiting->damaged);
    compare(verifying, queue, "rejected", queue->rejected, rejected->sound + rejected->damaged);
    if (waiting->damaged == 0) /* how long a damaged message was is not known */
        compare(verifying, queue, "byte", queue->bytes, waiting->bytes);
    if (queue->last_seq >= queue->next_seq) {
        snprintf(text, sizeof text,
                 "queue %" PRIu32 ": its next sequence number, %" PRIu64 ", is in use", queue->id,
                 queue->next_seq);
        print_problem(verifying, text);
    }
}

/* Queues are never removed, and come in the order of their ids both times. */
static bool compare_queues(struct verifying *verifying, const struct queue_list *before,
                           const struct checked *checked)
{
    struct filter everything;
    struct queue_list after;
    filter_init(&everything);
    if (!queues_read(verifying->inspect, &everything, &after))
        return false;
    for (size_t i = 0; i < before->count && i < after.count; i++) {
        const struct reader_queue *queue = &before->queues[i].seen;
        if (stood_still(queue, &after.queues[i].seen))
            compare_counters(verifying, queue, &checked[i]);
        else
            output_format("queue %" PRIu32 ": in use; its counters were not compared\n", queue->id);
    }
    queues_free(&after);
    return true;
}

static bool check_queues(struct verifying *verifying, const struct queue_list *list)
{
    struct checked *checked = calloc(list->count + 1, sizeof *checked);
    ENSURE(checked);
    bool readable = true;
    uint64_t records = 0;
    for (size_t i = 0; i < list->count && !output_stopped(); i++) {
        const struct shown_queue *queue = &list->queues[i];
        readable = check_list(verifying, queue, false, &checked[i].waiting) && readable;
        readable = check_list(verifying, queue, true, &checked[i].rejected) && readable;
        print_queue(queue, &checked[i]);
        records += checked[i].waiting.sound + checked[i].waiting.damaged +
                   checked[i].rejected.sound + checked[i].rejected.damaged;
    }
    if (readable && !output_stopped())
        readable = compare_queues(verifying, list, checked);
    free(checked);
    output_format("%" PRIu64 " record%s in %zu queue%s checked, %" PRIu64 " problem%s\n", records,
                  records == 1 ? "" : "s", list->count, list->count == 1 ? "" : "s",
                  verifying->problems, verifying->problems == 1 ? "" : "s");
    return readable;
}

enum inspect_exit verify_run(struct inspect *inspect)
{
    struct verifying verifying = {.inspect = inspect};
    struct filter everything;
    struct queue_list list;
    filter_init(&everything);
    if (!queues_read(inspect, &everything, &list))
        return INSPECT_DAMAGE;
    uint64_t total = 0;
    for (size_t i = 0; i < list.count; i++)
        total += list.queues[i].seen.messages + list.queues[i].seen.rejected;
    progress_begin("Verified", total, true);
    bool readable = check_queues(&verifying, &list);
    progress_clear();
    queues_free(&list);
    return readable && verifying.problems == 0 ? INSPECT_FINE : INSPECT_DAMAGE;
}
