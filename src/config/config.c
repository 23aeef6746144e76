/* Defaults, then the file, then the environment, then --set: each source overwrites what came
 * before it. A mistake is told and loading goes on, so that one run shows all of them; what must
 * hold between several options is looked at in the end, for those that could be read. */

#include "config/config.h"

#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/pipe.h"
#include "config/address.h"
#include "config/ini_file.h"
#include "config/shown.h"
#include "config/table.h"
#include "config/url.h"
#include "config/value.h"

enum {
    OPTIONS_MAX = 128,
    WHY_MAX = 512,
    NAME_MAX_BYTES = 64, /* of section.key and its like; no known one comes near it */
};

const char config_default_file[] = "/etc/amqpbuf/proxy.ini";
static const char variable_prefix[] = "AMQPBUF_";

struct loader {
    struct config *config;
    FILE *errors;
    bool failed;
    struct shown file; /* its name */
    char section[NAME_MAX_BYTES];
    bool section_usable;         /* else its keys are skipped, for the section itself was told */
    char *places[OPTIONS_MAX];   /* where each option was set last; NULL: its default */
    unsigned lines[OPTIONS_MAX]; /* of the file, 0: not set there */
    bool broken[OPTIONS_MAX];    /* its last value could not be read */
};

static void complain(struct loader *loader, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void complain(struct loader *loader, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(loader->errors, format, args);
    va_end(args);
    fputc('\n', loader->errors);
    loader->failed = true;
}

static size_t index_of(const struct config_option *option)
{
    ENSURE(config_table_count <= OPTIONS_MAX);
    return (size_t)(option - config_table);
}

/* Takes over `place`. */
static void set(struct loader *loader, const struct config_option *option, const char *value,
                char *place)
{
    char why[WHY_MAX];
    ENSURE(place);
    size_t index = index_of(option);
    free(loader->places[index]);
    loader->places[index] = place;
    loader->broken[index] = !value_parse(option, value, loader->config, why, sizeof why);
    if (loader->broken[index])
        complain(loader, "%s: %s", place, why);
}

static char *place_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

static char *place_of(const char *format, ...)
{
    char *place = NULL;
    va_list args;
    va_start(args, format);
    ENSURE(vasprintf(&place, format, args) >= 0);
    va_end(args);
    return place;
}

static void set_defaults(struct loader *loader)
{
    char why[WHY_MAX];
    for (unsigned i = 0; i < config_table_count; i++)
        ENSURE(value_parse(&config_table[i], config_table[i].fallback, loader->config, why,
                           sizeof why));
}

static void on_section(void *arg, unsigned line, const char *name)
{
    struct loader *loader = arg;
    loader->section_usable = name && config_section_known(name);
    if (loader->section_usable)
        snprintf(loader->section, sizeof loader->section, "%s", name);
    else if (name)
        complain(loader, "%s:%u: [%s]: unknown section, did you mean [%s]?", loader->file.text,
                 line, shown_name(name, strlen(name)).text, config_section_near(name));
}

static void on_unknown_key(struct loader *loader, unsigned line, const char *key)
{
    struct shown shown = shown_name(key, strlen(key));
    const struct config_option *near = config_option_near(loader->section, key);
    if (loader->section[0] == '\0') {
        near = near ? near : config_option_near_path(key);
        complain(loader, "%s:%u: %s: there is no [section] before it, did you mean %s in [%s]?",
                 loader->file.text, line, shown.text, near->key, near->section);
    } else if (strcmp(near->key, key) == 0)
        complain(loader, "%s:%u: [%s] %s: unknown key, did you mean the one in [%s]?",
                 loader->file.text, line, loader->section, shown.text, near->section);
    else
        complain(loader, "%s:%u: [%s] %s: unknown key, did you mean %s?", loader->file.text, line,
                 loader->section, shown.text, near->key);
}

static void on_value(void *arg, unsigned line, const char *key, const char *value)
{
    struct loader *loader = arg;
    if (!loader->section_usable)
        return;
    const struct config_option *option = config_option_find(loader->section, key);
    if (!option) {
        on_unknown_key(loader, line, key);
        return;
    }
    unsigned *set_in = &loader->lines[index_of(option)];
    if (*set_in != 0)
        fprintf(loader->errors, "warning: %s:%u: [%s] %s: was set in line %u, this one counts\n",
                loader->file.text, line, loader->section, key, *set_in);
    *set_in = line;
    loader->config->file_sets_something = true;
    set(loader, option, value,
        place_of("%s:%u: [%s] %s", loader->file.text, line, option->section, key));
}

static void on_mistake(void *arg, unsigned line, const char *what)
{
    struct loader *loader = arg;
    if (line > 0)
        complain(loader, "%s:%u: %s", loader->file.text, line, what);
    else
        complain(loader, "%s: %s", loader->file.text, what);
}

static void load_file(struct loader *loader, const char *path)
{
    const char *name = path ? path : config_default_file;
    loader->file = shown_value(name, SHOWN_MAX);
    loader->section_usable = true; /* a key before any section is told for itself */
    FILE *file = fopen(name, "re");
    if (!file) {
        if (path || (errno != ENOENT && errno != ENOTDIR))
            complain(loader, "%s: cannot be opened: %s", loader->file.text, strerror(errno));
        return;
    }
    ini_file_read(
        file, &(struct ini_events){
                  .section = on_section, .value = on_value, .mistake = on_mistake, .arg = loader});
    fclose(file);
}

static void variable_of(const struct config_option *option, char *name, size_t size)
{
    snprintf(name, size, "%s%s_%s", variable_prefix, option->section, option->key);
    for (; *name; name++)
        *name = (char)toupper((unsigned char)*name);
}

/* The option that this variable sets or comes nearest to, and in `known` the variable of that. */
static const struct config_option *option_near_variable(const char *name,
                                                        char known[NAME_MAX_BYTES])
{
    char path[NAME_MAX_BYTES] = {0}; /* a dot at its end has a NUL behind it, too */
    snprintf(path, sizeof path - 1, "%s", name + sizeof variable_prefix - 1);
    for (char *c = path; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    path[strcspn(path, "_")] = '.'; /* no section has a _ in its name */
    const struct config_option *near = config_option_near_path(path);
    variable_of(near, known, NAME_MAX_BYTES);
    return near;
}

/* What Kubernetes puts into the environment of a container for each service, here for one that is
 * called amqpbuf, amqpbuf-admin or the like: AMQPBUF_ADMIN_SERVICE_HOST=10.0.0.1,
 * AMQPBUF_ADMIN_PORT_80_TCP_ADDR=10.0.0.1, AMQPBUF_ADMIN_PORT=tcp://10.0.0.1:80, ... */
static bool variable_is_of_service(const char *name, const char *value)
{
    static const char *const patterns[] = {"*_SERVICE_HOST", "*_SERVICE_PORT", "*_SERVICE_PORT_*",
                                           "*_PORT_[0-9]*"};
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (fnmatch(patterns[i], name, 0) == 0)
            return true;
    return fnmatch("*_PORT", name, 0) == 0 && strstr(value, "://");
}

/* What others put into the environment under our prefix: our own tests, and Kubernetes. */
static bool variable_is_foreign(struct loader *loader, const char *variable)
{
    const char *rest = variable + sizeof variable_prefix - 1, *value = strchrnul(variable, '=');
    char *name = strndup(variable, (size_t)(value - variable));
    ENSURE(name);
    char known[NAME_MAX_BYTES];
    bool is_of_service = variable_is_of_service(name, value);
    option_near_variable(name, known);
    if (is_of_service && strcmp(known, name) == 0)
        fprintf(loader->errors,
                "warning: %s: is left out: Kubernetes sets it for a service of this name\n", name);
    free(name);
    return is_of_service || strncmp(rest, "TEST_", sizeof "TEST_" - 1) == 0;
}

static void load_variable(struct loader *loader, const char *variable)
{
    size_t name_len = strcspn(variable, "=");
    char name[NAME_MAX_BYTES], known[NAME_MAX_BYTES];
    snprintf(name, sizeof name, "%.*s", (int)name_len, variable);
    const struct config_option *near = option_near_variable(name, known);
    if (variable[name_len] == '=' && strcmp(known, name) == 0)
        set(loader, near, variable + name_len + 1, place_of("%s", name));
    else
        complain(loader, "%s: unknown option, did you mean %s?",
                 shown_name(variable, name_len).text, known);
}

static void load_environment(struct loader *loader, char *const *environment)
{
    for (; environment && *environment; environment++)
        if (strncmp(*environment, variable_prefix, sizeof variable_prefix - 1) == 0 &&
            !variable_is_foreign(loader, *environment))
            load_variable(loader, *environment);
}

static void load_set(struct loader *loader, const char *text)
{
    const char *equals = strchr(text, '=');
    if (!equals || !memchr(text, '.', (size_t)(equals - text))) {
        complain(loader, "--set %s: expected SECTION.KEY=VALUE",
                 shown_name(text, strcspn(text, "=")).text);
        return;
    }
    char path[NAME_MAX_BYTES];
    snprintf(path, sizeof path, "%.*s", (int)(equals - text), text);
    const struct config_option *near = config_option_near_path(path);
    char known[NAME_MAX_BYTES];
    snprintf(known, sizeof known, "%s.%s", near->section, near->key);
    if (strcmp(known, path) != 0)
        complain(loader, "--set %s: unknown key, did you mean %s?",
                 shown_name(text, (size_t)(equals - text)).text, known);
    else
        set(loader, near, equals + 1, place_of("--set %s", path));
}

/* For what must hold between options: tells it at the place where the option was set, unless its
 * value is a default or could not be read. */
static void must(struct loader *loader, bool holds, const char *section, const char *key,
                 const char *what)
{
    const struct config_option *option = config_option_find(section, key);
    ENSURE(option);
    const char *place = loader->places[index_of(option)];
    if (holds || loader->broken[index_of(option)])
        return;
    if (place)
        complain(loader, "%s: %s", place, what);
    else
        complain(loader, "%s.%s: %s", section, key, what);
}

static bool broken(const struct loader *loader, const char *section, const char *key)
{
    return loader->broken[index_of(config_option_find(section, key))];
}

static void check_listen(struct loader *loader)
{
    const struct config *config = loader->config;
    bool tls = config->listen.tls_port != 0;
    must(loader, !tls || config->listen.tls_certificate[0], "listen", "tls_port",
         "needs listen.tls_certificate");
    must(loader, !tls || config->listen.tls_private_key[0], "listen", "tls_port",
         "needs listen.tls_private_key");
    must(loader, tls || config->listen.port != 0 || broken(loader, "listen", "tls_port"), "listen",
         "port", "0 needs a listen.tls_port, or there is nothing to listen on");
    must(loader, !tls || config->listen.port != config->listen.tls_port, "listen", "tls_port",
         "is the same port as listen.port");
}

static void check_spool(struct loader *loader)
{
    const struct config *config = loader->config;
    bool buffers =
        config->pool.publish_buffer_size > 0 || broken(loader, "pool", "publish_buffer_size");
    must(loader, config->spool.mode == MODE_OUTAGE || buffers, "spool", "mode",
         "needs pool.publish_buffer_size above 0");
}

/* One cannot be bound beside the other. */
static bool overlap(const char *address, const char *other)
{
    return address_takes(address, other) || address_takes(other, address);
}

static void check_admin(struct loader *loader)
{
    const struct config *config = loader->config;
    int port = config->admin.port;
    bool apart = port == 0 || broken(loader, "admin", "address") ||
                 broken(loader, "listen", "address") ||
                 !overlap(config->admin.address, config->listen.address);
    must(loader, apart || port != config->listen.port || broken(loader, "listen", "port"), "admin",
         "port", "is the same port as listen.port");
    must(loader, apart || port != config->listen.tls_port || broken(loader, "listen", "tls_port"),
         "admin", "port", "is the same port as listen.tls_port");
}

/* By number alone: whose a name is, is not asked here. */
static bool is_here(const struct config_upstream *upstream, const struct config *config)
{
    int port = upstream->tls ? config->listen.tls_port : config->listen.port;
    return upstream->port == port && address_leads_to(upstream->host, config->listen.address);
}

/* Each connection would open another one, without end. */
static void check_loop(struct loader *loader)
{
    if (broken(loader, "upstream", "url") || broken(loader, "listen", "address"))
        return;
    unsigned count;
    bool here = false;
    struct config_upstream *upstreams = config_upstreams(loader->config, &count);
    for (unsigned i = 0; i < count; i++)
        here = here || is_here(&upstreams[i], loader->config);
    config_upstreams_free(upstreams, count);
    must(loader, !here, "upstream", "url", "leads to amqpbuf itself (listen.address and its port)");
}

/* A message is refused that takes more than half of the memory (proxy/memory_limit.h). */
static bool memory_fits(const struct config *config, uint64_t message_bytes)
{
    return config->listen.max_memory_bytes / 2 >= message_bytes;
}

static void check_memory(struct loader *loader)
{
    const struct config *config = loader->config;
    bool memory_is_set =
        loader->places[index_of(config_option_find("listen", "max_memory"))] != NULL;
    must(loader,
         memory_fits(config, config->spool.max_message_size_bytes) ||
             broken(loader, "listen", "max_memory") || broken(loader, "spool", "max_message_size"),
         memory_is_set ? "listen" : "spool", memory_is_set ? "max_memory" : "max_message_size",
         "listen.max_memory is less than twice spool.max_message_size");
}

static void check_upstream(struct loader *loader)
{
    const struct config *config = loader->config;
    const char *longest = "upstream.reconnect_min is larger than upstream.reconnect_max";
    bool max_is_set =
        loader->places[index_of(config_option_find("upstream", "reconnect_max"))] != NULL;
    must(loader,
         config->upstream.reconnect_min_ms <= config->upstream.reconnect_max_ms ||
             broken(loader, "upstream", "reconnect_min") ||
             broken(loader, "upstream", "reconnect_max"),
         "upstream", max_is_set ? "reconnect_max" : "reconnect_min", longest);
    bool certificate = config->upstream.tls_certificate[0] != '\0';
    bool key = config->upstream.tls_private_key[0] != '\0';
    must(loader, !certificate || key, "upstream", "tls_certificate",
         "needs upstream.tls_private_key");
    must(loader, certificate || !key, "upstream", "tls_private_key",
         "needs upstream.tls_certificate");
}

bool config_load(struct config *config, const struct config_sources *sources, FILE *errors)
{
    *config = (struct config){0};
    struct loader loader = {.config = config, .errors = errors};
    set_defaults(&loader);
    load_file(&loader, sources->file);
    load_environment(&loader, sources->environment);
    for (unsigned i = 0; i < sources->set_count; i++)
        load_set(&loader, sources->sets[i]);
    check_listen(&loader);
    check_spool(&loader);
    check_admin(&loader);
    check_loop(&loader);
    check_memory(&loader);
    check_upstream(&loader);
    for (unsigned i = 0; i < config_table_count; i++)
        free(loader.places[i]);
    if (loader.failed)
        config_free(config);
    return !loader.failed;
}

bool config_load_again(struct config *next, const struct config *current,
                       const struct config_sources *sources, FILE *errors)
{
    const char *file = sources->file ? sources->file : config_default_file;
    *next = (struct config){0};
    if (pipe_is_at(file)) {
        fprintf(errors, "%s: is a pipe or a terminal, which cannot be read again\n",
                shown_value(file, SHOWN_MAX).text);
        return false;
    }
    if (!config_load(next, sources, errors))
        return false;
    bool is_gone = current->file_sets_something && !next->file_sets_something,
         fits = memory_fits(next, current->spool.max_message_size_bytes);
    if (is_gone)
        fprintf(errors, "%s: sets nothing any more: it is gone, or not written yet\n",
                shown_value(file, SHOWN_MAX).text);
    if (!fits)
        fputs(
            "listen.max_memory is less than twice the spool.max_message_size in use, which only a "
            "restart changes\n",
            errors);
    if (is_gone || !fits)
        config_free(next);
    return !is_gone && fits;
}

void config_free(struct config *config)
{
    for (unsigned i = 0; i < config_table_count; i++)
        value_free(&config_table[i], config);
    *config = (struct config){0};
}

bool config_adopt(struct config *current, struct config *next,
                  void (*not_reloadable)(void *arg, const char *section_key), void *arg)
{
    bool moved = false;
    current->file_sets_something = next->file_sets_something;
    for (unsigned i = 0; i < config_table_count; i++) {
        const struct config_option *option = &config_table[i];
        if (value_equal(option, current, next))
            continue;
        if (option->reloadable) {
            value_swap(option, current, next);
            moved = true;
        } else {
            char name[NAME_MAX_BYTES];
            snprintf(name, sizeof name, "%s.%s", option->section, option->key);
            not_reloadable(arg, name);
        }
    }
    return moved;
}

struct config_upstream *config_upstreams(const struct config *config, unsigned *count)
{
    char why[WHY_MAX];
    struct config_upstream *upstreams = url_parse(config->upstream.url, count, why, sizeof why);
    ENSURE(upstreams);
    return upstreams;
}
