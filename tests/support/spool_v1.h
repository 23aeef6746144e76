#pragma once

/* Writes a spool of format 1, as docs/spool-format.md describes it: what amqpbuf up to 0.2.0 left
 * on the disk. Through LMDB alone, for no code of the proxy writes it any more. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lmdb.h>

#include "base/assert.h"
#include "spool/big_endian.h"
#include "spool/record.h"

enum { V1_DATABASES = 4096 };

struct v1 {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi meta, queues;
};

struct v1_queue {
    struct v1 *spool;
    uint32_t id;
    MDB_dbi waiting, rejected, parts;
    uint64_t next_seq, messages, bytes, refused;
};

static inline MDB_dbi v1_database(struct v1 *v1, const char *name)
{
    MDB_dbi dbi;
    ENSURE(mdb_dbi_open(v1->txn, name, MDB_CREATE, &dbi) == 0);
    return dbi;
}

static inline void v1_put(struct v1 *v1, MDB_dbi dbi, const void *key, size_t key_len,
                          const void *value, size_t len)
{
    MDB_val k = {key_len, (void *)(uintptr_t)key}, v = {len, (void *)(uintptr_t)value};
    ENSURE(mdb_put(v1->txn, dbi, &k, &v, 0) == 0);
}

static inline struct v1 v1_open(const char *path)
{
    struct v1 v1;
    ENSURE(mkdir(path, 0700) == 0 || access(path, W_OK) == 0);
    ENSURE(mdb_env_create(&v1.env) == 0);
    ENSURE(mdb_env_set_maxdbs(v1.env, V1_DATABASES) == 0);
    ENSURE(mdb_env_set_mapsize(v1.env, (size_t)1 << 30) == 0);
    ENSURE(mdb_env_open(v1.env, path, MDB_NOSYNC, 0600) == 0);
    ENSURE(mdb_txn_begin(v1.env, NULL, 0, &v1.txn) == 0);
    v1.meta = v1_database(&v1, "meta");
    v1.queues = v1_database(&v1, "queues");
    v1_put(&v1, v1.meta, "version", 7, (const uint8_t[]){0, 0, 0, 1}, 4);
    return v1;
}

static inline void v1_close(struct v1 *v1)
{
    ENSURE(mdb_txn_commit(v1->txn) == 0);
    mdb_env_close(v1->env);
}

/* Commits what is there so far. */
static inline void v1_step(struct v1 *v1)
{
    ENSURE(mdb_txn_commit(v1->txn) == 0);
    ENSURE(mdb_txn_begin(v1->env, NULL, 0, &v1->txn) == 0);
}

static inline struct v1_queue v1_begin_queue(struct v1 *v1, uint32_t id)
{
    struct v1_queue q = {.spool = v1, .id = id, .next_seq = 1};
    char name[16];
    snprintf(name, sizeof name, "q/%u", id);
    q.waiting = v1_database(v1, name);
    snprintf(name, sizeof name, "r/%u", id);
    q.rejected = v1_database(v1, name);
    snprintf(name, sizeof name, "b/%u", id);
    q.parts = v1_database(v1, name);
    return q;
}

/* Into the rejected list if it says so. */
static inline void v1_append(struct v1_queue *q, const struct record *r, const uint8_t *body)
{
    uint8_t key[12];
    struct iovec iov = {(void *)(uintptr_t)body, (size_t)r->body_size};
    size_t body_len = (size_t)r->body_size, value_len = record_size(r);
    uint64_t seq = q->next_seq++;
    uint8_t *value = malloc(value_len);
    ENSURE(value);
    record_write(value, q->id, seq, r, &iov, 1);
    big_endian_put(key, seq, 8);
    v1_put(q->spool, r->is_rejected ? q->rejected : q->waiting, key, 8, value, value_len);
    free(value);
    for (uint32_t part = 1; record_is_parted(body_len) && part <= record_part_count(body_len);
         part++) {
        uint8_t bytes[RECORD_PART_CHECKSUM_BYTES + RECORD_PART_BYTES];
        size_t len = record_part_size(body_len, part);
        memcpy(bytes + RECORD_PART_CHECKSUM_BYTES, body + (size_t)(part - 1) * RECORD_PART_BYTES,
               len);
        record_part_seal(bytes, len, q->id, seq, part);
        big_endian_put(key + 8, part, 4);
        v1_put(q->spool, q->parts, key, 12, bytes, len + RECORD_PART_CHECKSUM_BYTES);
    }
    if (r->is_rejected) {
        q->refused++;
        return;
    }
    q->messages++;
    q->bytes += r->method.iov_len + r->header.iov_len + r->body_size;
}

static inline void v1_end_queue(struct v1_queue *q, const char *user, const char *vhost)
{
    size_t user_len = strlen(user), vhost_len = strlen(vhost);
    uint8_t value[256], key[4];
    big_endian_put(value, q->next_seq, 8);
    big_endian_put(value + 8, q->messages, 8);
    big_endian_put(value + 16, q->bytes, 8);
    big_endian_put(value + 24, q->refused, 8);
    big_endian_put(value + 32, user_len, 2);
    big_endian_put(value + 34, vhost_len, 2);
    big_endian_put(value + 36, 6, 2);
    memcpy(value + 38, user, user_len);
    memcpy(value + 38 + user_len, vhost, vhost_len);
    memcpy(value + 38 + user_len + vhost_len, "sealed", 6);
    big_endian_put(key, q->id, 4);
    v1_put(q->spool, q->spool->queues, key, 4, value, 38 + user_len + vhost_len + 6);
}
