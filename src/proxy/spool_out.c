#include "proxy/spool_out.h"

#include <stdio.h>
#include <string.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "base/handles.h"
#include "base/log.h"
#include "proxy/channel.h"
#include "proxy/client.h"
#include "proxy/doubt.h"
#include "proxy/drain.h"
#include "proxy/pool.h"
#include "proxy/queue.h"
#include "proxy/runtime.h"

/* Happy path: the job goes to the spooler; after the commit the queue has one more record, and the
 * channel acks. If it cannot be stored (disk or map full), a message of a connected publisher is
 * refused by closing its connection: it was never answered as safe. */

static void refuse_unstored(struct client *client, const struct job *job)
{
    char text[256];
    snprintf(text, sizeof text, "RESOURCE_ERROR - the spool cannot take it: %.200s", job->error);
    client_refuse(client, 506, text, AMQP_BASIC_PUBLISH_METHOD);
}

static void tell_channel(struct channel *channel, const struct job *job)
{
    channel->spooling -= job->append.count;
    channel->committing -= job->append.commit;
    bool rejects = channel->client->rt->config->spool.overflow == OVERFLOW_REJECT;
    if (job->status != STATUS_OK && rejects && job->context && !job->append.commit) {
        channel_nack(channel, job->context);
    } else if (job->status != STATUS_OK) {
        refuse_unstored(channel->client, job);
        return;
    } else if (job->append.commit) {
        channel_send(channel, AMQP_TX_COMMIT_OK_METHOD, &(amqp_tx_commit_ok_t){0});
    } else if (job->context) {
        channel_ack(channel, job->context);
    }
    channel_settled(channel);
}

static void tell_publisher(const struct job *job)
{
    struct channel *channel = handles_get(job->owner);
    struct client *client = handles_get(job->append.client);
    if (client)
        client->appending -= job->append.count;
    if (channel)
        tell_channel(channel, job);
    else if (client && job->status != STATUS_OK)
        refuse_unstored(client, job);
    client_settled_by(job->append.client);
}

static void log_failed(const struct queue *queue, const struct job *job)
{
    LOG_OFTEN(LOG_ERROR, "spool_failed", LOG_T("user", queue->user), LOG_T("vhost", queue->vhost),
              LOG_N("messages", job->append.count), LOG_T("reason", job->error));
}

static void log_rejected(const struct queue *queue, const struct job *job)
{
    if (job->status != STATUS_OK)
        log_failed(queue, job);
    else
        LOG_OFTEN(LOG_WARN, "message_rejected", LOG_T("user", queue->user),
                  LOG_T("vhost", queue->vhost), LOG_N("seq", job->append.last_seq),
                  LOG_N("code", job->append.rejection.code),
                  LOG_T("reason", job->append.rejection_text));
}

static void on_rejected(struct job *job)
{
    struct queue *queue = handles_get(job->append.queue);
    if (queue && job->status == STATUS_OK) {
        queue->rejected++;
        counters_add_rejected(&queue->rt->counters, job->append.rejection.code);
    }
    if (queue)
        log_rejected(queue, job);
    tell_publisher(job);
}

/* Unless a destination came back meanwhile: then all is counted anew. */
static void count_behind_doubts(struct queue *queue, const struct job *job)
{
    if (job->append.pass != queue->doubts.pass)
        return;
    queue->doubts.appending -= job->append.count;
    if (job->status == STATUS_OK)
        queue->doubts.records += job->append.count;
}

static void on_appended(struct job *job)
{
    CRASH_POINT("before_ack");
    struct queue *queue = handles_get(job->append.queue);
    if (queue) {
        queue->appending -= job->append.count;
        count_behind_doubts(queue, job);
        if (job->status == STATUS_OK) {
            queue->waiting += job->append.count;
            queue->rt->counters.spooled += job->append.count;
            if (job->append.declared)
                declared_add(&queue->declared, job->append.declared);
        } else {
            log_failed(queue, job);
        }
    }
    struct doubt *doubt = handles_get(job->append.doubt);
    if (doubt)
        doubt_appended(doubt, job->status == STATUS_OK, job->append.last_seq);
    tell_publisher(job);
    if (queue) {
        if (queue->drain)
            drain_more(queue->drain);
        queue_changed(queue);
    }
}

/* NULL: its client is gone. */
static struct spool_owner owner_of(const struct channel *channel)
{
    if (!channel)
        return (struct spool_owner){0};
    return (struct spool_owner){.channel = channel->handle, .client = channel->client->handle};
}

/* Their closes wait for it. */
static void note_owner(struct job *job)
{
    struct channel *channel = handles_get(job->owner);
    struct client *client = handles_get(job->append.client);
    if (channel)
        channel->spooling += job->append.count;
    if (client)
        client->appending += job->append.count;
}

static void post(struct pool *pool, struct job *job)
{
    struct queue *queue = pool->queue;
    job->append.queue = queue->handle;
    queue->appending += job->append.count;
    note_owner(job);
    spooler_post(pool->rt->spooler, job);
    pool_update(pool);
}

static struct job *new_append(struct pool *pool, struct spool_owner owner)
{
    ENSURE(pool->queue->id);
    struct job *job = job_new(JOB_APPEND, pool->queue->id, on_appended, owner.channel);
    job->append.client = owner.client;
    return job;
}

void spool_copy(struct pool *pool, struct spool_owner owner, struct message *message,
                uint64_t client_tag, uint64_t doubt)
{
    struct queue *queue = pool->queue;
    struct job *job = new_append(pool, owner);
    job->context = client_tag;
    job->append.doubt = doubt;
    if (doubts_hold(queue, destination_of(message->method.at, message->method.len))) {
        job->append.pass = queue->doubts.pass;
        queue->doubts.appending++;
    }
    job_add_message(job, RECORD_PUBLISH, message);
    post(pool, job);
}

void spool_publish(struct pool *pool, struct spool_owner owner, struct message *message,
                   uint64_t client_tag)
{
    spool_copy(pool, owner, message, client_tag, 0);
}

/* Not counted among what waits: a rejected message is no backlog. */
void spool_reject(struct pool *pool, struct spool_owner owner, struct message *message,
                  uint16_t code, const char *text)
{
    ENSURE(pool->queue->id);
    struct job *job = job_new(JOB_APPEND, pool->queue->id, on_rejected, owner.channel);
    job->append.client = owner.client;
    job->append.queue = pool->queue->handle;
    job->append.rejection_text = strdup(text);
    ENSURE(job->append.rejection_text);
    job->append.rejection = (struct rejection){
        .code = code,
        .text = job->append.rejection_text,
        .text_len = (uint16_t)strlen(text),
        .at_us = job_clock_us(),
    };
    job_add_message(job, RECORD_PUBLISH, message);
    note_owner(job);
    spooler_post(pool->rt->spooler, job);
}

void spool_declare(struct pool *pool, struct channel *channel, struct slab *slab,
                   const struct frame *frame, uint64_t hash)
{
    struct message message;
    message_init(&message);
    message.method = span_of(slab, frame->payload, frame->payload_len);
    struct job *job = new_append(pool, owner_of(channel));
    job->append.declared = hash;
    job_add_message(job, RECORD_DECLARE, &message);
    post(pool, job);
}

struct job *spool_begin_transaction(struct pool *pool, struct channel *channel)
{
    return new_append(pool, owner_of(channel));
}

void spool_transaction(struct pool *pool, struct job *job)
{
    struct channel *channel = handles_get(job->owner);
    job->append.commit = true;
    if (channel)
        channel->committing++;
    post(pool, job);
}
