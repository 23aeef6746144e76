#include "proxy/in_flight.h"

#include <stdlib.h>
#include <string.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/memory.h"

static void clear(struct sent *entry)
{
    free(entry->key);
    free(entry->why);
}

struct sent *in_flight_add(struct in_flight *f, const struct job_record *record, uint64_t tag)
{
    if (f->count == f->capacity) {
        f->capacity = f->capacity ? f->capacity * 2 : 64;
        f->all = memory_grow(f->all, f->capacity, sizeof *f->all);
    }
    struct sent *entry = &f->all[f->count++];
    *entry = (struct sent){
        .seq = record->seq,
        .tag = tag,
        .method = record->frames_len > 0 ? wire_get32(record->frames + FRAME_HEAD_BYTES) : 0,
        .method_len = record->method_len,
        .header_len = record->header_len,
    };
    if (tag > 0) {
        const uint8_t *method = record->frames + FRAME_HEAD_BYTES;
        const uint8_t *header = method + record->method_len + FRAME_OVERHEAD_BYTES;
        entry->key = returned_key(method, record->method_len, record->header_len);
        trace_publish(&entry->trace, method, record->method_len, header, record->header_len);
    }
    return entry;
}

static int by_seq(const void *key, const void *element)
{
    uint64_t wanted = *(const uint64_t *)key, seq = ((const struct sent *)element)->seq;
    return (wanted > seq) - (wanted < seq);
}

struct sent *in_flight_find(struct in_flight *f, uint64_t seq)
{
    return f->count ? bsearch(&seq, f->all, f->count, sizeof *f->all, by_seq) : NULL;
}

struct sent *in_flight_first_unconfirmed(struct in_flight *f, uint32_t *count)
{
    struct sent *first = NULL;
    *count = 0;
    for (uint32_t i = 0; i < f->count; i++)
        if (f->all[i].state == SENT_UNCONFIRMED && (*count)++ == 0)
            first = &f->all[i];
    return first;
}

bool in_flight_has_sent(const struct in_flight *f, uint32_t method)
{
    for (uint32_t i = 0; i < f->count; i++)
        if (f->all[i].state == SENT_UNCONFIRMED && (method == 0 || f->all[i].method == method))
            return true;
    return false;
}

struct sent *in_flight_accused(struct in_flight *f, const char *text)
{
    struct accusation accusation = accusation_read(text);
    for (uint32_t i = 0; i < f->count; i++)
        if (f->all[i].state == SENT_UNCONFIRMED && f->all[i].tag > 0 &&
            accusation_fits(&accusation, &f->all[i].trace))
            return &f->all[i];
    return NULL;
}

void in_flight_note_return(struct in_flight *f, const struct returned *returned,
                           const struct frame *header)
{
    for (uint32_t i = 0; i < f->count; i++) {
        struct sent *entry = &f->all[i];
        if (entry->state != SENT_UNCONFIRMED || !entry->key || entry->returned ||
            !returned_is(returned, entry->key, entry->method_len, entry->header_len, header))
            continue;
        entry->returned = returned->code;
        entry->why = strdup(returned->text);
        ENSURE(entry->why);
        return;
    }
}

void in_flight_remove(struct in_flight *f, const uint64_t *seqs, uint32_t count)
{
    uint32_t kept = 0, next = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        while (next < count && seqs[next] < f->all[i].seq)
            next++;
        if (next < count && seqs[next] == f->all[i].seq)
            clear(&f->all[i]);
        else
            f->all[kept++] = f->all[i];
    }
    f->count = kept;
}

void in_flight_forget_unconfirmed(struct in_flight *f)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->count; i++)
        if (f->all[i].state == SENT_UNCONFIRMED)
            clear(&f->all[i]);
        else
            f->all[kept++] = f->all[i];
    f->count = kept;
}

void in_flight_clear(struct in_flight *f)
{
    for (uint32_t i = 0; i < f->count; i++)
        clear(&f->all[i]);
    free(f->all);
    *f = (struct in_flight){0};
}
