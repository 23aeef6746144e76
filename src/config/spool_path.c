#include "config/spool_path.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "config/config.h"
#include "config/ini_file.h"

struct search {
    bool in_section;
    char *found;
};

static void keep(struct search *search, const char *path)
{
    free(search->found);
    search->found = strdup(path);
    ENSURE(search->found);
}

static void on_section(void *arg, unsigned line, const char *name)
{
    struct search *search = arg;
    (void)line;
    search->in_section = name && strcmp(name, "spool") == 0;
}

static void on_value(void *arg, unsigned line, const char *key, const char *value)
{
    struct search *search = arg;
    (void)line;
    if (search->in_section && strcmp(key, "path") == 0 && value[0])
        keep(search, value);
}

static void on_mistake(void *arg, unsigned line, const char *what)
{
    (void)arg, (void)line, (void)what; /* amqpbuf tells */
}

char *spool_path_find(const char *name, FILE *errors)
{
    struct search search = {0};
    const char *variable = getenv("AMQPBUF_SPOOL_PATH");
    keep(&search, variable && variable[0] ? variable : "./spool");
    if (variable && variable[0])
        return search.found;
    if (!name)
        name = config_default_file;
    FILE *file = fopen(name, "re");
    if (!file) {
        if (errno != ENOENT && errno != ENOTDIR)
            fprintf(errors, "warning: %s: cannot be opened: %s: its spool.path is not known\n",
                    name, strerror(errno));
        return search.found;
    }
    ini_file_read(
        file, &(struct ini_events){
                  .section = on_section, .value = on_value, .mistake = on_mistake, .arg = &search});
    fclose(file);
    return search.found;
}
