#pragma once

/* The destinations that are aside (aside.h), as the drain serves them: RabbitMQ is silent about
 * them, or fails at their messages. */

#include <stdbool.h>
#include <stdint.h>

struct aside;
struct drain;

/* The destination is aside from now on, or was. Valid until the next change. */
struct aside *apart_set(struct drain *, uint64_t destination);
/* Sets those aside that have not been confirmed for pool.confirm_timeout, and says so of
 * declarations. */
void apart_look_for_silence(struct drain *, uint64_t now_ms);
/* True if RabbitMQ answers nothing on this channel any more behind what it has answered last: for
 * one destination and for another one behind that, which may be well. What was sent before that and
 * is not confirmed tells nothing: a channel that is stuck sends no confirms. */
bool apart_channel_seems_stuck(struct drain *, uint64_t now_ms);
/* How soon it has to answer what is asked behind that, while its connection is well. */
uint32_t apart_soon_ms(struct drain *);
/* It is: the destination that RabbitMQ has got to is silent. If it is not known to which it has
 * got, that will be known of the next channel (marks.h). */
void apart_channel_is_stuck(struct drain *, uint64_t now_ms);
/* None was for long, and nothing is aside: as if there had been none. */
void apart_forget_stuck(struct drain *, uint64_t now_ms);
/* Those whose time has come are tried again, of the silent ones some at a time; what a silent one
 * owes is sent once more. */
void apart_wake(struct drain *, uint64_t now_ms);
/* Nothing is under way: the time of silent ones has come. Not at once while a record is
 * searched for that RabbitMQ refuses, or there would always be something beside that; nor if it
 * `keeps_silent`: the channel before was stuck at it. */
void apart_begin_again(struct drain *, uint64_t now_ms, bool keeps_silent);
/* Those that have caught up with all others are not aside any more: true if there were any. */
bool apart_join(struct drain *);
/* The first that may have something sent, and *room: how much. NULL if there is none. */
struct aside *apart_next(struct drain *, uint32_t *room);
/* RabbitMQ has nacked on this channel what is to be tried again. Once the leader of a quorum queue
 * has gone, RabbitMQ 3.10 nacks for ever what a channel sends there that knew it. What a silent
 * destination owes goes out again with the channel: so with one of those only the last try does. */
bool apart_wants_new_channel(const struct drain *, const struct aside *);
/* How many publishes to them RabbitMQ has not answered for. */
uint32_t apart_open(const struct drain *);
/* Too many have messages that come before those of all others, which wait for them then. One whose
 * place has not been reached, since the queue is read from its beginning again, holds up nobody. */
bool apart_hold_others(const struct drain *);
