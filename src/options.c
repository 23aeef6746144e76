#include "options.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "config/shown.h"

enum { SET = 256, CHECK, PRINT_CONFIG, VERSION, HELP };

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"set", required_argument, NULL, SET},
    {"check", no_argument, NULL, CHECK},
    {"print-config", no_argument, NULL, PRINT_CONFIG},
    {"version", no_argument, NULL, VERSION},
    {"help", no_argument, NULL, HELP},
    {0},
};

static const char try_help[] = "Try amqpbuf --help\n";

static bool misused(FILE *errors, const char *what, const char *argument)
{
    fprintf(errors, "amqpbuf: %s: %s\n%s", shown_name(argument, strcspn(argument, "=")).text, what,
            try_help);
    return false;
}

/* It may be the value of an option, or the rest of one behind a space: nothing of it is shown. */
static bool unexpected(FILE *errors, int number)
{
    fprintf(errors, "amqpbuf: argument %d: is no option, and no value of one\n%s", number,
            try_help);
    return false;
}

static bool take(struct options *options, int option, char *argv[], FILE *errors)
{
    switch (option) {
    case 'c':
        options->file = optarg;
        return true;
    case SET:
        options->sets[options->set_count++] = optarg;
        return true;
    case CHECK:
        options->action = OPTIONS_CHECK;
        return true;
    case PRINT_CONFIG:
        options->action = OPTIONS_PRINT_CONFIG;
        return true;
    case 'V':
    case VERSION:
        options->action = OPTIONS_VERSION;
        return true;
    case 'h':
    case HELP:
        options->action = OPTIONS_HELP;
        return true;
    case ':':
        return misused(errors, "needs a value", argv[optind - 1]);
    default:
        if (optopt != 0 && optopt < SET) /* a letter, perhaps one of several in an argument */
            return misused(errors, "unknown option", (char[]){'-', (char)optopt, '\0'});
        return misused(errors, optopt ? "takes no value" : "unknown option", argv[optind - 1]);
    }
}

bool options_parse(struct options *options, int argc, char *argv[], FILE *errors)
{
    *options = (struct options){.action = OPTIONS_RUN};
    options->sets = calloc((size_t)argc + 1, sizeof *options->sets);
    ENSURE(options->sets);
    optind = 0; /* glibc: begin anew */
    opterr = 0;
    int option;
    while ((option = getopt_long(argc, argv, "+:c:hV", long_options, NULL)) != -1)
        if (!take(options, option, argv, errors))
            return false;
    if (optind < argc)
        return unexpected(errors, optind);
    return true;
}

void options_free(struct options *options)
{
    free(options->sets);
    options->sets = NULL;
}

struct config_sources options_sources(const struct options *options, char *const *environment)
{
    return (struct config_sources){
        .file = options->file,
        .sets = options->sets,
        .set_count = options->set_count,
        .environment = environment,
    };
}

void options_print_help(FILE *out)
{
    fputs("Usage: amqpbuf [-c FILE] [--set SECTION.KEY=VALUE]... [--check] [--print-config]\n"
          "\n"
          "A durable AMQP 0-9-1 proxy between publishers and RabbitMQ.\n"
          "\n"
          "  -c, --config FILE         read FILE; without it /etc/amqpbuf/proxy.ini if it exists\n"
          "  --set SECTION.KEY=VALUE   set one option, over file and environment; may be repeated\n"
          "  --check                   say what is wrong with the configuration, and exit\n"
          "  --print-config            print the configuration as it is used, and exit\n"
          "  -V, --version             print the version, and exit\n"
          "  -h, --help                print this, and exit\n"
          "\n"
          "The environment sets options too: AMQPBUF_SECTION_KEY=VALUE.\n"
          "See amqpbuf(8) and proxy.ini(5).\n",
          out);
}

void options_print_version(FILE *out)
{
    fputs("amqpbuf " AMQPBUF_VERSION "\n", out);
}
