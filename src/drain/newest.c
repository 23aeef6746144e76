#include "drain/newest.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "amqp/field.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/memory.h"
#include "spool/store.h"
#include "spooler/framing.h"

enum { PARTS_MAX = 64 }; /* of a body */

static void drop_all(struct newest *n)
{
    if (n->slab)
        slab_unref(n->slab);
    free(n->records);
    *n = (struct newest){.is_whole = n->is_whole, .after = n->after};
}

void newest_begin(struct newest *n, uint64_t last)
{
    drop_all(n);
    n->is_whole = true;
    n->after = last;
}

void newest_forget(struct newest *n)
{
    drop_all(n);
    n->is_whole = false;
}

static bool goes_stale(const struct message *m)
{
    struct cursor value;
    return m->header.len > 0 && field_find(m->header.at, m->header.len, FIELD_EXPIRATION, &value);
}

static bool add_one(struct newest *n, const struct framing *framing,
                    const struct job_append *append, uint64_t seq)
{
    const struct message *m = &append->message;
    struct iovec body[PARTS_MAX];
    struct store_record record = {
        .seq = seq,
        .kind = append->kind,
        .received_at_us = append->received_at_us,
        .method = {m->method.at, m->method.len},
        .header = {m->header.at, m->header.len},
        .body = body,
        .body_count = message_body_iov(m, body, PARTS_MAX),
        .body_size = m->body_size,
    };
    if (record.body_count > PARTS_MAX || goes_stale(m))
        return false;
    if (!n->slab)
        n->slab = slab_new(SLAB_BYTES);
    if (!n->slab ||
        framing_size(framing, &record, &record.header) > n->slab->capacity - n->slab->used)
        return false;
    if (n->first + n->count == n->capacity) {
        n->capacity = n->capacity ? n->capacity * 2 : 16;
        n->records = memory_grow(n->records, n->capacity, sizeof *n->records);
    }
    struct job_record *out = &n->records[n->first + n->count++];
    *out = framing_write(framing, &record, &record.header, n->slab->data + n->slab->used);
    n->slab->used += out->frames_len;
    return true;
}

bool newest_add(struct newest *n, const struct framing *framing, const struct job *job)
{
    ENSURE(n->is_whole);
    uint64_t seq = job->append.last_seq - job->append.count;
    if (job->append.last_seq <= n->after)
        return true;
    bool fits = seq >= n->after;
    n->after = job->append.last_seq;
    for (const struct job_append *a = &job->append.first; fits && a; a = a->next)
        fits = add_one(n, framing, a, ++seq);
    if (!fits)
        newest_forget(n);
    return fits;
}

uint32_t newest_take(struct newest *n, uint32_t max, struct job_record **records,
                     struct slab **slab)
{
    uint32_t count = n->count < max ? n->count : max;
    *records = NULL;
    *slab = NULL;
    if (count == 0)
        return 0;
    *records = memory_grow(NULL, count, sizeof **records);
    memcpy(*records, n->records + n->first, count * sizeof **records);
    *slab = slab_ref(n->slab);
    n->first += count;
    n->count -= count;
    if (n->count == 0)
        drop_all(n);
    return count;
}
