#pragma once

/* A spool in a directory of its own for a test, messages to put into it, and what a test does to
 * one behind the store's back. cmocka's headers come first. */

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lmdb.h>

#include "base/assert.h"
#include "spool/record.h"
#include "spool/store.h"

enum { HOME_MAX_SIZE = 64 * 1024 * 1024 };

struct home {
    char top[64];   /* made by mkdtemp; what the test makes beside the spool goes here */
    char spool[80]; /* top/spool */
    enum store_sync sync;
    struct store *store;
    struct failure failure;
};

static inline int home_setup(void **state)
{
    struct home *home = calloc(1, sizeof *home);
    ENSURE(home);
    snprintf(home->top, sizeof home->top, "%s/amqpbuf-test-XXXXXX", P_tmpdir);
    ENSURE(mkdtemp(home->top));
    snprintf(home->spool, sizeof home->spool, "%s/spool", home->top);
    *state = home;
    return 0;
}

static inline void remove_tree(const char *path)
{
    chmod(path, 0700);
    DIR *directory = opendir(path);
    ENSURE(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        char name[512];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        int len = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        ENSURE(len > 0 && (size_t)len < sizeof name);
        if (entry->d_type == DT_DIR)
            remove_tree(name);
        else
            ENSURE(unlink(name) == 0);
    }
    closedir(directory);
    ENSURE(rmdir(path) == 0);
}

static inline int home_teardown(void **state)
{
    struct home *home = *state;
    if (home->store)
        store_close(home->store);
    remove_tree(home->top);
    free(home);
    return 0;
}

static inline enum status home_try_open(struct home *home, uint64_t max_size_bytes)
{
    struct store_options options = {
        .path = home->spool, .max_size_bytes = max_size_bytes, .sync = home->sync};
    home->failure = (struct failure){0};
    enum status status = store_open(&home->store, &options, &home->failure);
    if (status != STATUS_OK)
        home->store = NULL;
    return status;
}

static inline void home_open(struct home *home)
{
    assert_int_equal(home_try_open(home, HOME_MAX_SIZE), STATUS_OK);
}

static inline void home_close(struct home *home)
{
    store_close(home->store);
    home->store = NULL;
}

static inline void home_reopen(struct home *home)
{
    home_close(home);
    home_open(home);
}

static inline void home_begin(struct home *home)
{
    assert_int_equal(store_begin(home->store, &home->failure), STATUS_OK);
}

static inline void home_commit(struct home *home)
{
    assert_int_equal(store_commit(home->store, &home->failure), STATUS_OK);
}

/* ---- messages ---- */

static inline struct iovec text(const char *bytes)
{
    return (struct iovec){(void *)(uintptr_t)bytes, strlen(bytes)};
}

/* Bytes that differ from one part of a body to the next. */
static inline uint8_t body_byte(uint64_t at)
{
    return (uint8_t)((at * UINT64_C(0x9E3779B97F4A7C15)) >> 56);
}

static inline uint8_t *make_body(size_t len)
{
    uint8_t *body = malloc(len + 1);
    ENSURE(body);
    for (size_t i = 0; i < len; i++)
        body[i] = body_byte(i);
    return body;
}

static inline bool is_body(const uint8_t *body, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (body[i] != body_byte(i))
            return false;
    return true;
}

enum { METHOD_BYTES = 6, HEADER_BYTES = 14 }; /* of the messages below */

static inline enum status home_try_append(struct home *home, uint32_t queue, size_t body_len,
                                          uint64_t *seq)
{
    uint8_t *body = make_body(body_len);
    struct iovec iov = {body, body_len};
    struct store_message message = {.kind = RECORD_PUBLISH,
                                    .received_at_us = 1700000000000000 + body_len,
                                    .method = text("method"),
                                    .header = text("content header"),
                                    .body = &iov,
                                    .body_count = 1};
    enum status status = store_append(home->store, queue, &message, seq, &home->failure);
    free(body);
    return status;
}

static inline uint64_t home_append(struct home *home, uint32_t queue, size_t body_len)
{
    uint64_t seq = 0;
    assert_int_equal(home_try_append(home, queue, body_len, &seq), STATUS_OK);
    return seq;
}

static inline uint32_t home_put_queue(struct home *home, const char *user, const char *vhost)
{
    uint32_t id = 0;
    assert_int_equal(store_queue_put(home->store, user, vhost, (const uint8_t *)"sealed", 6, &id,
                                     &home->failure),
                     STATUS_OK);
    return id;
}

/* Opens the store if need be, and commits a queue with `count` messages of that size. */
static inline uint32_t home_fill(struct home *home, unsigned count, size_t body_len)
{
    if (!home->store)
        home_open(home);
    home_begin(home);
    uint32_t queue = home_put_queue(home, "shop", "/");
    for (unsigned i = 0; i < count; i++)
        home_append(home, queue, body_len);
    home_commit(home);
    return queue;
}

