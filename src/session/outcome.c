#include "session/outcome.h"

#include <stdio.h>
#include <stdlib.h>

#include "amqp/wire.h"
#include "base/assert.h"
#include "base/crash_point.h"
#include "base/log.h"
#include "drain/blame.h"
#include "drain/returned.h"
#include "drain/suspect.h"
#include "peer/runtime.h"
#include "pool/append.h"
#include "pool/doubt.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/keeping.h"

static bool can_keep(const struct relay *r, const struct retained *entry)
{
    return retained_is_kept(entry) && r->pool->queue->backlog.id;
}

/* Its publisher hears nothing of it. */
static void spool(struct relay *r, struct retained *entry)
{
    struct message message;
    retained_take(entry, &message);
    append_publish(r->pool, keeping_publisher(r), &message, 0);
}

/* RabbitMQ does not want it. */
static void set_aside(struct relay *r, struct retained *entry, uint16_t code, const char *text)
{
    struct message message;
    retained_take(entry, &message);
    append_rejected(r->pool, keeping_publisher(r), &message, code, text);
}

/* ---- confirms ---- */

/* A nack that no client hears of (it did not ask for confirms, or is gone) must not make the
 * message vanish. It is RabbitMQ's failure, not the message's: the drain tries it again. False if
 * it is lost: the spool has not even taken its login. */
static bool keep_refused(struct relay *r, struct retained *entry)
{
    bool heard = r->channel && entry->client_tag;
    if (heard || !runtime_buffers(r->pool->rt))
        return true;
    if (!can_keep(r, entry))
        return false;
    spool(r, entry);
    return true;
}

static void tell_confirmed(struct relay *r, const struct retained *entry, bool nack)
{
    if (!r->channel || !entry->client_tag)
        return;
    if (nack)
        channel_nack(r->channel, entry->client_tag);
    else
        channel_ack(r->channel, entry->client_tag);
}

static void settle_doubted(struct retained *entry, bool nack)
{
    retained_move(entry, RETAINED_SETTLED); /* its publisher hears of the copy */
    nack ? doubt_lost(entry->doubt) : doubt_confirmed(entry->doubt);
}

/* Those to one destination that lie behind each other are counted together. False if it is lost. */
static bool settle(struct relay *r, struct retained *entry, bool nack, struct lot *lot)
{
    if (entry->state == RETAINED_DOUBTED)
        settle_doubted(entry, nack);
    if (entry->state != RETAINED_OPEN)
        return true;
    if (entry->destination != lot->destination) {
        keeping_closed(r, lot);
        *lot = (struct lot){.destination = entry->destination};
    }
    lot->count++;
    lot->bytes += entry->bytes;
    tell_confirmed(r, entry, nack);
    bool is_safe = !nack || keep_refused(r, entry);
    retained_drop(entry);
    retained_move(entry, RETAINED_SETTLED);
    return is_safe;
}

/* Confirms of publishes. Tags count the publishes of this upstream channel, whoever made them;
 * the client's own tag stands in the retained entry. False if one of them is lost. */
static bool confirm(struct relay *r, uint64_t tag, bool multiple, bool nack)
{
    uint64_t oldest = r->sent_tag - r->unconfirmed.count + 1;
    if (tag == 0 && multiple)
        tag = r->sent_tag;
    if (tag < oldest || tag > r->sent_tag)
        return true;
    struct lot lot = {0};
    bool are_safe = true;
    for (uint64_t k = multiple ? oldest : tag; k <= tag; k++)
        are_safe &= settle(r, unconfirmed_at(&r->unconfirmed, (uint32_t)(k - oldest)), nack, &lot);
    keeping_closed(r, &lot);
    unconfirmed_drop_settled(&r->unconfirmed);
    return are_safe;
}

enum outcome outcome_confirm(struct relay *r, const struct frame *frame, bool nack)
{
    if (frame->payload_len < 13)
        return OUTCOME_NONE;
    CRASH_POINT("before_confirm");
    uint64_t tag = wire_get64(frame->payload + 4);
    if (nack)
        LOG_OFTEN(LOG_WARN, "publish_nacked", LOG_T("user", r->pool->user),
                  LOG_T("vhost", r->pool->vhost), LOG_N("tag", tag));
    bool are_safe = confirm(r, tag, frame->payload[12] & 1, nack);
    r->nacked = r->nacked || nack;
    return are_safe ? OUTCOME_SAFE : OUTCOME_LOST;
}

