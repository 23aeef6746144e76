#include "proxy/certificates.h"

#include "base/log.h"
#include "net/tls.h"
#include "proxy/proxy.h"

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
    for (unsigned i = 0; i < proxy->targets.count; i++)
        if (proxy->targets.list[i].url->tls)
            return true;
    return false;
}

bool certificates_load(struct proxy *proxy)
{
    const struct config *config = proxy->config;
    struct tls_settings server = {
        .is_server = true,
        .certificate = config->listen.tls_certificate,
        .private_key = config->listen.tls_private_key,
        .ca = config->listen.tls_client_ca,
    };
    struct tls_settings client = {
        .certificate = config->upstream.tls_certificate,
        .private_key = config->upstream.tls_private_key,
        .ca = config->upstream.tls_ca,
        .verify = config->upstream.tls_verify,
    };
    return (config->listen.tls_port == 0 || replace(&proxy->server_tls, &server)) &&
           (!wants_upstream_tls(proxy) || replace(&proxy->client_tls, &client));
}

void certificates_free(struct proxy *proxy)
{
    tls_context_free(proxy->server_tls);
    tls_context_free(proxy->client_tls);
    proxy->server_tls = proxy->client_tls = NULL;
}
