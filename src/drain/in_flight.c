#include "drain/in_flight.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "amqp/frame.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/memory.h"
#include "base/states.h"

static void clear(struct in_flight *f, struct sent *entry)
{
    f->parked -= entry->state == SENT_PARKED;
    free(entry->names);
    free(entry->why);
}

/* Its place among those in sequence order, mostly the last. */
static struct sent *make_place(struct in_flight *f, uint64_t seq)
{
    if (f->count == f->capacity) {
        f->capacity = f->capacity ? f->capacity * 2 : 64;
        f->all = memory_grow(f->all, f->capacity, sizeof *f->all);
    }
    uint32_t at = f->count++;
    for (; at > 0 && f->all[at - 1].seq > seq; at--)
        f->all[at] = f->all[at - 1];
    return &f->all[at];
}

static void remember(struct sent *entry, const struct job_record *record)
{
    const uint8_t *method = record->frames + FRAME_HEAD_BYTES;
    const uint8_t *header = method + record->method_len + FRAME_OVERHEAD_BYTES;
    entry->names = malloc(record->method_len);
    ENSURE(entry->names);
    memcpy(entry->names, method, record->method_len);
    entry->names_len = record->method_len;
    entry->header_hash = XXH3_64bits(header, record->header_len);
    trace_publish(&entry->trace, method, record->method_len, header, record->header_len);
}

struct sent *in_flight_add(struct in_flight *f, const struct job_record *record, uint64_t tag,
                           uint64_t now_ms)
{
    struct sent *entry = make_place(f, record->seq);
    *entry = (struct sent){
        .seq = record->seq,
        .tag = tag,
        .method = record->frames_len > 0 ? wire_get32(record->frames + FRAME_HEAD_BYTES) : 0,
        .destination = record->destination,
        .mandatory = record->mandatory,
        .sent_ms = now_ms,
    };
    if (tag > 0)
        remember(entry, record);
    return entry;
}

static const struct states states = {
    .object = "record in flight",
    .names = {[SENT_UNCONFIRMED] = "unconfirmed",
              [SENT_PARKED] = "parked",
              [SENT_CONFIRMED] = "confirmed",
              [SENT_AGAIN] = "again",
              [SENT_UNDELETED] = "undeleted"},
    .next =
        {
            [SENT_UNCONFIRMED] = TO(SENT_PARKED) | TO(SENT_CONFIRMED),
            [SENT_PARKED] = TO(SENT_CONFIRMED),
            [SENT_CONFIRMED] = TO(SENT_AGAIN) | TO(SENT_UNDELETED),
            [SENT_UNDELETED] = TO(SENT_CONFIRMED),
        },
};

void in_flight_set(struct in_flight *f, struct sent *entry, enum sent_state state)
{
    f->parked -= entry->state == SENT_PARKED;
    f->parked += state == SENT_PARKED;
    STATE_MOVE(&states, entry->state, state);
}

uint32_t in_flight_in_window(const struct in_flight *f)
{
    return f->count - f->parked;
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

static void note(struct sent *entry, const struct returned *returned)
{
    entry->returned = returned->code;
    entry->why = strdup(returned->text);
    ENSURE(entry->why);
}

static struct sent *find_returned(struct in_flight *f, const struct returned *returned,
                                  const struct frame *header, bool as_sent)
{
    uint64_t hash = XXH3_64bits(header->payload, header->payload_len);
    uint64_t size = header->payload_len >= 12 ? wire_get64(header->payload + 4) : 0;
    for (uint32_t i = 0; i < f->count; i++) {
        struct sent *entry = &f->all[i];
        if (sent_is_open(entry) && entry->tag > 0 && !entry->returned &&
            (as_sent ? entry->header_hash == hash : entry->trace.body_size == size) &&
            returned_names(returned, entry->names, entry->names_len))
            return entry;
    }
    return NULL;
}

/* RabbitMQ may have changed the header meanwhile: it takes BCC out, interceptors add to it. */
void in_flight_note_return(struct in_flight *f, const struct returned *returned,
                           const struct frame *header)
{
    struct sent *entry = find_returned(f, returned, header, true);
    if (!entry)
        entry = find_returned(f, returned, header, false);
    if (entry)
        note(entry, returned);
}

void in_flight_remove(struct in_flight *f, const uint64_t *seqs, uint32_t count)
{
    uint32_t kept = 0, next = 0;
    for (uint32_t i = 0; i < f->count; i++) {
        while (next < count && seqs[next] < f->all[i].seq)
            next++;
        if (next < count && seqs[next] == f->all[i].seq)
            clear(f, &f->all[i]);
        else
            f->all[kept++] = f->all[i];
    }
    f->count = kept;
}

static void keep_only(struct in_flight *f, bool (*goes)(const struct sent *, uint64_t),
                      uint64_t arg)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < f->count; i++)
        if (goes(&f->all[i], arg))
            clear(f, &f->all[i]);
        else
            f->all[kept++] = f->all[i];
    f->count = kept;
}

static bool is_open_for(const struct sent *entry, uint64_t destination)
{
    return sent_is_open(entry) && (destination == 0 || entry->destination == destination);
}

static bool is_again(const struct sent *entry, uint64_t unused)
{
    (void)unused;
    return entry->state == SENT_AGAIN;
}

void in_flight_forget_open(struct in_flight *f, uint64_t destination)
{
    keep_only(f, is_open_for, destination);
}

void in_flight_forget_again(struct in_flight *f)
{
    keep_only(f, is_again, 0);
}

void in_flight_clear(struct in_flight *f)
{
    for (uint32_t i = 0; i < f->count; i++)
        clear(f, &f->all[i]);
    free(f->all);
    *f = (struct in_flight){0};
}
