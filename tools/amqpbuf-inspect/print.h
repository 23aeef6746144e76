#pragma once

/* JSON on standard output. */

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "scan.h"

/* Prints it and a newline, takes over the reference. `flags` are jansson's. */
void print_json(json_t *, size_t flags);
/* Prints a record as `dump` does, or tells the scan that it is damaged. `body`: with the body,
 * which the record must have then. */
void print_item(struct scan *, const struct item *, bool body, size_t flags);
