/* The configuration: a file that is refused is told why, and one that is taken is printed as a file
 * that is taken, too, and means the same.
 *
 * Input: proxy.ini. */

#include "config/config.h"
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* What was said of it, NULL for a file that was taken without a word. The caller frees. */
static bool load(struct config *config, const void *text, size_t len, char **said)
{
    int fd = memfd_create("proxy.ini", 0);
    ENSURE(fd >= 0 && write(fd, text, len) == (ssize_t)len);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    size_t said_len;
    FILE *errors = open_memstream(said, &said_len);
    ENSURE(errors);
    bool loaded = config_load(config, &(struct config_sources){.file = path}, errors);
    ENSURE(fclose(errors) == 0 && close(fd) == 0);
    ENSURE(strlen(*said) == said_len && (said_len == 0 || (*said)[said_len - 1] == '\n'));
    return loaded;
}

static char *printed(const struct config *config)
{
    char *text;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    ENSURE(out);
    config_print(config, out);
    ENSURE(fclose(out) == 0 && strlen(text) == len);
    return text;
}

static void check_upstreams(const struct config *config)
{
    unsigned count;
    struct config_upstream *upstreams = config_upstreams(config, &count);
    ENSURE(count > 0);
    for (unsigned i = 0; i < count; i++)
        ENSURE(upstreams[i].host && upstreams[i].host[0] && upstreams[i].port > 0);
    config_upstreams_free(upstreams, count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config, again;
    char *said;
    if (!load(&config, data, size, &said)) {
        ENSURE(said[0]);
        free(said);
        return 0;
    }
    ENSURE(said[0] == 0 || strncmp(said, "warning: ", 9) == 0);
    free(said);
    check_upstreams(&config);
    char *text = printed(&config);
    ENSURE(load(&again, text, strlen(text), &said) && said[0] == 0);
    check_upstreams(&again);
    char *text_again = printed(&again);
    ENSURE(strcmp(text, text_again) == 0);
    free(said);
    free(text);
    free(text_again);
    config_free(&again);
    config_free(&config);
    return 0;
}
