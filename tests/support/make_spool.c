/* Writes a spool for the tests of what reads one, as amqpbuf would through src/spool/store.h, and
 * damages it as amqpbuf never would. Says "ok 0" when the spool is there, takes one command a line
 * from standard input, and answers each with a line, "ok N" or "error ...", so that a test can read
 * the spool between any two.
 *
 *   queue USER VHOST                         ok ID
 *   publish QUEUE AT METHOD HEADER BODY [N]  ok SEQ, of the last of N
 *   declare QUEUE AT METHOD                  ok SEQ
 *   reject QUEUE SEQ CODE AT TEXT            ok 0
 *   delete QUEUE SEQ                         ok 0
 *   damage QUEUE SEQ                         ok 0; flips a bit in the middle of the record; a
 *                                            QUEUE r/ID is the rejected list
 *   lose QUEUE SEQ                           ok 0; removes the record behind the store's back
 *   spoil QUEUE                              ok 0; flips a bit of the login in the queue's entry
 *
 * USER, VHOST, METHOD, HEADER, BODY and TEXT are in hexadecimal, "-" if empty; AT is in
 * microseconds since 1970. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lmdb.h>

#include "base/assert.h"
#include "spool/directory.h"
#include "spool/record.h"
#include "spool/store.h"

enum { WORDS_MAX = 8, BATCH = 1000 };

struct maker {
    struct store *store;
    const char *path;
    struct failure failure;
};

static void open_store(struct maker *maker)
{
    struct store_options options = {.path = maker->path,
                                    .max_size_bytes = UINT64_C(1) << 30,
                                    .sync = STORE_SYNC_NEVER}; /* tests need not survive a crash */
    if (store_open(&maker->store, &options, &maker->failure) == STATUS_OK)
        return;
    fprintf(stderr, "make_spool: %s\n", maker->failure.text);
    exit(1);
}

/* Decodes in place; the bytes are terminated, for those that are text. */
static struct iovec from_hex(char *word)
{
    size_t len = strcmp(word, "-") == 0 ? 0 : strlen(word) / 2;
    for (size_t i = 0; i < len; i++) {
        char digits[3] = {word[2 * i], word[2 * i + 1], '\0'}, *end;
        word[i] = (char)strtoul(digits, &end, 16);
        ENSURE(*end == '\0');
    }
    word[len] = '\0';
    return (struct iovec){word, len};
}

static uint64_t number(const char *word)
{
    return strtoull(word, NULL, 10);
}

static enum status finish(struct maker *maker, enum status status)
{
    if (status == STATUS_OK)
        return store_commit(maker->store, &maker->failure);
    store_abort(maker->store);
    return status;
}

static enum status put_queue(struct maker *maker, char **words, uint64_t *answer)
{
    static const uint8_t sealed[32] = {1};
    struct iovec user = from_hex(words[0]), vhost = from_hex(words[1]);
    uint32_t id = 0;
    enum status status = store_begin(maker->store, &maker->failure);
    if (status != STATUS_OK)
        return status;
    status = finish(maker, store_queue_put(maker->store, user.iov_base, vhost.iov_base, sealed,
                                           sizeof sealed, &id, &maker->failure));
    *answer = id;
    return status;
}

static enum status append(struct maker *maker, uint32_t queue, const struct store_message *message,
                          uint64_t count, uint64_t *answer)
{
    enum status status = STATUS_OK;
    while (count > 0 && status == STATUS_OK) {
        status = store_begin(maker->store, &maker->failure);
        if (status != STATUS_OK)
            return status;
        for (unsigned i = 0; i < BATCH && count > 0 && status == STATUS_OK; i++, count--)
            status = store_append(maker->store, queue, message, answer, &maker->failure);
        status = finish(maker, status);
    }
    return status;
}

static enum status publish(struct maker *maker, char **words, uint64_t *answer)
{
    struct iovec body = from_hex(words[4]);
    struct store_message message = {.kind = RECORD_PUBLISH,
                                    .received_at_us = number(words[1]),
                                    .method = from_hex(words[2]),
                                    .header = from_hex(words[3]),
                                    .body = &body,
                                    .body_count = body.iov_len > 0};
    return append(maker, (uint32_t)number(words[0]), &message, words[5] ? number(words[5]) : 1,
                  answer);
}

static enum status declare(struct maker *maker, char **words, uint64_t *answer)
{
    struct store_message message = {
        .kind = RECORD_DECLARE, .received_at_us = number(words[1]), .method = from_hex(words[2])};
    return append(maker, (uint32_t)number(words[0]), &message, 1, answer);
}

static enum status reject(struct maker *maker, char **words, uint64_t *answer)
{
    struct iovec text = from_hex(words[4]);
    struct rejection rejection = {.code = (uint16_t)number(words[2]),
                                  .text = text.iov_base,
                                  .text_len = (uint16_t)text.iov_len,
                                  .at_us = number(words[3])};
    enum status status = store_begin(maker->store, &maker->failure);
    *answer = 0;
    if (status != STATUS_OK)
        return status;
    return finish(maker, store_reject(maker->store, (uint32_t)number(words[0]), number(words[1]),
                                      &rejection, &maker->failure));
}

