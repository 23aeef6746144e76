/* A spool as the drain of one of two queues leaves it: every other page is free.
 *
 * usage: every_other DIR MESSAGES
 *
 * Appends MESSAGES to each of two queues in turn, a page each, through src/spool/store.h, and
 * deletes those of the first. */

#include <stdio.h>
#include <stdlib.h>

#include "spool/store.h"

enum { BODY_BYTES = 3900, BATCH = 256 }; /* with the rest of a record: a page of its own */

static struct failure failure;

static void must(enum status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "every_other: %s\n", failure.text);
    exit(1);
}

static void append_all(struct store *store, const uint32_t queues[2], uint64_t messages)
{
    static uint8_t method[40], header[30], bytes[BODY_BYTES];
    uint64_t seq;
    struct iovec body = {bytes, sizeof bytes};
    struct store_message message = {.kind = RECORD_PUBLISH,
                                    .received_at_us = 1,
                                    .method = {method, sizeof method},
                                    .header = {header, sizeof header},
                                    .body = &body,
                                    .body_count = 1};
    for (uint64_t done = 0; done < messages;) {
        must(store_begin(store, &failure));
        for (unsigned i = 0; i < BATCH && done < messages; i++, done++)
            for (unsigned queue = 0; queue < 2; queue++)
                must(store_append(store, queues[queue], &message, &seq, &failure));
        must(store_commit(store, &failure));
    }
}

static void delete_all(struct store *store, uint32_t queue, uint64_t messages)
{
    for (uint64_t seq = 1; seq <= messages;) {
        must(store_begin(store, &failure));
        for (unsigned i = 0; i < BATCH && seq <= messages; i++, seq++)
            must(store_delete(store, queue, seq, &failure));
        must(store_commit(store, &failure));
    }
}

int main(int argc, char **argv)
{
    static const uint8_t sealed[48];
    if (argc < 3) {
        fprintf(stderr, "usage: every_other DIR MESSAGES\n");
        return 2;
    }
    uint64_t messages = strtoull(argv[2], NULL, 10);
    uint32_t queues[2];
    struct store *store = NULL;
    struct store_options options = {
        .path = argv[1], .max_size_bytes = UINT64_C(4) << 30, .sync = STORE_SYNC_NEVER};
    must(store_open(&store, &options, &failure));
    must(store_begin(store, &failure));
    must(store_queue_put(store, "a", "/", sealed, sizeof sealed, &queues[0], &failure));
    must(store_queue_put(store, "b", "/", sealed, sizeof sealed, &queues[1], &failure));
    must(store_commit(store, &failure));
    append_all(store, queues, messages);
    delete_all(store, queues[0], messages);
    store_close(store);
    return 0;
}
