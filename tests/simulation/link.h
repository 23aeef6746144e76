#pragma once

/* TCP connections as both ends see them: bytes arrive late and in pieces of any size, a buffer
 * takes no more than it has room for, an end may come behind any byte.
 *
 * Each end belongs to one side until it calls end_close, after which it hears nothing. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agenda.h"
#include "prng.h"

struct end;

/* All are called by events of their own, never from within a call of this file. */
struct end_handler {
    void (*on_readable)(void *owner); /* there is more, or its end (end_read tells) */
    void (*on_writable)(void *owner); /* was full, has room again */
};

struct link_shape {
    uint32_t delay_us;     /* most, each way; each piece has its own, and none overtakes */
    uint32_t buffer_bytes; /* room of each direction */
};

/* A connection that both sides know of. `seed` decides its delays and pieces. */
void link_new(struct end **one, struct end **other, struct link_shape, struct prng seed);
void end_own(struct end *, const struct end_handler *, void *owner);

enum { END_IS_RESET = -1 };
/* Takes bytes; how many, or END_IS_RESET. */
int64_t end_write(struct end *, const void *bytes, size_t len);
/* So many bytes as have arrived, at most `size`; 0: none now, or none any more (end_is_over); or
 * END_IS_RESET. */
int64_t end_read(struct end *, void *out, size_t size);
/* All was read that the other side had to say. */
bool end_is_over(const struct end *);
/* Something has come that on_readable is owed for: bytes, the end, or a reset. */
bool end_has_news(const struct end *);
bool end_was_reset(const struct end *);
/* And what had arrived before, which can still be read, was. */
bool end_is_dead(const struct end *);
/* The other side has said that it sends no more. */
bool end_other_has_finished(const struct end *);
/* The other side has closed its end, whether this one has heard of it or not. */
bool end_is_left(struct end *);
/* Sends no more: the other side hears of it behind the last byte. */
void end_finish(struct end *);
/* Gone. What was written still arrives, unless something was left unread: then it is a reset. */
void end_close(struct end *);
/* Gone, and the other side is told so with a reset; bytes on their way are lost from any byte on.
 */
void end_abort(struct end *);
/* The network loses the connection: both sides hear of a reset. */
void link_cut(struct end *);
/* All bytes that were ever written here, or read here. */
uint64_t end_written(const struct end *);
uint64_t end_bytes_read(const struct end *);
struct end *end_other(struct end *);
/* How many there are: of each connection two. */
unsigned link_ends(void);
