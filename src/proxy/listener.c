#include "proxy/listener.h"

#include <sys/resource.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/service.h"
#include "peer/runtime.h"
#include "proxy/certificates.h"
#include "session/session.h"

enum {
    BACKLOG = 1024,
    /* Clients leave these to the next connections to RabbitMQ, names that are looked up, the spool,
     * the log and the side. */
    DESCRIPTORS_KEPT = 64 + LISTENER_SIDE_CONNECTIONS,
    CLIENTS_MIN = 8, /* that fit beside those, or there is no reason to start */
};

void listener_init(struct listener *l, struct runtime *rt, struct clients *clients,
                   const struct certificates *certificates)
{
    l->rt = rt;
    l->clients = clients;
    l->certificates = certificates;
    ENSURE(uv_tcp_init(&rt->loop, &l->tcp) == 0);
    l->tcp.data = l;
}

static uint64_t raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return UINT64_MAX;
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : before;
}

bool listener_take_descriptors(const struct config *config)
{
    uint64_t limit = raise_descriptors(),
             clients = limit > DESCRIPTORS_KEPT ? limit - DESCRIPTORS_KEPT : 0;
    if (clients < CLIENTS_MIN)
        LOG(LOG_ERROR, "descriptors_short", LOG_N("limit", limit),
            LOG_N("needed", DESCRIPTORS_KEPT + CLIENTS_MIN),
            LOG_T("reason", "the limit of file descriptors leaves none for clients"));
    else if (clients < config->listen.max_connections)
        LOG(LOG_WARN, "descriptors_few", LOG_N("limit", limit), LOG_N("clients", clients),
            LOG_T("reason", "the limit of file descriptors leaves room for fewer clients than "
                            "listen.max_connections"));
    return clients >= CLIENTS_MIN;
}

/* Why there is no room for one more client, or NULL. */
static const char *obstacle(const struct runtime *rt)
{
    if (rt->counters.clients >= rt->config->listen.max_connections)
        return "listen.max_connections reached";
    struct rlimit limit;
    uint64_t used = rt->net.stream_count;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && used + DESCRIPTORS_KEPT >= limit.rlim_cur)
        return "limit of file descriptors reached";
    return NULL;
}

static void on_connection(uv_stream_t *tcp, int status)
{
    struct listener *l = tcp->data;
    if (status < 0) {
        LOG_OFTEN(LOG_WARN, "accept_failed", LOG_T("reason", uv_strerror(status)));
        return;
    }
    session_accept(l->clients, tcp, l->certificates ? l->certificates->clients : NULL,
                   obstacle(l->rt));
}

static int bind_to(struct listener *l, const char *address, int port)
{
    struct sockaddr_storage storage;
    int status = uv_ip4_addr(address, port, (struct sockaddr_in *)&storage);
    if (status < 0)
        status = uv_ip6_addr(address, port, (struct sockaddr_in6 *)&storage);
    if (status == 0)
        status = uv_tcp_bind(&l->tcp, (struct sockaddr *)&storage, 0);
    return status;
}

/* On the service manager's socket for this address, so that the port outlives the process; else on
 * one of its own. */
static int listen_at(struct listener *l, const char *address, int port)
{
    int passed = service_socket(address, port);
    int status = passed < 0 ? bind_to(l, address, port) : uv_tcp_open(&l->tcp, passed);
    return status < 0 ? status : uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection);
}

bool listener_start(struct listener *l)
{
    const struct config *config = l->rt->config;
    const char *address = config->listen.address;
    int port = l->certificates ? config->listen.tls_port : config->listen.port;
    if (port == 0)
        return true;
    int status = listen_at(l, address, port);
    if (status < 0) {
        LOG(LOG_ERROR, "cannot_listen", LOG_T("address", address), LOG_N("port", port),
            LOG_T("reason", uv_strerror(status)));
        return false;
    }
    LOG(LOG_INFO, "listening", LOG_T("address", address), LOG_N("port", port),
        LOG_T("protocol", l->certificates ? "amqps" : "amqp"), LOG_T("version", AMQPBUF_VERSION));
    return true;
}
