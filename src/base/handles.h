#pragma once

/* Ids that outlive what they name: a 64 bit id is (generation, slot), so that an id kept by
 * another thread or a late answer finds either the same object or nothing, never a stranger in
 * its slot. Id 0 names nothing. Loop thread only. */

#include <stdint.h>

/* Registers an object and returns its id. Aborts when memory for the table is short. */
uint64_t handles_add(void *object);
/* The object, or NULL once it was removed. */
void *handles_get(uint64_t id);
void handles_remove(uint64_t id);
/* Frees the table; no handle may be live. */
void handles_deinit(void);
