/* One line a message. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "print.h"
#include "select.h"
#include "text.h"
#include "json/moment.h"

static const struct table_column person_columns[] = {
    {"QUEUE", true, false},        {"SEQ", true, false},          {"AGE", true, false},
    {"EXCHANGE", false, false},    {"ROUTING KEY", false, false}, {"SIZE", true, false},
    {"DECLARATION", false, false}, {"REJECTED", false, true},
};

static const struct table_column plain_columns[] = {
    {"queue", false, false},       {"seq", false, false},         {"received_at", false, false},
    {"exchange", false, false},    {"routing_key", false, false}, {"size", false, false},
    {"declaration", false, false}, {"rejected", false, false},
};

static void put_received(struct table *table, const struct inspect *inspect, uint64_t at_us)
{
    char text[MOMENT_TEXT_BYTES];
    if (inspect->terminal)
        moment_age(at_us, inspect->now_us, text);
    else if (!moment_format(at_us, text))
        text[0] = '\0';
    table_text(table, text);
}

static void put_size(struct table *table, const struct inspect *inspect, uint64_t bytes)
{
    char text[SIZE_TEXT_BYTES];
    if (!inspect->terminal) {
        table_number(table, bytes);
        return;
    }
    text_size(bytes, text);
    table_text(table, text);
}

/* "queue.declare orders"; nothing for a publish. */
static void put_declaration(struct table *table, const struct routing *routing)
{
    char text[300];
    if (!routing->decoded) {
        table_text(table, "");
        return;
    }
    int len = snprintf(text, sizeof text, "%s ", method_name(routing->number));
    memcpy(text + len, routing->declared.bytes, routing->declared.len); /* a short string */
    table_bytes(table, text, (size_t)len + routing->declared.len);
}

/* "312: NO_ROUTE" */
static void put_rejection(struct table *table, const struct rejection *rejection)
{
    size_t capacity = rejection->text_len + 16U;
    char *text = malloc(capacity);
    int len = snprintf(text, capacity, "%u: ", rejection->code);
    if (rejection->text_len > 0)
        memcpy(text + len, rejection->text, rejection->text_len);
    table_bytes(table, text, (size_t)len + rejection->text_len);
    free(text);
}

static bool add_row(struct scan *scan, void *arg, const struct item *item)
{
    struct table *table = arg;
    const struct reader_record *record = item->record;
    table_number(table, record->queue);
    table_number(table, record->seq);
    put_received(table, scan->inspect, record->received_at_us);
    table_bytes(table, item->routing->exchange.bytes, item->routing->exchange.len);
    table_bytes(table, item->routing->routing_key.bytes, item->routing->routing_key.len);
    put_size(table, scan->inspect, record->body_size);
    put_declaration(table, item->routing);
    if (scan->filter->rejected)
        put_rejection(table, &record->rejection);
    return true;
}

static void show_rows(void *arg)
{
    table_flush(arg);
}

static enum inspect_exit list_table(struct inspect *inspect)
{
    unsigned columns = sizeof plain_columns / sizeof plain_columns[0];
    struct table table;
    table_begin(&table, inspect->terminal ? person_columns : plain_columns,
                inspect->filter.rejected ? columns : columns - 1, inspect->terminal,
                inspect->colour);
    struct selection selection = {
        .verb = "Listed", .each = add_row, .pause = show_rows, .arg = &table};
    enum inspect_exit status = select_run(inspect, &selection);
    table_end(&table);
    if (inspect->terminal && selection.visited == 0 && !inspect->follow && status == INSPECT_FINE)
        output_text("No messages.\n");
    return status;
}

static bool print_line(struct scan *scan, void *arg, const struct item *item)
{
    (void)arg;
    print_item(scan, item, false, JSON_COMPACT);
    return true;
}

enum inspect_exit list_run(struct inspect *inspect)
{
    struct selection selection = {.verb = "Listed", .each = print_line};
    return inspect->json ? select_run(inspect, &selection) : list_table(inspect);
}
