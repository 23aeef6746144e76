#include "store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "spool/store.h"

struct fake_store fake_store;

enum { RECORDS = 64, QUEUES = 8, PART_BYTES = 8192 };

struct record {
    uint64_t seq;
    uint32_t queue;
    enum record_kind kind;
    uint64_t received_at_us;
    bool is_there, is_rejected;
    uint8_t bytes[3][PART_BYTES];
    size_t len[3];
};

struct contents {
    struct record records[RECORDS];
    char users[QUEUES][32];
    uint8_t sealed[QUEUES][128];
    size_t sealed_len[QUEUES];
    uint64_t last_seq;
};

struct store {
    bool writes;
};

static struct contents now, before; /* a transaction */
static struct store store;

void fake_store_reset(void)
{
    fake_store = (struct fake_store){.has_room = true};
    memset(&now, 0, sizeof now);
}

static enum status fail(struct failure *failure, enum status status, const char *text)
{
    snprintf(failure->text, sizeof failure->text, "%s", text);
    failure->status = status;
    return status;
}

enum status store_open(struct store **out, const struct store_options *options,
                       struct failure *failure)
{
    (void)options, (void)failure;
    store = (struct store){0};
    *out = &store;
    fake_store.opened++;
    fake_store.lock_is_gone = false;
    return STATUS_OK;
}

void store_close(struct store *s)
{
    if (s->writes)
        store_abort(s);
}

bool store_was_restored(const struct store *s)
{
    (void)s;
    return false;
}

enum status store_look_at_place(struct store *s)
{
    (void)s;
    return fake_store.lock_is_gone ? STATUS_FATAL : STATUS_OK;
}

const char *store_misplaced(const struct store *s)
{
    (void)s;
    return fake_store.misplaced;
}

enum status store_begin(struct store *s, struct failure *failure)
{
    (void)failure;
    s->writes = true;
    before = now;
    return STATUS_OK;
}

enum status store_commit(struct store *s, struct failure *failure)
{
    s->writes = false;
    if (fake_store.fail_commits > 0) {
        fake_store.fail_commits--;
        now = before;
        return fail(failure, fake_store.failure, "the commit failed");
    }
    fake_store.commits++;
    return STATUS_OK;
}

void store_abort(struct store *s)
{
    s->writes = false;
    now = before;
    fake_store.aborts++;
}

enum status store_sync(struct store *s, struct failure *failure)
{
    (void)s;
    if (fake_store.fail_syncs > 0) {
        fake_store.fail_syncs--;
        return fail(failure, STATUS_IO, "the sync failed");
    }
    fake_store.syncs++;
    return STATUS_OK;
}

enum status store_rest(struct store *s, struct failure *failure)
{
    return store_sync(s, failure);
}

bool store_gives_back(const struct store *s, bool is_busy)
{
    (void)s, (void)is_busy;
    return false;
}

enum status store_give_back(struct store *s, uint64_t budget_ns, bool (*is_awaited)(void *arg),
                            void *arg, struct failure *failure)
{
    (void)s, (void)budget_ns, (void)is_awaited, (void)arg, (void)failure;
    return STATUS_OK;
}

enum status store_probe(struct store *s, struct failure *failure)
{
    (void)s, (void)failure;
    fake_store.probes++;
    return STATUS_OK;
}

/* ---- queues ---- */

enum status store_queue_put(struct store *s, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t sealed_len, uint32_t *id,
                            struct failure *failure)
{
    (void)s, (void)vhost, (void)failure;
    uint32_t i = 1;
    while (now.users[i][0] && strcmp(now.users[i], user) != 0)
        i++;
    snprintf(now.users[i], sizeof now.users[i], "%s", user);
    memcpy(now.sealed[i], sealed, sealed_len);
    now.sealed_len[i] = sealed_len;
    *id = i;
    return STATUS_OK;
}

enum status store_queue_drop(struct store *s, uint32_t id, struct failure *failure)
{
    (void)s;
    for (unsigned i = 0; i < RECORDS; i++)
        if (now.records[i].is_there && now.records[i].queue == id)
            return fail(failure, STATUS_INVALID, "something waits");
    now.users[id][0] = 0;
    return STATUS_OK;
}