/* ---- what is there ---- */

static inline bool copy_queue(void *arg, const struct store_queue *queue)
{
    struct store_queue *wanted = arg;
    if (queue->id == wanted->id) {
        *wanted = *queue;
        wanted->user = wanted->vhost = NULL;
        wanted->sealed = NULL;
    }
    return queue->id != wanted->id;
}

/* Its counters; all 0 if there is no such queue. */
static inline struct store_queue home_queue(struct home *home, uint32_t id)
{
    struct store_queue queue = {.id = id};
    store_queues(home->store, copy_queue, &queue);
    return queue;
}

enum { SEEN_MAX = 64 };

struct seen {
    uint64_t seq[SEEN_MAX], damaged[SEEN_MAX];
    uint64_t body_size[SEEN_MAX];
    unsigned count, damaged_count, wrong; /* wrong: not what home_append put there */
};

static inline bool see_record(void *arg, const struct store_record *record)
{
    struct seen *seen = arg;
    uint8_t *body = malloc((size_t)record->body_size + 1);
    size_t len = 0;
    ENSURE(body && seen->count < SEEN_MAX);
    for (size_t i = 0; i < record->body_count; i++) {
        memcpy(body + len, record->body[i].iov_base, record->body[i].iov_len);
        len += record->body[i].iov_len;
    }
    seen->wrong += record->kind != RECORD_PUBLISH || len != record->body_size ||
                   record->received_at_us != 1700000000000000 + len || !is_body(body, len) ||
                   record->method.iov_len != METHOD_BYTES ||
                   memcmp(record->method.iov_base, "method", METHOD_BYTES) != 0 ||
                   record->header.iov_len != HEADER_BYTES ||
                   memcmp(record->header.iov_base, "content header", HEADER_BYTES) != 0;
    seen->seq[seen->count] = record->seq;
    seen->body_size[seen->count++] = record->body_size;
    free(body);
    return true;
}

static inline void see_damaged(void *arg, uint64_t seq)
{
    struct seen *seen = arg;
    ENSURE(seen->damaged_count < SEEN_MAX);
    seen->damaged[seen->damaged_count++] = seq;
}

static inline struct seen home_read(struct home *home, uint32_t queue, uint64_t after)
{
    struct seen seen = {0};
    struct store_visitor visitor = {.visit = see_record, .damaged = see_damaged, .arg = &seen};
    assert_int_equal(store_read(home->store, queue, after, &visitor, &home->failure), STATUS_OK);
    assert_int_equal(seen.wrong, 0);
    return seen;
}

/* ---- behind the store's back; the store is closed meanwhile ---- */

struct backdoor {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
};

static inline struct backdoor backdoor_open(struct home *home, const char *database)
{
    struct backdoor door;
    ENSURE(!home->store);
    ENSURE(mdb_env_create(&door.env) == 0);
    ENSURE(mdb_env_set_maxdbs(door.env, 4) == 0);
    ENSURE(mdb_env_open(door.env, home->spool, 0, 0600) == 0);
    ENSURE(mdb_txn_begin(door.env, NULL, 0, &door.txn) == 0);
    ENSURE(mdb_dbi_open(door.txn, database, 0, &door.dbi) == 0);
    return door;
}

static inline void backdoor_close(struct backdoor *door)
{
    ENSURE(mdb_txn_commit(door->txn) == 0);
    mdb_env_close(door->env);
}

/* The value as it is stored, in memory of its own. */
static inline uint8_t *backdoor_get(struct backdoor *door, const void *key, size_t key_len,
                                    size_t *len)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key}, value;
    ENSURE(mdb_get(door->txn, door->dbi, &k, &value) == 0);
    uint8_t *copy = malloc(value.mv_size);
    ENSURE(copy);
    memcpy(copy, value.mv_data, value.mv_size);
    *len = value.mv_size;
    return copy;
}

static inline void backdoor_put(struct backdoor *door, const void *key, size_t key_len,
                                const uint8_t *value, size_t len)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key}, v = {len, (void *)(uintptr_t)value};
    ENSURE(mdb_put(door->txn, door->dbi, &k, &v, 0) == 0);
}

static inline void backdoor_flip(struct home *home, const char *database, const void *key,
                                 size_t key_len)
{
    struct backdoor door = backdoor_open(home, database);
    size_t len;
    uint8_t *value = backdoor_get(&door, key, key_len, &len);
    value[len / 2] ^= 1;
    backdoor_put(&door, key, key_len, value, len);
    free(value);
    backdoor_close(&door);
}

static inline void backdoor_remove(struct home *home, const char *database, const void *key,
                                   size_t key_len)
{
    struct backdoor door = backdoor_open(home, database);
    MDB_val k = {key_len, (void *)(uintptr_t)key};
    ENSURE(mdb_del(door.txn, door.dbi, &k, NULL) == 0);
    backdoor_close(&door);
}