static enum status remove_one(struct maker *maker, char **words, uint64_t *answer)
{
    enum status status = store_begin(maker->store, &maker->failure);
    *answer = 0;
    if (status != STATUS_OK)
        return status;
    return finish(maker, store_delete(maker->store, (uint32_t)number(words[0]), number(words[1]),
                                      &maker->failure));
}

static void flip_at(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, bool is_last)
{
    MDB_val value;
    int error = mdb_get(txn, dbi, key, &value);
    ENSURE(error == 0);
    uint8_t *copy = malloc(value.mv_size);
    ENSURE(copy);
    memcpy(copy, value.mv_data, value.mv_size);
    copy[is_last ? value.mv_size - 1 : value.mv_size / 2] ^= 1;
    value.mv_data = copy;
    error = mdb_put(txn, dbi, key, &value, 0);
    ENSURE(error == 0);
    free(copy);
}

static void flip(MDB_txn *txn, MDB_dbi dbi, MDB_val *key)
{
    flip_at(txn, dbi, key, false);
}

static void flip_last(MDB_txn *txn, MDB_dbi dbi, MDB_val *key)
{
    flip_at(txn, dbi, key, true);
}

static void remove_record(MDB_txn *txn, MDB_dbi dbi, MDB_val *key)
{
    int error = mdb_del(txn, dbi, key, NULL);
    ENSURE(error == 0);
}

/* Changes a value through LMDB, with the store closed until the next command: it would mend what
 * does not agree. */
static void change_value(struct maker *maker, const char *database, MDB_val *key,
                         void (*how)(MDB_txn *, MDB_dbi, MDB_val *))
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    store_close(maker->store);
    maker->store = NULL;
    ENSURE(mdb_env_create(&env) == 0);
    ENSURE(mdb_env_set_maxdbs(env, 4) == 0);
    ENSURE(mdb_env_open(env, maker->path, 0, 0600) == 0);
    ENSURE(mdb_txn_begin(env, NULL, 0, &txn) == 0);
    ENSURE(mdb_dbi_open(txn, database, 0, &dbi) == 0);
    how(txn, dbi, key);
    ENSURE(mdb_txn_commit(txn) == 0);
    mdb_env_close(env);
}

static void change(struct maker *maker, char **words, void (*how)(MDB_txn *, MDB_dbi, MDB_val *))
{
    uint8_t bytes[RECORD_KEY_BYTES];
    bool is_rejected = strncmp(words[0], "r/", 2) == 0;
    record_key(bytes, (uint32_t)number(words[0] + (is_rejected ? 2 : 0)), number(words[1]));
    MDB_val key = {sizeof bytes, bytes};
    change_value(maker, is_rejected ? "rejected" : "messages", &key, how);
}

static enum status damage(struct maker *maker, char **words, uint64_t *answer)
{
    *answer = 0;
    change(maker, words, flip);
    return STATUS_OK;
}

static enum status lose(struct maker *maker, char **words, uint64_t *answer)
{
    *answer = 0;
    change(maker, words, remove_record);
    return STATUS_OK;
}

static enum status spoil(struct maker *maker, char **words, uint64_t *answer)
{
    uint8_t bytes[4];
    directory_key(bytes, (uint32_t)number(words[0]));
    MDB_val key = {sizeof bytes, bytes};
    *answer = 0;
    change_value(maker, "queues", &key, flip_last);
    return STATUS_OK;
}

static const struct command {
    const char *name;
    enum status (*run)(struct maker *, char **words, uint64_t *answer);
    unsigned words;
} commands[] = {
    {"queue", put_queue, 2}, {"publish", publish, 5},   {"declare", declare, 3},
    {"reject", reject, 5},   {"delete", remove_one, 2}, {"damage", damage, 2},
    {"lose", lose, 2},       {"spoil", spoil, 1},
};

static void run(struct maker *maker, char *line)
{
    char *words[WORDS_MAX + 1] = {NULL}, *rest = NULL;
    unsigned count = 0;
    for (char *word = strtok_r(line, " \n", &rest); word && count < WORDS_MAX;
         word = strtok_r(NULL, " \n", &rest))
        words[count++] = word;
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (count <= commands[i].words || strcmp(words[0], commands[i].name) != 0)
            continue;
        uint64_t answer = 0;
        if (!maker->store)
            open_store(maker);
        enum status status = commands[i].run(maker, words + 1, &answer);
        if (status == STATUS_OK)
            printf("ok %" PRIu64 "\n", answer);
        else
            printf("error %s: %s\n", status_text(status), maker->failure.text);
        return;
    }
    printf("error no such command\n");
}

int main(int argc, char *argv[])
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_spool DIR\n");
        return 2;
    }
    struct maker maker = {.path = argv[1]};
    char *line = NULL;
    size_t capacity = 0;
    open_store(&maker);
    puts("ok 0");
    fflush(stdout);
    while (getline(&line, &capacity, stdin) > 0) {
        run(&maker, line);
        fflush(stdout);
    }
    free(line);
    if (maker.store)
        store_close(maker.store);
    return 0;
}
