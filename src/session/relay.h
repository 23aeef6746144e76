#pragma once

/* Joins a client's channel to a channel of an upstream, and retains what RabbitMQ has not answered
 * yet: publishes until their confirm, and methods until their reply, so that both can be answered
 * or spooled in their order when the upstream is lost.
 *
 * Relays on shared upstreams are in confirm mode from the start, and are kept open when their
 * channel closes, for the next one. With pool.confirm_transient = no confirm mode begins with the
 * first publish that is not forgotten once it is sent. */

#include "session/relay_struct.h"

/* Binds a channel: an idle relay of the upstream, which is in confirm mode, or a new channel on it
 * (channel.open and, if it is shared, confirm.select are sent ahead, not waited for). One that
 * `forgets` what it sends gets a new one without confirms. NULL if there is no number left. */
struct relay *relay_bind(struct channel *, struct upstream *, bool shared, bool forgets);
/* Lets go of the channel: back to the idle ones, or closed once nothing is unconfirmed. */
void relay_release(struct relay *);
/* It serves nobody, and what RabbitMQ has not answered there is elsewhere, or nobody's: its channel
 * is closed. */
void relay_give_up(struct relay *);
/* To be called now and then: gives back what a burst has taken. */
static inline void relay_rest(struct relay *r)
{
    unconfirmed_rest(&r->unconfirmed);
}
/* One without a channel: others wait for what its client has there. */
void relay_hurry(struct relay *);
/* True if another one should take its place: RabbitMQ has nacked on it, and nothing is open there.
 * Once the leader of a quorum queue has gone, RabbitMQ 3.10 nacks for ever what a channel publishes
 * that knew it. A client's own is as it would be without the proxy. */
bool relay_is_spent(const struct relay *);
/* Sends nothing more; its channel should have another one once it may be left. */
void relay_move(struct relay *);
/* That takes too long: it goes on, and does not try it again before stays_until_ms. */
void relay_stay(struct relay *);
/* The channel is to go on elsewhere: true if the relay was released. False: something is awaited,
 * perhaps the close-ok of a close that is sent now, because nothing else shows what was read. */
bool relay_leave(struct relay *);
/* Sends a complete publish; takes the message over. In a transaction the proxy keeps it in
 * channel->tx. False, with nothing sent and nothing taken, when memory is short. With a tag the
 * upstream must offer confirms: nothing else proves a single publish. `destination`: window.h. With
 * `forgets` it is not retained, unless the relay is in confirm mode. */
bool relay_publish(struct relay *, struct message *, uint64_t client_tag, uint64_t destination,
                   bool forgets);
/* One more publish like the last one that it retains, in adjacent frames of the slab from `at` on;
 * of so many bytes without their heads, which are of the relay's channel. relay_send_run sends it
 * with those before it. */
void relay_follow(struct relay *, struct slab *, uint8_t *at, uint32_t bytes);
/* Sends the last `count` that have followed, of so many bytes together, which lie in the slab's
 * [at, at + len). */
void relay_send_run(struct relay *, struct slab *, uint8_t *at, size_t len, uint32_t count,
                    uint64_t bytes);
/* Sends a method, which lies in the slab and is changed there. */
void relay_method(struct relay *, struct slab *, const struct frame *, amqp_method_number_t);
/* tx.commit was sent: the channel's transaction belongs to its reply, and what is published behind
 * it is the next one. */
void relay_await_commit(struct relay *);
/* RabbitMQ has, or gets, a part of the channel's transactions: acks, and what goes to it alone. */
bool relay_has_acks(const struct relay *);
/* What was published in the channel's transaction is stored: RabbitMQ is to commit the acks. True
 * if its answer is the client's. In an alarm it may not read that before the end: nobody waits for
 * it, and the channel's close goes behind it. */
bool relay_commit_acks(struct relay *);
/* The client consumes on it, is about to, or has not settled what it got. */
bool relay_is_consumed(struct relay *);
/* RabbitMQ is still to say which queue the channel has declared last. */
bool relay_awaits_name(const struct relay *);
/* Nothing unconfirmed and nothing awaited. */
bool relay_is_settled(const struct relay *);
/* RabbitMQ may not have read all that was published on it: only its close-ok would show that. */
bool relay_is_unheard(const struct relay *);
/* Nothing that is open, and nothing awaited, not even a close-ok: the channel may go on elsewhere.
 */
bool relay_may_be_left(const struct relay *);
/* The relay that a link belongs to, or NULL if it is a drain's. */
struct relay *relay_of(struct link *);
/* The next relay of an upstream, as links_next. */
struct relay *relay_next(const struct upstream *, uint32_t *at);
/* Frees the relay and what it retains; it must be detached from its upstream. */
void relay_free(struct relay *);
