/* What LMDB alone can do, on one thread with synchronous commits: the limit of a spool.
 *
 * usage: lmdb_limit append DIR SIZE MESSAGES BATCH   BATCH records of SIZE bytes a transaction
 *        lmdb_limit take DIR MESSAGES BATCH          reads the first records in order, deletes them
 *
 * Prints records a second. */

#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "frames.h"

static MDB_env *env;
static MDB_dbi dbi;

static void must(int error, const char *what)
{
    if (error == 0)
        return;
    fprintf(stderr, "lmdb_limit: %s: %s\n", what, mdb_strerror(error));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void open_env(const char *path)
{
    MDB_txn *txn;
    must(mdb_env_create(&env), "create");
    must(mdb_env_set_mapsize(env, (size_t)64 << 30), "map size");
    must(mdb_env_set_maxdbs(env, 4), "databases");
    must(mdb_env_open(env, path, 0, 0600), path);
    must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
    must(mdb_dbi_open(txn, "q/1", MDB_CREATE, &dbi), "open");
    must(mdb_txn_commit(txn), "commit");
}

static uint64_t last_key(void)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, data;
    must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "begin");
    must(mdb_cursor_open(txn, dbi, &cursor), "cursor");
    uint64_t last = mdb_cursor_get(cursor, &key, &data, MDB_LAST) == 0 ? get(key.mv_data, 8) : 0;
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    return last;
}

static void append(size_t size, uint64_t count, uint64_t batch)
{
    uint8_t key_bytes[8], *value = malloc(size);
    uint64_t seq = last_key();
    memset(value, 'x', size);
    for (uint64_t done = 0; done < count;) {
        MDB_txn *txn;
        must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
        for (uint64_t i = 0; i < batch && done < count; i++, done++) {
            put(key_bytes, ++seq, 8);
            MDB_val key = {8, key_bytes}, data = {size, value};
            must(mdb_put(txn, dbi, &key, &data, MDB_APPEND), "put");
        }
        must(mdb_txn_commit(txn), "commit");
    }
    free(value);
}

static void take(uint64_t count, uint64_t batch)
{
    static volatile uint64_t sum;
    for (uint64_t done = 0; done < count;) {
        MDB_txn *txn;
        MDB_cursor *cursor;
        MDB_val key, data;
        must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
        must(mdb_cursor_open(txn, dbi, &cursor), "cursor");
        for (uint64_t i = 0; i < batch && done < count; i++, done++) {
            must(mdb_cursor_get(cursor, &key, &data, MDB_FIRST), "get");
            for (size_t at = 0; at < data.mv_size; at += 64)
                sum += ((const uint8_t *)data.mv_data)[at];
            must(mdb_cursor_del(cursor, 0), "delete");
        }
        mdb_cursor_close(cursor);
        must(mdb_txn_commit(txn), "commit");
    }
}

int main(int argc, char *argv[])
{
    int is_append = argc == 6 && strcmp(argv[1], "append") == 0;
    if (!is_append && (argc != 5 || strcmp(argv[1], "take") != 0)) {
        fputs("lmdb_limit: see the top of lmdb_limit.c\n", stderr);
        return 2;
    }
    uint64_t count = strtoull(argv[is_append ? 4 : 3], NULL, 10);
    uint64_t batch = strtoull(argv[is_append ? 5 : 4], NULL, 10);
    open_env(argv[2]);
    double begin = now();
    if (is_append)
        append(strtoull(argv[3], NULL, 10), count, batch);
    else
        take(count, batch);
    printf("%.0f\n", (double)count / (now() - begin));
    mdb_env_close(env);
    return 0;
}
