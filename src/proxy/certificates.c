#include "proxy/certificates.h"

#include <string.h>

#include "base/log.h"
#include "base/test_switch.h"
#include "config/config.h"
#include "net/tls.h"
#include "peer/runtime.h"
#include "upstream/upstream.h"

enum { LOOK_AGAIN_MS = 3600000 };

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

static bool wants_upstream_tls(const struct config *config)
{
    unsigned count;
    bool wanted = false;
    struct config_upstream *list = config_upstreams(config, &count);
    for (unsigned i = 0; i < count; i++)
        wanted = wanted || list[i].tls;
    config_upstreams_free(list, count);
    return wanted;
}

/* NULL, with one more sentence in `why`, if a file cannot be used. */
static struct tls_context *read_files(struct tls_settings settings, char *why, size_t why_size)
{
    char reason[512];
    struct tls_context *context = tls_context_new(&settings, reason, sizeof reason);
    size_t len = strlen(why);
    if (!context)
        snprintf(why + len, why_size - len, "%s[%s] tls: %s", len > 0 ? "; " : "",
                 settings.is_server ? "listen" : "upstream", reason);
    return context;
}

bool certificates_read(struct certificates *c, const struct config *config, char *why,
                       size_t why_size)
{
    *c = (struct certificates){0};
    why[0] = '\0';
    if (config->listen.tls_port != 0)
        c->clients = read_files(of_clients(config), why, why_size);
    if (wants_upstream_tls(config))
        c->upstreams = read_files(of_upstreams(config), why, why_size);
    if (why[0] != '\0')
        certificates_free(c);
    return why[0] == '\0';
}

static void look(const struct tls_context *context, const char *file,
                 void (*say)(void *arg, const char *file, const char *reason), void *arg)
{
    const char *reason = context ? tls_context_is_untimely(context) : NULL;
    if (reason)
        say(arg, file, reason);
}

static void look_at_time(const struct certificates *c, const struct config *config,
                         void (*say)(void *arg, const char *file, const char *reason), void *arg)
{
    look(c->clients, config->listen.tls_certificate, say, arg);
    look(c->upstreams, config->upstream.tls_certificate, say, arg);
}

static void print_untimely(void *arg, const char *file, const char *reason)
{
    fprintf(arg, "warning: certificate %s: %s\n", file, reason);
}

static void log_untimely(void *arg, const char *file, const char *reason)
{
    (void)arg;
    LOG(LOG_WARN, "certificate_untimely", LOG_T("file", file), LOG_T("reason", reason));
}

bool certificates_check(const struct config *config, FILE *errors)
{
    struct certificates c;
    char why[CERTIFICATES_WHY_MAX];
    bool are_usable = certificates_read(&c, config, why, sizeof why);
    if (!are_usable)
        fprintf(errors, "%s\n", why);
    look_at_time(&c, config, print_untimely, errors);
    certificates_free(&c);
    return are_usable;
}

void certificates_free(struct certificates *c)
{
    tls_context_free(c->clients);
    tls_context_free(c->upstreams);
    *c = (struct certificates){0};
}

void certificates_adopt(struct certificates *used, struct certificates *read,
                        const struct config *config, struct upstreams *upstreams)
{
    certificates_free(used);
    *used = *read;
    upstreams->tls = used->upstreams;
    *read = (struct certificates){0};
    certificates_tick(used, config, runtime_now(upstreams->rt));
}

/* AMQPBUF_TEST_CERTIFICATES_MS is an hour. */
void certificates_tick(struct certificates *c, const struct config *config, uint64_t now_ms)
{
    if (c->looked_ms &&
        now_ms - c->looked_ms < test_number("AMQPBUF_TEST_CERTIFICATES_MS", LOOK_AGAIN_MS))
        return;
    c->looked_ms = now_ms;
    look_at_time(c, config, log_untimely, NULL);
}
