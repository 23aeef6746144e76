#include "drain/in_flight.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "amqp/wire.h"
#include "base/assert.h"
#include "base/memory.h"
#include "base/states.h"

static const struct states states = {
    .object = "record in flight",
    .names = {[SENT_UNCONFIRMED] = "unconfirmed",
              [SENT_PARKED] = "parked",
              [SENT_CONFIRMED] = "confirmed",
              [SENT_AGAIN] = "again",
              [SENT_UNDELETED] = "undeleted",
              [SENT_GONE] = "gone"},
    .next =
        {
            [SENT_UNCONFIRMED] = TO(SENT_PARKED) | TO(SENT_CONFIRMED) | TO(SENT_GONE),
            [SENT_PARKED] = TO(SENT_CONFIRMED) | TO(SENT_GONE),
            [SENT_CONFIRMED] = TO(SENT_AGAIN) | TO(SENT_UNDELETED) | TO(SENT_GONE),
            [SENT_AGAIN] = TO(SENT_GONE),
            [SENT_UNDELETED] = TO(SENT_CONFIRMED) | TO(SENT_GONE),
        },
};

static bool has_place(const struct sent *entry)
{
    return entry->state != SENT_PARKED && entry->state != SENT_GONE;
}

/* Adds it to the counts, or takes it out of them. */
static void count(struct in_flight *f, const struct sent *entry, bool in)
{
    uint32_t one = in ? 1 : UINT32_MAX; /* modulo 2^32 */
    if (entry->state != SENT_GONE)
        f->count += one;
    if (entry->state == SENT_PARKED)
        f->parked += one;
    if (entry->state == SENT_UNCONFIRMED)
        f->unconfirmed += one;
    if (has_place(entry))
        f->bytes += in ? entry->bytes : -entry->bytes;
    if (entry->tag == 0 || !sent_is_open(entry))
        return;
    if (in)
        window_take(&f->open, entry->destination, 1);
    else
        window_give_back(&f->open, entry->destination, 1);
}

void in_flight_set(struct in_flight *f, struct sent *entry, enum sent_state state)
{
    count(f, entry, false);
    STATE_MOVE(&states, entry->state, state);
    count(f, entry, true);
}

/* ---- in sequence order ---- */

static void let_go(struct in_flight *f, struct sent *entry)
{
    in_flight_set(f, entry, SENT_GONE);
    free(entry->names);
    free(entry->why);
    entry->names = NULL;
    entry->why = NULL;
}

static int by_seq(const void *key, const void *element)
{
    uint64_t wanted = *(const uint64_t *)key, seq = ((const struct sent *)element)->seq;
    return (wanted > seq) - (wanted < seq);
}

static struct sent *find_any(const struct in_flight *f, uint64_t seq)
{
    if (f->first == f->end || seq > f->all[f->end - 1].seq)
        return NULL;
    return bsearch(&seq, f->all + f->first, f->end - f->first, sizeof *f->all, by_seq);
}

void sent_reject(struct sent *entry, uint16_t code, const char *text)
{
    char *why = strdup(text); /* `text` may be the entry's own */
    ENSURE(why);
    free(entry->why);
    entry->why = why;
    entry->returned = code;
    entry->is_rejected = true;
}

void sent_name(const struct sent *entry, char exchange[256], char routing_key[256])
{
    struct publish publish = {0};
    publish_parse(entry->names, entry->names_len, &publish);
    snprintf(exchange, 256, "%.*s", (int)publish.exchange_len, (const char *)publish.exchange);
    snprintf(routing_key, 256, "%.*s", (int)publish.routing_key_len,
             (const char *)publish.routing_key);
}

uint32_t in_flight_open_of(const struct in_flight *f, uint64_t destination)
{
    return window_share(&f->open, destination);
}

struct sent *in_flight_find(const struct in_flight *f, uint64_t seq)
{
    struct sent *entry = find_any(f, seq);
    return entry && entry->state != SENT_GONE ? entry : NULL;
}

/* Those that are gone make room: at the front at once, behind one that stays when they are most. */
static void close_gaps(struct in_flight *f)
{
    while (f->first < f->end && f->all[f->first].state == SENT_GONE)
        f->first++;
    if (f->end - f->first <= 2 * f->count + 64 && f->end < f->capacity)
        return;
    uint32_t kept = 0;
    for (uint32_t i = f->first; i < f->end; i++)
        if (f->all[i].state != SENT_GONE)
            f->all[kept++] = f->all[i];
    f->first = 0;
    f->end = kept;
}

static void make_room(struct in_flight *f)
{
    close_gaps(f);
    if (f->end < f->capacity - f->capacity / 4)
        return;
    f->capacity = f->capacity ? f->capacity * 2 : 64;
    f->all = memory_grow(f->all, f->capacity, sizeof *f->all);
}

/* Its place among those in sequence order, mostly the last. One that is sent once more has the
 * place that it had, if that is still there. */
static struct sent *make_place(struct in_flight *f, uint64_t seq)
{
    struct sent *old = find_any(f, seq);
    if (old) {
        ENSURE(old->state == SENT_GONE);
        return old;
    }
    if (f->end == f->capacity)
        make_room(f);
    uint32_t at = f->end++;
    for (; at > f->first && f->all[at - 1].seq > seq; at--)
        f->all[at] = f->all[at - 1];
    return &f->all[at];
}

struct sent *in_flight_next(const struct in_flight *f, uint32_t *at)
{
    for (uint32_t i = f->first + *at; i < f->end; i++) {
        if (f->all[i].state == SENT_GONE)
            continue;
        *at = i + 1 - f->first;
        return &f->all[i];
    }
    return NULL;
}

