#include "session/stored.h"

#include <stdio.h>

#include "base/handles.h"
#include "peer/runtime.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/relay.h"
#include "spooler/job.h"

void stored_begin(const struct job *job)
{
    struct channel *channel = handles_get(job->owner);
    struct client *client = handles_get(job->append.client);
    if (channel) {
        channel->spooling += job->append.count;
        channel->committing += job->append.commit;
    }
    if (client)
        client->appending += job->append.count;
}

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
    } else if (job->append.commit && channel->relay && relay_commit_acks(channel->relay)) {
        channel_settled(channel); /* and is told when RabbitMQ has answered */
        return;
    } else if (job->append.commit) {
        channel_send(channel, AMQP_TX_COMMIT_OK_METHOD, &(amqp_tx_commit_ok_t){0});
    } else if (job->context) {
        channel_ack(channel, job->context);
    }
    channel_settled(channel);
}

void stored_end(const struct job *job)
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