static struct store_queue describe(uint32_t i)
{
    struct store_queue queue = {.id = i,
                                .user = now.users[i],
                                .vhost = "/",
                                .sealed = now.sealed[i],
                                .sealed_len = now.sealed_len[i]};
    for (unsigned k = 0; k < RECORDS; k++)
        if (now.records[k].is_there && now.records[k].queue == i) {
            queue.messages += !now.records[k].is_rejected;
            queue.rejected += now.records[k].is_rejected;
        }
    return queue;
}

void store_queues(const struct store *s, bool (*visit)(void *arg, const struct store_queue *),
                  void *arg)
{
    (void)s;
    for (uint32_t i = 1; i < QUEUES; i++) {
        struct store_queue queue = describe(i);
        if (now.users[i][0] && !visit(arg, &queue))
            break;
    }
}

/* All, as if each had changed. */
void store_changes(struct store *s, void (*visit)(void *arg, const struct store_queue *), void *arg)
{
    (void)s;
    for (uint32_t i = 1; i < QUEUES; i++) {
        struct store_queue queue = describe(i);
        if (now.users[i][0])
            visit(arg, &queue);
    }
}

/* ---- messages ---- */

static size_t gather(uint8_t out[PART_BYTES], const struct iovec *parts, size_t count)
{
    size_t len = 0;
    for (size_t i = 0; i < count; i++) {
        memcpy(out + len, parts[i].iov_base, parts[i].iov_len);
        len += parts[i].iov_len;
    }
    return len;
}

static enum status add(uint32_t queue, const struct store_message *m, bool rejected, uint64_t *seq,
                       struct failure *failure)
{
    if (fake_store.fail_appends > 0 && fake_store.skip > 0) {
        fake_store.skip--;
    } else if (fake_store.fail_appends > 0) {
        fake_store.fail_appends--;
        return fail(failure, fake_store.failure, "the append failed");
    }
    struct record *r = now.records;
    while (r->is_there)
        r++;
    *r = (struct record){.seq = ++now.last_seq,
                         .queue = queue,
                         .kind = m->kind,
                         .received_at_us = m->received_at_us,
                         .is_there = true,
                         .is_rejected = rejected};
    r->len[0] = gather(r->bytes[0], &m->method, 1);
    r->len[1] = m->header.iov_len ? gather(r->bytes[1], &m->header, 1) : 0;
    r->len[2] = gather(r->bytes[2], m->body, m->body_count);
    *seq = r->seq;
    return STATUS_OK;
}

enum status store_append(struct store *s, uint32_t queue, const struct store_message *m,
                         uint64_t *seq, struct failure *failure)
{
    (void)s;
    return add(queue, m, false, seq, failure);
}

enum status store_append_rejected(struct store *s, uint32_t queue, const struct store_message *m,
                                  const struct rejection *rejection, uint64_t *seq,
                                  struct failure *failure)
{
    (void)s, (void)rejection;
    return add(queue, m, true, seq, failure);
}

/* Which message does not fit is told by the append. */
uint64_t store_append_cost(const struct store *s, uint32_t queue, const struct store_message *m)
{
    (void)s, (void)queue, (void)m;
    return 0;
}

enum status store_room_for(struct store *s, uint64_t cost, struct failure *failure)
{
    (void)s, (void)cost, (void)failure;
    return STATUS_OK;
}

static struct record *find(uint32_t queue, uint64_t seq)
{
    for (unsigned i = 0; i < RECORDS; i++)
        if (now.records[i].is_there && now.records[i].queue == queue && now.records[i].seq == seq)
            return &now.records[i];
    return NULL;
}

enum status store_delete(struct store *s, uint32_t queue, uint64_t seq, struct failure *failure)
{
    (void)s;
    struct record *r = find(queue, seq);
    if (seq == fake_store.damaged)
        return fail(failure, STATUS_INVALID, "damaged");
    if (!r)
        return fail(failure, STATUS_NOT_FOUND, "no such message");
    r->is_there = false;
    return STATUS_OK;
}

