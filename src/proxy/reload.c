#include "proxy/reload.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/log.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "proxy/certificates.h"
#include "proxy/proxy_struct.h"
#include "spooler/spooler.h"

static void not_reloadable(void *arg, const char *key)
{
    (void)arg;
    LOG(LOG_WARN, "reload_ignored", LOG_T("key", key), LOG_T("reason", "needs a restart"));
}

static void adopt(struct proxy *proxy, struct config *next, struct certificates *certificates)
{
    config_adopt(proxy->rt.config, next, not_reloadable, proxy);
    certificates_adopt(&proxy->certificates, certificates, proxy->rt.config, &proxy->upstreams);
    log_init(proxy->rt.config->log.level, proxy->rt.config->log.format);
    if (proxy->rt.spooler)
        spooler_configure(proxy->rt.spooler, proxy->rt.config);
    if (!proxy->rt.spooler && proxy->rt.config->pool.publish_buffer_size > 0)
        LOG(LOG_WARN, "reload_ignored", LOG_T("key", "pool.publish_buffer_size"),
            LOG_T("reason", "the spool was not opened at the start: needs a restart"));
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all; n = n->next)
        queue_reconfigured(LIST_ENTRY(n, struct queue, node));
    for (struct list *n = proxy->pools.all.next; n != &proxy->pools.all; n = n->next)
        pool_reconfigured(LIST_ENTRY(n, struct pool, node));
}

static void refuse(bool is_valid, const char *unusable)
{
    char reason[CERTIFICATES_WHY_MAX + 64];
    snprintf(reason, sizeof reason, "%s%s%s", is_valid ? "" : "the configuration has errors",
             is_valid || unusable[0] == '\0' ? "" : "; ", unusable);
    LOG(LOG_ERROR, "reload_failed", LOG_T("reason", reason));
}

/* Line by line, for this is the log now. */
static void log_mistakes(char *text)
{
    static const char warning[] = "warning: ";
    for (char *rest = NULL, *line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        bool is_warning = strncmp(line, warning, sizeof warning - 1) == 0;
        LOG(is_warning ? LOG_WARN : LOG_ERROR, is_warning ? "config_warning" : "config_mistake",
            LOG_T("reason", is_warning ? line + sizeof warning - 1 : line));
    }
}

static bool load(struct config *next, const struct proxy *proxy)
{
    char *text = NULL;
    size_t size;
    FILE *errors = open_memstream(&text, &size);
    ENSURE(errors);
    bool is_valid = config_load_again(next, proxy->rt.config, proxy->sources, errors);
    ENSURE(fclose(errors) == 0);
    log_mistakes(text);
    free(text);
    return is_valid;
}

void reload(struct proxy *proxy)
{
    struct config next;
    struct certificates certificates;
    char unusable[CERTIFICATES_WHY_MAX];
    bool is_valid = load(&next, proxy);
    /* The files' names need a restart; what is in them does not. */
    bool are_usable = certificates_read(&certificates, proxy->rt.config, unusable, sizeof unusable);
    if (is_valid && are_usable) {
        adopt(proxy, &next, &certificates);
        LOG(LOG_INFO, "reloaded");
    } else {
        refuse(is_valid, unusable);
    }
    config_free(&next);
    certificates_free(&certificates);
}
