#pragma once

/* The configuration: one table of options (config.c) that gives section, key, type, default,
 * limits and one line of help to the parser, --print-config, proxy.ini.example and the man page.
 * Precedence: --set, environment, file, defaults. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "config/config_struct.h"
#include "config/url.h"

struct config_sources {
    const char *file;        /* NULL: /etc/amqpbuf/proxy.ini if it exists */
    const char *const *sets; /* SECTION.KEY=VALUE, in order; of two for one key the last counts */
    unsigned set_count;
    char *const *environment; /* like environ; AMQPBUF_<SECTION>_<KEY>, NULL: none */
};

/* Read if no other file is named, and it exists. */
extern const char config_default_file[];

/* Loads defaults, file, environment, --set. On errors writes one line for each to `errors` (file,
 * line, section, key, what it found, what it wants, the nearest known key) and returns false, with
 * `config` zeroed. Every error is reported, not the first alone. A key that a file sets twice is
 * no error, the last one counts; `errors` gets a line that begins with "warning: ". */
bool config_load(struct config *config, const struct config_sources *, FILE *errors);
/* The same for a reload of what `current` was loaded from. A file that sets nothing any more is a
 * mistake: it is gone, or somebody is writing it just now. So is a pipe, which is empty by then,
 * and a terminal, where somebody would have to type it again; and what does not go with a value of
 * `current` that only a restart changes. */
bool config_load_again(struct config *next, const struct config *current,
                       const struct config_sources *, FILE *errors);
void config_free(struct config *config);

/* For a reload: moves the values that may change without a restart from `next` into `current`, and
 * calls `not_reloadable` with "section.key" for each other one that differs (it stays as it was).
 * Returns whether anything was moved. `next` is still the caller's to free. */
bool config_adopt(struct config *current, struct config *next,
                  void (*not_reloadable)(void *arg, const char *section_key), void *arg);

/* The whole configuration in proxy.ini syntax; passwords in upstream.url are shown as ***. */
void config_print(const struct config *config, FILE *out);
/* proxy.ini.example: every key, its default and one line of help. */
void config_print_example(FILE *out);

/* upstream.url taken apart, in order. The array of *count is freed by config_upstreams_free. Never
 * fails on a loaded configuration. */
struct config_upstream *config_upstreams(const struct config *config, unsigned *count);