/* ---- a channel that RabbitMQ has closed ---- */

static bool can_keep_all(struct relay *r)
{
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state == RETAINED_OPEN && !can_keep(r, entry))
            return false;
    }
    return true;
}

/* The only publish that RabbitMQ can mean, or NULL. One in doubt may be meant as well. */
static struct retained *only_unconfirmed(struct relay *r)
{
    struct retained *only = NULL;
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state == RETAINED_SETTLED)
            continue;
        if (only || entry->state == RETAINED_DOUBTED)
            return NULL;
        only = entry;
    }
    return only;
}

static bool is_about_a_message(const amqp_channel_close_t *m, const char *text)
{
    return m->class_id == 60 && m->method_id == 40 &&
           (m->reply_code == 403 || m->reply_code == 404 || m->reply_code == 406) &&
           blame_of(m->reply_code, text) != BLAME_BROKER;
}

/* Its exchange is the one that RabbitMQ does not know: it takes none of those. */
static bool goes_nowhere(const struct retained *entry, const struct accusation *missing)
{
    struct message view;
    struct trace trace;
    const struct message *message = retained_look(entry, &view);
    trace_publish(&trace, message->method.at, message->method.len, message->header.at,
                  message->header.len);
    return accusation_fits(missing, &trace);
}

bool outcome_keep(struct relay *r, const amqp_channel_close_t *m)
{
    const struct retained *only = only_unconfirmed(r);
    if (!runtime_buffers(r->pool->rt) || !can_keep_all(r))
        return false;
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)m->reply_text.len, (const char *)m->reply_text.bytes);
    bool is_about_one = is_about_a_message(m, text);
    struct accusation missing = {0};
    if (is_about_one && blame_of(m->reply_code, text) == BLAME_MISSING)
        missing = accusation_read(text);
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        if (entry->state != RETAINED_OPEN)
            continue;
        if ((entry == only && is_about_one) || goes_nowhere(entry, &missing))
            set_aside(r, entry, m->reply_code, text);
        else
            spool(r, entry);
    }
    return true;
}

/* ---- returns ---- */

void outcome_begin_return(struct relay *r, const struct frame *frame)
{
    if (!r->returned)
        r->returned = calloc(1, sizeof *r->returned);
    ENSURE(r->returned);
    returned_begin(r->returned, frame);
}

void outcome_note_header(struct relay *r, struct slab *slab, const struct frame *header)
{
    if (!r->returned || !r->returned->active || header->type != FRAME_HEADER)
        return;
    span_clear(&r->returned_header);
    r->returned_header = span_of(slab, header->payload, header->payload_len);
}

void outcome_end_return(struct relay *r)
{
    if (r->returned)
        r->returned->active = false;
    span_clear(&r->returned_header);
}

static struct retained *find_returned(struct relay *r, const struct frame *header, bool as_sent)
{
    for (uint32_t i = 0; i < r->unconfirmed.count; i++) {
        struct retained *entry = unconfirmed_at(&r->unconfirmed, i);
        struct message view;
        bool is_it = false;
        if (entry->state == RETAINED_DOUBTED)
            is_it = doubt_is_returned(entry->doubt, r->returned, header, as_sent);
        else if (entry->state == RETAINED_OPEN && can_keep(r, entry))
            is_it = returned_is_message(r->returned, retained_look(entry, &view), header, as_sent);
        if (is_it)
            return entry;
    }
    return NULL;
}

static void keep_returned(struct relay *r, const struct frame *header)
{
    const struct returned *returned = r->returned;
    struct retained *entry = find_returned(r, header, true);
    if (!entry)
        entry = find_returned(r, header, false);
    if (!entry)
        return;
    if (entry->state == RETAINED_DOUBTED) {
        doubt_note_return(entry->doubt, returned->code, returned->text);
        return;
    }
    set_aside(r, entry, returned->code, returned->text);
    keeping_forget(r, entry);
    retained_move(entry, RETAINED_SETTLED);
}

void outcome_keep_return(struct relay *r)
{
    const struct span *at = &r->returned_header;
    if (!at->slab)
        return;
    struct frame header = {
        .type = FRAME_HEADER, .payload = at->at, .payload_len = (uint32_t)at->len};
    keep_returned(r, &header);
    outcome_end_return(r);
}
