/* amqpbuf: a durable AMQP 0-9-1 proxy between publishers and RabbitMQ. */

#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "admin/admin.h"
#include "base/bus_error.h"
#include "base/log.h"
#include "base/standard.h"
#include "config/config.h"
#include "options.h"
#include "proxy/certificates.h"
#include "proxy/proxy.h"

enum { EXIT_FINE = 0, EXIT_CANNOT_RUN = 1, EXIT_WRONG_USAGE = 2 };

/* What was asked for on standard output is there, or the exit status says that it is not. */
static int printed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_FINE;
    perror("amqpbuf: standard output");
    return EXIT_CANNOT_RUN;
}

static void say_bus_error(void)
{
    LOG(LOG_ERROR, "spool_unreadable",
        LOG_T("reason", "data.mdb is shorter than its own tables say, or the disk cannot read it"));
}

/* Until the loop serves signals the disk may hang, and nobody has been promised anything: what is
 * there then is what a kill leaves. A handler, since process 1 of a container is not ended by a
 * signal that it has none for. */
static void on_stop_at_start(int signal)
{
    (void)signal;
    _exit(EXIT_FINE);
}

/* Before the configuration is read: a SIGHUP that comes behind that means another one. */
static void expect_signals(void)
{
    sigset_t sighup;
    sigemptyset(&sighup);
    sigaddset(&sighup, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &sighup, NULL); /* it waits for the loop */
    signal(SIGTERM, on_stop_at_start);
    signal(SIGINT, on_stop_at_start);
}

static int run(struct config *config, const struct config_sources *sources)
{
    signal(SIGPIPE, SIG_IGN); /* a peer that is gone is told by the write */
    signal(SIGXFSZ, SIG_IGN); /* and so is a file that may not grow: the log's, perhaps */
    signal(SIGUSR1, SIG_IGN); /* "reopen your log" to other programs: no reason to end */
    signal(SIGUSR2, SIG_IGN);
    setlocale(LC_CTYPE, "C.UTF-8"); /* as amqpbuf-inspect, whose lines rejected.jsonl has */
    log_init(config->log.level, config->log.format);
    bus_error_explain(say_bus_error, EXIT_CANNOT_RUN);
    return proxy_run(config, sources, &admin_side);
}

static int check(const struct config *config)
{
    if (!certificates_check(config, stderr))
        return EXIT_WRONG_USAGE;
    puts("configuration is fine");
    return printed();
}

static int with_config(const struct options *options)
{
    struct config_sources sources = options_sources(options, environ);
    struct config config;
    if (options->action == OPTIONS_RUN)
        expect_signals();
    if (!config_load(&config, &sources, stderr))
        return EXIT_WRONG_USAGE;
    int status;
    if (options->action == OPTIONS_RUN)
        status = run(&config, &sources);
    else if (options->action == OPTIONS_CHECK)
        status = check(&config);
    else {
        config_print(&config, stdout);
        status = printed();
    }
    config_free(&config);
    return status;
}

static int with_options(const struct options *options)
{
    switch (options->action) {
    case OPTIONS_HELP:
        options_print_help(stdout);
        return printed();
    case OPTIONS_VERSION:
        options_print_version(stdout);
        return printed();
    case OPTIONS_RUN:
    case OPTIONS_CHECK:
    case OPTIONS_PRINT_CONFIG:
        break;
    }
    return with_config(options);
}

int main(int argc, char *argv[])
{
    struct options options;
    standard_descriptors_hold();
    bool understood = options_parse(&options, argc, argv, stderr);
    int status = understood ? with_options(&options) : EXIT_WRONG_USAGE;
    options_free(&options);
    return status;
}
