#pragma once

/* What a lost upstream had not answered. Publishes go to the spool, oldest first across all of its
 * relays. Methods that await a reply are answered in RabbitMQ's place if they can wait in the spool
 * with the publishes (declarations), and are sent again if not. To be called while the links are
 * still attached. */

struct pool;
struct relay;
struct upstream;
struct upstream_end;

/* RabbitMQ may have ended it with an error, over what one client has sent. That client gets
 * RabbitMQ's code and text; if it cannot be told who it is, those who may be are set apart, and
 * what they had called is sent again on upstreams of their own, where RabbitMQ's words find them.
 * Nothing of it is answered or spooled. The others notice nothing, unless buffering is off: then
 * those are closed (320) of whom nothing was kept. */
void failover_shared(struct pool *, struct upstream *, const struct upstream_end *);

enum failover_calls {
    FAILOVER_ANSWER,
    FAILOVER_DROP, /* the client is about to hear of it, or is gone */
};
/* The same for an upstream of a client's own. */
void failover_own(struct pool *, struct upstream *, enum failover_calls);
/* The same for one channel of such an upstream, whose client's channel is gone, so that nobody
 * waits for its calls; what RabbitMQ is stuck at would hold up a drain. What waits can be stored.
 */
void failover_orphan(struct relay *);