/* ---- by delivery tag ---- */

static struct sent *open_at(const struct in_flight *f, const struct sent_tag *tag)
{
    struct sent *entry = in_flight_find(f, tag->seq);
    return entry && entry->tag == tag->tag && sent_is_open(entry) ? entry : NULL;
}

static void drop_answered_tags(struct in_flight *f)
{
    uint32_t kept = 0;
    for (uint32_t i = f->tags_first; i < f->tags_end; i++)
        if (open_at(f, &f->tags[i]))
            f->tags[kept++] = f->tags[i];
    f->tags_first = 0;
    f->tags_end = kept;
}

static void make_room_for_tags(struct in_flight *f)
{
    drop_answered_tags(f);
    if (f->tags_end < f->tags_capacity - f->tags_capacity / 4)
        return;
    f->tags_capacity = f->tags_capacity ? f->tags_capacity * 2 : 64;
    f->tags = memory_grow(f->tags, f->tags_capacity, sizeof *f->tags);
}

void in_flight_new_channel(struct in_flight *f)
{
    ENSURE(!in_flight_oldest(f));
    f->tags_first = f->tags_end = 0;
}

static void add_tag(struct in_flight *f, uint64_t tag, uint64_t seq)
{
    if (f->tags_end == f->tags_capacity)
        make_room_for_tags(f);
    f->tags[f->tags_end++] = (struct sent_tag){tag, seq};
}

static int by_tag(const void *key, const void *element)
{
    uint64_t wanted = *(const uint64_t *)key, tag = ((const struct sent_tag *)element)->tag;
    return (wanted > tag) - (wanted < tag);
}

struct sent *in_flight_tagged(struct in_flight *f, uint64_t tag)
{
    uint32_t count = f->tags_end - f->tags_first;
    const struct sent_tag *found =
        count ? bsearch(&tag, f->tags + f->tags_first, count, sizeof *f->tags, by_tag) : NULL;
    return found ? open_at(f, found) : NULL;
}

struct sent *in_flight_oldest(struct in_flight *f)
{
    for (; f->tags_first < f->tags_end; f->tags_first++) {
        struct sent *entry = open_at(f, &f->tags[f->tags_first]);
        if (entry)
            return entry;
    }
    return NULL;
}

static uint32_t first_tag_behind(const struct in_flight *f, uint64_t tag)
{
    uint32_t low = f->tags_first, high = f->tags_end;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (f->tags[middle].tag <= tag)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct sent *in_flight_behind(const struct in_flight *f, uint64_t tag)
{
    for (uint32_t i = first_tag_behind(f, tag); i < f->tags_end; i++) {
        struct sent *entry = open_at(f, &f->tags[i]);
        if (entry)
            return entry;
    }
    return NULL;
}

/* ---- what is sent ---- */

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
        .bytes = record->frames_len,
        .sent_ms = now_ms,
    };
    count(f, entry, true);
    if (tag > 0) {
        remember(entry, record);
        add_tag(f, tag, entry->seq);
    }
    return entry;
}

/* ---- what becomes of it ---- */

struct sent *in_flight_first_open(const struct in_flight *f, uint32_t *count)
{
    *count = f->unconfirmed + f->parked;
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(f, &at)) != NULL;)
        if (sent_is_open(entry))
            return entry;
    return NULL;
}

bool in_flight_has_sent(const struct in_flight *f, uint32_t method)
{
    if (method == 0 || f->unconfirmed == 0)
        return f->unconfirmed > 0;
    const struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(f, &at)) != NULL;)
        if (entry->state == SENT_UNCONFIRMED && entry->method == method)
            return true;
    return false;
}

struct sent *in_flight_accused(struct in_flight *f, const char *text)
{
    struct accusation accusation = accusation_read(text);
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(f, &at)) != NULL;)
        if (sent_is_open(entry) && entry->tag > 0 && accusation_fits(&accusation, &entry->trace))
            return entry;
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
    uint64_t size = returned_body_size(header);
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(f, &at)) != NULL;) {
        if (sent_is_open(entry) && entry->tag > 0 && !entry->returned &&
            (as_sent ? entry->header_hash == hash : entry->trace.body_size == size) &&
            returned_names(returned, entry->names, entry->names_len))
            return entry;
    }
    return NULL;
}

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
    for (uint32_t i = 0; i < count; i++) {
        struct sent *entry = in_flight_find(f, seqs[i]);
        if (entry)
            let_go(f, entry);
    }
    close_gaps(f);
}

static uint32_t forget(struct in_flight *f, bool (*goes)(const struct sent *, uint64_t),
                       uint64_t arg)
{
    uint32_t places = in_flight_in_window(f);
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(f, &at)) != NULL;)
        if (goes(entry, arg))
            let_go(f, entry);
    close_gaps(f);
    return places - in_flight_in_window(f);
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

uint32_t in_flight_forget_open(struct in_flight *f, uint64_t destination)
{
    return forget(f, is_open_for, destination);
}

uint32_t in_flight_forget_again(struct in_flight *f)
{
    return forget(f, is_again, 0);
}

void in_flight_clear(struct in_flight *f)
{
    struct sent *entry;
    for (uint32_t at = 0; (entry = in_flight_next(f, &at)) != NULL;)
        let_go(f, entry);
    window_clear(&f->open);
    free(f->all);
    free(f->tags);
    *f = (struct in_flight){0};
}
