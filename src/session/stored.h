#pragma once

/* Tells publishers what has become of what they sent to the spool. */

struct job;

/* Messages are on their way there: the closes of their channel and client wait for it. */
void stored_begin(const struct job *);
/* They are stored, and are confirmed; or they could not be: a message of a connected publisher is
 * refused by closing its connection, or (spool.overflow = reject) nacked. It was never answered as
 * safe. */
void stored_end(const struct job *);
