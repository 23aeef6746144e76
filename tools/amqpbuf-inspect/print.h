#pragma once

/* JSON on standard output. */

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "visit.h"

/* Prints it and a newline, takes over the reference. `flags` are jansson's. */
void print_json(json_t *, size_t flags);
/* Prints a record as `dump` does, or tells the walk that it is damaged. `body`: with the body,
 * which the record must have then. */
void print_item(struct walk *, const struct item *, bool body, size_t flags);
