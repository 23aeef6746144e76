#pragma once

/* The table of options. Everything that knows the options by name reads it here: the parser,
 * --print-config, proxy.ini.example, and tools/check-config-docs, which reads table.c as text. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum config_type {
    CONFIG_TEXT,     /* min 1: it may not be empty */
    CONFIG_ADDRESS,  /* an IPv4 or IPv6 address, not a name */
    CONFIG_PORT,     /* 0 to 65535 */
    CONFIG_BOOL,     /* yes or no */
    CONFIG_COUNT,    /* decimal digits, or `words`: one word, kept as 0 */
    CONFIG_DURATION, /* a count with ms, s, m or h; kept in ms */
    CONFIG_SIZE,     /* a count of bytes, or with KiB, MiB, GiB; kept in bytes */
    CONFIG_ENUM,     /* one of `words`; kept as its position */
    CONFIG_HOSTS,    /* names, see config/hosts.h; may be empty */
    CONFIG_URL,      /* brokers, see config/url.h; its value is never printed as it stands */
};

struct config_option {
    const char *section, *key;
    enum config_type type;
    bool reloadable;      /* may change without a restart */
    const char *fallback; /* the default, as a file would give it */
    uint64_t min, max;
    size_t offset, width; /* of the field in struct config */
    const char *help;     /* one line */
    const char *words; /* of an enum, separated by spaces, in the order of its C enum; a count's */
};

extern const struct config_option config_table[];
extern const unsigned config_table_count;

/* The option, or NULL. */
const struct config_option *config_option_find(const char *section, const char *key);
bool config_section_known(const char *section);

/* The option itself if there is one, else one of another section that has just this key, else the
 * nearest of this section (NULL if nothing has this section). */
const struct config_option *config_option_near(const char *section, const char *key);
/* The same for "section.key", also where no such section is. */
const struct config_option *config_option_near_path(const char *path);
const char *config_section_near(const char *section);
