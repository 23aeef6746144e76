#include "proxy_thread.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "proxy/proxy.h"

static char folder[64];
static struct config config;
static struct config_sources sources;
static pthread_t thread;
static sem_t listening;
static struct sockaddr_in address; /* set before `listening` */
static uv_timer_t first_turn;
static int exit_status = -1;

/* ---- the side of the proxy that tells its port ---- */

static void on_first_turn(uv_timer_t *timer)
{
    struct proxy *proxy = timer->data;
    int len = sizeof address;
    ENSURE(uv_tcp_getsockname(&proxy->plain.tcp, (struct sockaddr *)&address, &len) == 0);
    sem_post(&listening);
}

static bool side_open(struct proxy *proxy, void **self)
{
    ENSURE(uv_timer_init(&proxy->rt.loop, &first_turn) == 0);
    first_turn.data = proxy;
    *self = &first_turn;
    return uv_timer_start(&first_turn, on_first_turn, 0, 0) == 0;
}

static void side_close(void *self)
{
    uv_close(self, NULL);
}

static void *run(void *arg)
{
    static const struct proxy_side side = {.open = side_open, .close = side_close};
    (void)arg;
    exit_status = proxy_run(&config, &sources, &side);
    sem_post(&listening); /* a proxy that could not start is found by who waits for it */
    return NULL;
}

/* ---- start and end ---- */

static int unlink_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static void stop(void)
{
    ENSURE(kill(getpid(), SIGTERM) == 0); /* libuv's handler is the proxy's */
    ENSURE(pthread_join(thread, NULL) == 0 && exit_status == 0);
    config_free(&config);
    ENSURE(nftw(folder, unlink_entry, 8, FTW_DEPTH | FTW_PHYS) == 0);
}

/* A port that is taken and refuses, for nobody listens on it, until *fd is closed. */
static uint16_t refusing_port(int *out)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    ENSURE(fd >= 0 && bind(fd, (struct sockaddr *)&at, len) == 0);
    ENSURE(getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    *out = fd;
    return ntohs(at.sin_port);
}

static uint16_t free_port(void)
{
    int fd;
    uint16_t port = refusing_port(&fd);
    close(fd);
    return port;
}

static void load_config(const char *unverified_logins, uint16_t upstream_port)
{
    char url[64], path[128], logins[64];
    int kept; /* as long as this process lives */
    snprintf(url, sizeof url, "upstream.url=amqp://127.0.0.1:%u",
             upstream_port ? upstream_port : refusing_port(&kept));
    snprintf(path, sizeof path, "spool.path=%s/spool", folder);
    snprintf(logins, sizeof logins, "spool.unverified_logins=%s", unverified_logins);
    const char *const sets[] = {url,
                                path,
                                logins,
                                "pool.publish_buffer_size=1000000",
                                "spool.max_size=256MiB",
                                "spool.sync=never",
                                "pool.idle_timeout=1s",
                                "spool.forget_after=1s",
                                "pool.cleanup_interval=1s",
                                "upstream.reconnect_min=1ms"};
    struct config_sources given = {
        .file = "/dev/null", .sets = sets, .set_count = sizeof sets / sizeof *sets};
    ENSURE(config_load(&config, &given, stderr));
    config.listen.port = free_port();
}

void proxy_thread_start(const char *unverified_logins, uint16_t upstream_port)
{
    const char *parent = getenv("TMPDIR");
    int len = snprintf(folder, sizeof folder, "%s/amqpbuf-fuzz-XXXXXX", parent ? parent : "/tmp");
    ENSURE(len < (int)sizeof folder && mkdtemp(folder) && sem_init(&listening, 0, 0) == 0);
    load_config(unverified_logins, upstream_port);
    /* That a held client has gone is seen at a tick; a consumer waits for seconds. */
    ENSURE(setenv("AMQPBUF_TEST_TICK_MS", "5", 1) == 0);
    ENSURE(setenv("AMQPBUF_TEST_CONSUMER_WAITS_MS", "5", 1) == 0);
    log_init(LOG_ERROR, LOG_LOGFMT);
    ENSURE(pthread_create(&thread, NULL, run, NULL) == 0);
    ENSURE(sem_wait(&listening) == 0 && exit_status == -1);
    ENSURE(atexit(stop) == 0);
}

/* libFuzzer looks at its -timeout in a SIGALRM, which must not end a call on a socket. */
static void restart_calls(void)
{
    struct sigaction alarm;
    ENSURE(sigaction(SIGALRM, NULL, &alarm) == 0);
    if (alarm.sa_flags & SA_RESTART)
        return;
    alarm.sa_flags |= SA_RESTART;
    ENSURE(sigaction(SIGALRM, &alarm, NULL) == 0);
}

int proxy_thread_connect(void)
{
    restart_calls();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    ENSURE(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    ENSURE(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    /* A reset at the end leaves no port behind in TIME_WAIT: there are thousands of sessions. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    ENSURE(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
    return fd;
}
