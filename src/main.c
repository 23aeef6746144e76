/* amqpbuf: a durable AMQP 0-9-1 proxy between publishers and RabbitMQ. */

#include <locale.h>
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
