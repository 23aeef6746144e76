#pragma once

/* The places of a drain's window: how many records, and bytes, may be under way. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct drain;
struct job_record;

/* Records that may be under way now: drain.window, or less while a record is searched for. */
uint32_t places_window(const struct drain *);
/* Bytes that may follow (pool.window_bytes). */
size_t places_bytes_left(const struct drain *);
/* One record always fits where nothing is under way. */
bool places_fit(const struct drain *, const struct job_record *);
/* So many places are free again. */
void places_freed(struct drain *, uint32_t places);
/* No place is free: what the window gives a second shows whether more of them would give more. */
void places_note_full(struct drain *);
