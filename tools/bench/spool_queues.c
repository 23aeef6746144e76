/* What the number of queues costs the spool, through src/spool/store.h, on one thread.
 *
 * usage: spool_queues DIR QUEUES MESSAGES SIZE BATCH [commit|never]
 *
 * Makes a spool in DIR with so many queues, appends MESSAGES of SIZE bytes, one to each queue in
 * turn, BATCH a transaction; opens it anew; reads each queue and deletes what it read, BATCH a
 * transaction. Prints, in one line, times in microseconds a message, the time of the second
 * opening, the memory that it took, and the bytes of the map for each message. */

#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "spool/store.h"

static struct failure failure;

static void must(enum status status, const char *what)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "spool_queues: %s: %s\n", what, failure.text);
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Anonymous memory: pages of the file that are mapped are the kernel's to take back. */
static uint64_t memory_kib(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "RssAnon: %llu", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib;
}

static struct store *open_store(const char *path, enum store_sync sync)
{
    struct store *store = NULL;
    struct store_options options = {
        .path = path, .max_size_bytes = UINT64_C(16) << 30, .sync = sync};
    must(store_open(&store, &options, &failure), "opening");
    return store;
}

static void put_queues(struct store *store, uint32_t count)
{
    static const uint8_t sealed[48];
    char user[32];
    uint32_t id;
    for (uint32_t i = 0; i < count; i++) {
        if (i % 64 == 0)
            must(store_begin(store, &failure), "beginning");
        snprintf(user, sizeof user, "user-%u", i);
        must(store_queue_put(store, user, "/", sealed, sizeof sealed, &id, &failure), "a queue");
        if (i % 64 == 63 || i + 1 == count)
            must(store_commit(store, &failure), "committing");
    }
}

static void append_all(struct store *store, uint32_t queues, uint32_t messages, size_t size,
                       uint32_t batch)
{
    static const uint8_t method[40], header[30];
    uint8_t *bytes = calloc(1, size);
    struct iovec body = {bytes, size};
    struct store_message message = {.kind = RECORD_PUBLISH,
                                    .received_at_us = 1,
                                    .method = {(void *)method, sizeof method},
                                    .header = {(void *)header, sizeof header},
                                    .body = &body,
                                    .body_count = 1};
    uint64_t seq;
    for (uint32_t i = 0; i < messages; i++) {
        if (i % batch == 0)
            must(store_begin(store, &failure), "beginning");
        must(store_append(store, i % queues + 1, &message, &seq, &failure), "appending");
        if (i % batch == batch - 1 || i + 1 == messages)
            must(store_commit(store, &failure), "committing");
    }
    free(bytes);
}

struct taken {
    uint64_t *seqs;
    uint32_t count, max;
};

static bool take(void *arg, const struct store_record *record)
{
    struct taken *taken = arg;
    taken->seqs[taken->count++] = record->seq;
    return taken->count < taken->max;
}

static void on_damaged(void *arg, uint64_t seq)
{
    (void)arg;
    fprintf(stderr, "spool_queues: message %llu is damaged\n", (unsigned long long)seq);
    exit(1);
}

static void drain_all(struct store *store, uint32_t queues, uint32_t batch)
{
    struct taken taken = {.seqs = calloc(batch, sizeof *taken.seqs), .max = batch};
    struct store_visitor visitor = {.visit = take, .damaged = on_damaged, .arg = &taken};
    for (uint32_t queue = 1; queue <= queues; queue++)
        for (;;) {
            taken.count = 0;
            must(store_read(store, queue, 0, &visitor, &failure), "reading");
            if (taken.count == 0)
                break;
            must(store_begin(store, &failure), "beginning");
            for (uint32_t i = 0; i < taken.count; i++)
                must(store_delete(store, queue, taken.seqs[i], &failure), "deleting");
            must(store_commit(store, &failure), "committing");
        }
    free(taken.seqs);
}

int main(int argc, char **argv)
{
    if (argc < 6) {
        fprintf(stderr, "usage: spool_queues DIR QUEUES MESSAGES SIZE BATCH [commit|never]\n");
        return 2;
    }
    uint32_t queues = (uint32_t)strtoul(argv[2], NULL, 10),
             messages = (uint32_t)strtoul(argv[3], NULL, 10),
             batch = (uint32_t)strtoul(argv[5], NULL, 10);
    size_t size = strtoul(argv[4], NULL, 10);
    enum store_sync sync =
        argc > 6 && strcmp(argv[6], "commit") == 0 ? STORE_SYNC_COMMIT : STORE_SYNC_NEVER;
    uint64_t used, max;

    struct store *store = open_store(argv[1], sync);
    double start = now_us();
    put_queues(store, queues);
    double put = now_us() - start;
    start = now_us();
    append_all(store, queues, messages, size, batch);
    double append = now_us() - start;
    must(store_rest(store, &failure), "resting");
    store_usage(store, &used, &max);
    store_close(store);
    malloc_trim(0);

    uint64_t before_kib = memory_kib();
    start = now_us();
    store = open_store(argv[1], sync);
    double opened = now_us() - start;
    uint64_t memory = memory_kib() - before_kib;
    start = now_us();
    drain_all(store, queues, batch);
    double drain = now_us() - start;
    store_close(store);
    printf("%u queues, %zu bytes: put %.1f us, append %.2f us, start %.1f ms, memory %llu KiB, "
           "drain %.2f us, %.0f bytes of the map a message\n",
           queues, size, put / queues, append / messages, opened / 1e3, (unsigned long long)memory,
           drain / messages, (double)used / messages);
    return 0;
}
