#pragma once

/* One value: from its text into its field of struct config, and back. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "config/config_struct.h"
#include "config/table.h"

/* Sets the option's field, or says in `why` what was expected and what it found and leaves the
 * field alone. A text field's string is allocated; the old one is freed. */
bool value_parse(const struct config_option *, const char *text, struct config *config, char *why,
                 size_t why_size);
/* Writes the value so that value_parse takes it again (but for the passwords of a URL). */
void value_print(const struct config_option *, const struct config *config, FILE *out);

bool value_equal(const struct config_option *, const struct config *a, const struct config *b);
/* Exchanges the option's field between two configurations, so that each string keeps one owner. */
void value_swap(const struct config_option *, struct config *a, struct config *b);
/* Frees a text field. */
void value_free(const struct config_option *, struct config *config);
