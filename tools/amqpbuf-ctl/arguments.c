#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl.h"

enum { PATIENCE_S = 60, PATIENCE_MAX_S = 86400 };

static const char usage[] = "usage: amqpbuf-ctl [-s DIR] list [QUEUE] [--json]\n"
                            "       amqpbuf-ctl [-s DIR] [-t SECONDS] retry QUEUE [SEQ]\n"
                            "       amqpbuf-ctl [-s DIR] [-t SECONDS] discard QUEUE SEQ|--all\n"
                            "       amqpbuf-ctl [-s DIR] [-t SECONDS] pause|resume QUEUE\n"
                            "       amqpbuf-ctl --help | --version\n";

static const char *const verb_names[] = {
    [CTL_LIST] = "list",   [CTL_RETRY] = "retry",   [CTL_DISCARD] = "discard",
    [CTL_PAUSE] = "pause", [CTL_RESUME] = "resume",
};

const char *ctl_verb_name(enum ctl_verb verb)
{
    return verb_names[verb];
}

static bool refuse(const char *what, const char *found, enum ctl_exit *status)
{
    if (found)
        fprintf(stderr, "amqpbuf-ctl: %s, found \"%s\"\n%s", what, found, usage);
    else
        fprintf(stderr, "amqpbuf-ctl: %s\n%s", what, usage);
    *status = CTL_USAGE;
    return false;
}

static bool read_number(const char *text, uint64_t *number)
{
    char *end;
    if (text[0] < '1' || text[0] > '9' || strlen(text) > 19)
        return false;
    *number = strtoull(text, &end, 10);
    return *end == 0;
}

static bool read_patience(const char *text, long *seconds, enum ctl_exit *status)
{
    uint64_t number;
    if (!read_number(text, &number) || number > PATIENCE_MAX_S)
        return refuse("expected a time of 1 to 86400 seconds", text, status);
    *seconds = (long)number;
    return true;
}

static bool read_verb(const char *name, enum ctl_verb *verb)
{
    for (size_t i = 0; i < sizeof verb_names / sizeof verb_names[0]; i++) {
        if (strcmp(name, verb_names[i]) == 0) {
            *verb = (enum ctl_verb)i;
            return true;
        }
    }
    return false;
}

/* What stands behind the verb. */
static bool read_operands(struct ctl *ctl, char *operands[], int count, bool all,
                          enum ctl_exit *status)
{
    bool takes_seq = ctl->verb == CTL_RETRY || ctl->verb == CTL_DISCARD;
    if (count > 0 && !read_number(operands[0], &ctl->queue))
        return refuse("expected a queue's number, see amqpbuf-inspect", operands[0], status);
    if (count == 0 && ctl->verb != CTL_LIST)
        return refuse("which queue? amqpbuf-inspect shows their numbers", NULL, status);
    if (count > 1 + takes_seq)
        return refuse("one argument too many", operands[1 + takes_seq], status);
    if (count > 1 && !read_number(operands[1], &ctl->seq))
        return refuse("expected a message's sequence number", operands[1], status);
    if (all && (ctl->verb != CTL_DISCARD || ctl->seq))
        return refuse("--all is for discard, instead of a sequence number", NULL, status);
    if (ctl->verb == CTL_DISCARD && !ctl->seq && !all)
        return refuse("discard which message? --all drops every rejected one", NULL, status);
    return true;
}

bool ctl_parse(struct ctl *ctl, int argc, char *argv[], enum ctl_exit *status)
{
    enum { ALL = 256, JSON, HELP, VERSION };
    static const struct option options[] = {
        {"spool", required_argument, NULL, 's'},
        {"timeout", required_argument, NULL, 't'},
        {"all", no_argument, NULL, ALL},
        {"json", no_argument, NULL, JSON},
        {"help", no_argument, NULL, HELP},
        {"version", no_argument, NULL, VERSION},
        {0},
    };
    bool all = false;
    *ctl = (struct ctl){.patience_s = PATIENCE_S};
    *status = CTL_FINE;
    for (int option; (option = getopt_long(argc, argv, "s:t:", options, NULL)) != -1;) {
        switch (option) {
        case 's':
            ctl->spool = optarg;
            break;
        case 't':
            if (!read_patience(optarg, &ctl->patience_s, status))
                return false;
            break;
        case ALL:
            all = true;
            break;
        case JSON:
            ctl->json = true;
            break;
        case HELP:
            fputs(usage, stdout);
            return false;
        case VERSION:
            puts("amqpbuf-ctl " AMQPBUF_VERSION);
            return false;
        default: /* getopt has said what is wrong */
            fputs(usage, stderr);
            *status = CTL_USAGE;
            return false;
        }
    }
    if (optind == argc)
        return refuse("what is to be done?", NULL, status);
    if (!read_verb(argv[optind], &ctl->verb))
        return refuse("expected list, retry, discard, pause or resume", argv[optind], status);
    if (ctl->json && ctl->verb != CTL_LIST)
        return refuse("--json is for list", NULL, status);
    return read_operands(ctl, argv + optind + 1, argc - optind - 1, all, status);
}
