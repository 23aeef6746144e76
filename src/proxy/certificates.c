#include "proxy/certificates.h"

#include "base/log.h"
#include "config/config.h"
#include "net/tls.h"
#include "proxy/proxy.h"

static struct tls_settings of_clients(const struct config *config)
{
    return (struct tls_settings){
        .is_server = true,
        .certificate = config->listen.tls_certificate,
        .private_key = config->listen.tls_private_key,
        .ca = config->listen.tls_client_ca,
    };
}

static struct tls_settings of_upstreams(const struct config *config)
{
    return (struct tls_settings){
        .certificate = config->upstream.tls_certificate,
        .private_key = config->upstream.tls_private_key,
        .ca = config->upstream.tls_ca,
        .verify = config->upstream.tls_verify,
    };
}

static bool is_usable(const struct tls_settings *settings, const char *section, FILE *errors)
{
    char why[512];
    struct tls_context *context = tls_context_new(settings, why, sizeof why);
    if (!context)
        fprintf(errors, "[%s] tls: %s\n", section, why);
    tls_context_free(context);
    return context != NULL;
}

bool certificates_check(const struct config *config, FILE *errors)
{
    struct tls_settings clients = of_clients(config), upstreams = of_upstreams(config);
    unsigned count;
    bool wanted = false;
    struct config_upstream *list = config_upstreams(config, &count);
    for (unsigned i = 0; i < count; i++)
        wanted = wanted || list[i].tls;
    config_upstreams_free(list, count);
    bool listen = config->listen.tls_port == 0 || is_usable(&clients, "listen", errors);
    return (!wanted || is_usable(&upstreams, "upstream", errors)) && listen;
}

static bool replace(struct tls_context **context, const struct tls_settings *settings)
{
    char why[512];
    struct tls_context *next = tls_context_new(settings, why, sizeof why);
    if (!next) {
        LOG(LOG_ERROR, "tls_unusable", LOG_T("for", settings->is_server ? "listen" : "upstream"),
            LOG_T("reason", why));
        return false;
    }
    tls_context_free(*context);
    *context = next;
    return true;
}

static bool wants_upstream_tls(const struct proxy *proxy)
{
    for (unsigned i = 0; i < proxy->upstreams.targets.count; i++)
        if (proxy->upstreams.targets.list[i].url->tls)
            return true;
    return false;
}

bool certificates_load(struct proxy *proxy)
{
    const struct config *config = proxy->rt.config;
    struct tls_settings server = of_clients(config), client = of_upstreams(config);
    return (config->listen.tls_port == 0 || replace(&proxy->server_tls, &server)) &&
           (!wants_upstream_tls(proxy) || replace(&proxy->upstreams.tls, &client));
}

void certificates_free(struct proxy *proxy)
{
    tls_context_free(proxy->server_tls);
    tls_context_free(proxy->upstreams.tls);
    proxy->server_tls = proxy->upstreams.tls = NULL;
}
