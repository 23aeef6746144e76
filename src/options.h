#pragma once

/* The command line of amqpbuf. */

#include <stdbool.h>
#include <stdio.h>

#include "config/config.h"

enum options_action {
    OPTIONS_RUN,
    OPTIONS_CHECK,
    OPTIONS_PRINT_CONFIG,
    OPTIONS_VERSION,
    OPTIONS_HELP,
};

struct options {
    enum options_action action; /* of several the last one */
    const char *file;           /* -c; NULL: the default file if it exists */
    const char **sets;          /* --set, in order; the strings are argv's */
    unsigned set_count;
};

/* On wrong usage says what is wrong on `errors` and returns false. What was parsed is freed by
 * options_free, whatever was returned. */
bool options_parse(struct options *options, int argc, char *argv[], FILE *errors);
void options_free(struct options *options);

/* What config_load takes; it lives as long as the options and the environment do. */
struct config_sources options_sources(const struct options *options, char *const *environment);

void options_print_help(FILE *out);
void options_print_version(FILE *out);
