/* What waits, queue by queue. */

#include <inttypes.h>
#include <string.h>

#include "output.h"
#include "print.h"
#include "text.h"
#include "json/json.h"
#include "json/moment.h"

enum { FOLLOW_MS = 1000 };

static json_t *time_or_null(uint64_t at_us)
{
    return at_us != 0 ? json_moment(at_us) : json_null();
}

/* 0 is no sequence number: the queue is empty. */
static json_t *seq_or_null(uint64_t seq)
{
    return seq != 0 ? json_integer((json_int_t)seq) : json_null();
}

static json_t *json_queue(const struct reader_queue *queue)
{
    return json_pack("{s:I, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:I}", "id",
                     (json_int_t)queue->id, "user", json_bytes(queue->user, strlen(queue->user)),
                     "vhost", json_bytes(queue->vhost, strlen(queue->vhost)), "messages",
                     (json_int_t)queue->messages, "bytes", (json_int_t)queue->bytes, "first_seq",
                     seq_or_null(queue->first_seq), "last_seq", seq_or_null(queue->last_seq),
                     "oldest_at", time_or_null(queue->oldest_at_us), "newest_at",
                     time_or_null(queue->newest_at_us), "rejected", (json_int_t)queue->rejected);
}

static void print_queues(const struct queue_list *list, uint64_t used, uint64_t max)
{
    json_t *queues = json_array();
    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(queues, json_queue(&list->queues[i].seen));
    print_json(json_pack("{s:o, s:I, s:I}", "queues", queues, "bytes_used", (json_int_t)used,
                         "bytes_max", (json_int_t)max),
               JSON_COMPACT);
}

static void put_size(struct table *table, uint64_t bytes)
{
    char text[SIZE_TEXT_BYTES];
    text_size(bytes, text);
    table_text(table, text);
}

static void put_age(struct table *table, uint64_t at_us, uint64_t now_us)
{
    char text[MOMENT_TEXT_BYTES];
    moment_age(at_us, now_us, text);
    table_text(table, at_us != 0 ? text : "-");
}

static void put_time(struct table *table, uint64_t at_us)
{
    char text[MOMENT_TEXT_BYTES];
    table_text(table, at_us != 0 && moment_format(at_us, text) ? text : "");
}

static void print_person(const struct inspect *inspect, const struct queue_list *list)
{
    static const struct table_column columns[] = {
        {"QUEUE", true, false},    {"USER", false, false}, {"VHOST", false, false},
        {"MESSAGES", true, false}, {"SIZE", true, false},  {"OLDEST", true, false},
        {"NEWEST", true, false},   {"FIRST", true, false}, {"LAST", true, false},
        {"REJECTED", true, true},
    };
    struct table table;
    table_begin(&table, columns, sizeof columns / sizeof columns[0], true, inspect->colour);
    for (size_t i = 0; i < list->count; i++) {
        const struct reader_queue *queue = &list->queues[i].seen;
        table_number(&table, queue->id);
        table_bytes(&table, queue->user, strlen(queue->user));
        table_bytes(&table, queue->vhost, strlen(queue->vhost));
        table_number(&table, queue->messages);
        put_size(&table, queue->bytes);
        put_age(&table, queue->oldest_at_us, inspect->now_us);
        put_age(&table, queue->newest_at_us, inspect->now_us);
        table_number(&table, queue->first_seq);
        table_number(&table, queue->last_seq);
        table_number(&table, queue->rejected);
    }
    table_end(&table);
}

static void print_usage(uint64_t used, uint64_t max)
{
    char used_text[SIZE_TEXT_BYTES], max_text[SIZE_TEXT_BYTES];
    text_size(used, used_text);
    text_size(max, max_text);
    double percent = max > 0 ? 100.0 * (double)used / (double)max : 0;
    output_format("Spool: %s of %s used (%.1f %%).\n", used_text, max_text, percent);
}

static void print_plain(const struct queue_list *list)
{
    static const struct table_column columns[] = {
        {"queue", false, false},     {"user", false, false},      {"vhost", false, false},
        {"messages", false, false},  {"bytes", false, false},     {"oldest_at", false, false},
        {"newest_at", false, false}, {"first_seq", false, false}, {"last_seq", false, false},
        {"rejected", false, false},
    };
    struct table table;
    table_begin(&table, columns, sizeof columns / sizeof columns[0], false, false);
    for (size_t i = 0; i < list->count; i++) {
        const struct reader_queue *queue = &list->queues[i].seen;
        table_number(&table, queue->id);
        table_bytes(&table, queue->user, strlen(queue->user));
        table_bytes(&table, queue->vhost, strlen(queue->vhost));
        table_number(&table, queue->messages);
        table_number(&table, queue->bytes);
        put_time(&table, queue->oldest_at_us);
        put_time(&table, queue->newest_at_us);
        table_number(&table, queue->first_seq);
        table_number(&table, queue->last_seq);
        table_number(&table, queue->rejected);
    }
    table_end(&table);
}

static void print(const struct inspect *inspect, const struct queue_list *list)
{
    uint64_t used, max;
    reader_usage(inspect->reader, &used, &max);
    if (inspect->json) {
        print_queues(list, used, max);
    } else if (!inspect->terminal) {
        print_plain(list);
    } else {
        if (list->count > 0)
            print_person(inspect, list);
        else
            output_text("No queues: nothing has been buffered here yet.\n");
        print_usage(used, max);
    }
}

static bool is_same(const struct queue_list *a, const struct queue_list *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct reader_queue *x = &a->queues[i].seen, *y = &b->queues[i].seen;
        if (x->id != y->id || x->next_seq != y->next_seq || x->messages != y->messages ||
            x->first_seq != y->first_seq || x->rejected != y->rejected)
            return false;
    }
    return true;
}

/* At a terminal in one place, ages too; elsewhere after each change. `before` is NULL at first. */
static void print_again(struct inspect *inspect, const struct queue_list *before,
                        const struct queue_list *list)
{
    bool in_place = inspect->terminal && !inspect->json;
    if (!in_place && before && is_same(before, list))
        return;
    inspect_look_at_clock(inspect);
    if (in_place)
        output_text("\033[H\033[2J");
    else if (!inspect->json)
        output_text("\n");
    print(inspect, list);
}

enum inspect_exit summary_run(struct inspect *inspect)
{
    struct queue_list list, before;
    if (!queues_read(inspect, &inspect->filter, &list))
        return INSPECT_DAMAGE;
    if (inspect->follow)
        print_again(inspect, NULL, &list);
    else
        print(inspect, &list);
    bool readable = true;
    while (inspect->follow && readable && output_pause(FOLLOW_MS)) {
        before = list;
        readable = queues_read(inspect, &inspect->filter, &list);
        if (readable)
            print_again(inspect, &before, &list);
        queues_free(&before);
    }
    queues_free(&list);
    return readable ? INSPECT_FINE : INSPECT_DAMAGE;
}
