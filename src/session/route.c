#include "session/route.h"

#include <stdio.h>

#include "base/log.h"
#include "peer/reply.h"
#include "peer/runtime.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "session/channel.h"
#include "session/client.h"
#include "session/transaction.h"
#include "spooler/spooler.h"

enum route route_refuse(struct refusal *why, enum refused whom, uint16_t code, const char *text,
                        amqp_method_number_t cause)
{
    refusal_set(why, whom, code, text, cause);
    return ROUTE_REFUSED;
}

enum route route_refuse_offline(struct refusal *why)
{
    return route_refuse(why, REFUSED_CLIENT, 320, LOST_RABBITMQ, AMQP_BASIC_PUBLISH_METHOD);
}

/* Open transactions alone fill the buffer, its own among them: if each waited for the others, all
 * would wait for ever. */
static bool waits_for_itself(const struct channel *ch)
{
    const struct queue *queue = ch->client->member.pool->queue;
    return ch->tx && transaction_places(ch->tx) > 0 && queue_used(queue) == queue->reserved;
}

enum route route_refuse_full(struct channel *ch, const char *what, amqp_method_number_t method,
                             struct refusal *why)
{
    struct pool *pool = ch->client->member.pool;
    const struct config *config = pool->rt->config;
    if (config->spool.overflow == OVERFLOW_BLOCK && !waits_for_itself(ch)) {
        client_tell_blocked(ch->client, true, what);
        return ROUTE_HELD;
    }
    char text[96];
    snprintf(text, sizeof text, "RESOURCE_ERROR - %s", what);
    pool->rt->counters.queue_full++;
    LOG_OFTEN(LOG_WARN, "queue_full", LOG_T("user", pool->user), LOG_T("vhost", pool->vhost),
              LOG_T("reason", what), LOG_N("messages", queue_used(pool->queue)),
              LOG_T("client", ch->client->peer));
    if (config->spool.overflow != OVERFLOW_REJECT) {
        return route_refuse(why, REFUSED_LEAVING, 506, text, method);
    }
    if (!ch->confirming || method != AMQP_BASIC_PUBLISH_METHOD) {
        return route_refuse(why, REFUSED_CHANNEL, 506, text, method);
    }
    ch->rejecting = true;
    return ROUTE_DONE;
}

const char *route_buffer_is_full(const struct pool *pool, char text[64])
{
    snprintf(text, 64, "publish buffer full (%llu messages)",
             (unsigned long long)pool->rt->config->pool.publish_buffer_size);
    return text;
}

const char *route_why_full(const struct pool *pool, char text[64])
{
    if (!queue_has_room(pool->queue))
        return route_buffer_is_full(pool, text);
    return spooler_has_room(pool->rt->spooler) ? NULL : "the spool has no room";
}

bool route_spools(const struct pool *pool)
{
    return runtime_buffers(pool->rt) && pool->queue->backlog.id;
}