enum status store_reject(struct store *s, uint32_t queue, uint64_t seq,
                         const struct rejection *rejection, struct failure *failure)
{
    (void)s, (void)rejection;
    struct record *r = find(queue, seq);
    if (seq == fake_store.damaged)
        return fail(failure, STATUS_INVALID, "damaged");
    if (!r)
        return fail(failure, STATUS_NOT_FOUND, "no such message");
    r->is_rejected = true;
    return STATUS_OK;
}

uint64_t store_last_seq(struct store *s, uint32_t queue)
{
    (void)s, (void)queue;
    return now.last_seq;
}

static struct record *next_rejected(uint32_t queue, uint64_t after, uint64_t last)
{
    struct record *best = NULL;
    for (unsigned i = 0; i < RECORDS; i++) {
        struct record *r = &now.records[i];
        if (r->is_there && r->is_rejected && r->queue == queue && r->seq > after &&
            r->seq <= last && (!best || r->seq < best->seq))
            best = r;
    }
    return best;
}

enum status store_copy_rejected(struct store *s, uint32_t queue, uint64_t after,
                                struct reader_record *record, uint8_t **bytes,
                                struct failure *failure)
{
    (void)s;
    (void)queue;
    (void)after;
    (void)record;
    *bytes = NULL;
    return fail(failure, STATUS_NOT_FOUND, "no such message");
}

enum status store_discard(struct store *s, uint32_t queue, uint64_t after, uint64_t last,
                          uint64_t *seq, struct failure *failure)
{
    (void)s;
    struct record *r = next_rejected(queue, after, last);
    if (!r)
        return fail(failure, STATUS_NOT_FOUND, "no such message");
    *seq = r->seq;
    r->is_there = false;
    return STATUS_OK;
}

/* Nothing here is ever damaged. */
enum status store_discard_damaged(struct store *s, uint32_t queue, uint64_t seq,
                                  struct failure *failure)
{
    (void)s, (void)queue, (void)seq;
    return fail(failure, STATUS_NOT_FOUND, "no such message");
}

enum status store_retry(struct store *s, uint32_t queue, uint64_t after, uint64_t last,
                        uint64_t *seq, struct failure *failure)
{
    (void)s;
    struct record *r = next_rejected(queue, after, last);
    if (!r)
        return fail(failure, STATUS_NOT_FOUND, "no such message");
    *seq = r->seq;
    r->is_rejected = false;
    r->seq = ++now.last_seq;
    return STATUS_OK;
}

enum status store_read(struct store *s, uint32_t queue, uint64_t after,
                       const struct store_visitor *visitor, struct failure *failure)
{
    (void)s, (void)failure;
    for (uint64_t seq = after + 1; seq <= now.last_seq; seq++) {
        struct record *r = find(queue, seq);
        if (!r || r->is_rejected)
            continue;
        if (seq == fake_store.damaged) {
            visitor->damaged(visitor->arg, seq);
            continue;
        }
        struct iovec body = {r->bytes[2], r->len[2]};
        struct store_record out = {.seq = seq,
                                   .kind = r->kind,
                                   .received_at_us = r->received_at_us,
                                   .method = {r->bytes[0], r->len[0]},
                                   .header = {r->bytes[1], r->len[1]},
                                   .body_size = r->len[2]};
        enum store_choice choice =
            visitor->choose ? visitor->choose(visitor->arg, &out) : STORE_TAKE;
        out.body = &body;
        out.body_count = 1;
        fake_store.bodies += choice == STORE_TAKE;
        if (choice == STORE_STOP || (choice == STORE_TAKE && !visitor->visit(visitor->arg, &out)))
            break;
    }
    return STATUS_OK;
}

/* ---- room ---- */

bool store_has_room(struct store *s)
{
    (void)s;
    return fake_store.has_room;
}

bool store_is_beyond(const struct store *s)
{
    (void)s;
    return false;
}

struct store_holder store_holder(const struct store *s)
{
    (void)s;
    return (struct store_holder){0};
}

void store_usage(struct store *s, uint64_t *used_bytes, uint64_t *max_bytes)
{
    (void)s;
    *used_bytes = 1000;
    *max_bytes = 2000;
}
