#include "arguments.h"

#include <getopt.h>
#include <string.h>

#include "base/word.h"
#include "output.h"

static const char help[] =
    "Shows what waits in the spool of amqpbuf. It only reads, also beside a running amqpbuf.\n"
    "\n"
    "  amqpbuf-inspect [-s DIR] [summary] [-f] [--json]     queues, sizes and ages\n"
    "  amqpbuf-inspect [-s DIR] list [-f] [FILTER...] [--json]\n"
    "                                                       one line a message\n"
    "  amqpbuf-inspect [-s DIR] dump [-f] [FILTER...]       all of each, one JSON object a line\n"
    "  amqpbuf-inspect [-s DIR] dump --recover [FILTER...]  the same, page by page, of a spool "
    "that is\n"
    "                                                       damaged; amqpbuf must not run\n"
    "  amqpbuf-inspect [-s DIR] show QUEUE SEQ [--body]     one message, or its raw body alone\n"
    "  amqpbuf-inspect [-s DIR] verify                      check every record\n"
    "\n"
    "  -s, --spool DIR     the spool (AMQPBUF_SPOOL_PATH, then spool.path of\n"
    "                      /etc/amqpbuf/proxy.ini, then ./spool)\n"
    "  -f, --follow        go on with what changes, until Ctrl-C\n"
    "  -h, --help          this text\n"
    "  -V, --version\n"
    "\n"
    "FILTER:\n"
    "  --queue ID          a queue by its number in the summary\n"
    "  --user U            its user\n"
    "  --vhost V           its virtual host\n"
    "  --exchange X        published to this exchange\n"
    "  --routing-key K     with this routing key\n"
    "  --since T           received at T or later: 2026-01-02T03:04:05Z, 2026-01-02,\n"
    "  --until T           received before T:      @1767323045, or 15m, 2h, 1d (ago)\n"
    "  --after SEQ         with a sequence number above SEQ\n"
    "  --limit N           no more than N messages\n"
    "  --rejected          what RabbitMQ refused, instead of what waits\n"
    "\n"
    "Exit status: 0 fine; 1 damage found, or no such message; 2 wrong usage; 3 no spool there.\n";

enum { OPTION_JSON = FILTER_END, OPTION_BODY, OPTION_RECOVER };

static const struct option long_options[] = {
    {"spool", required_argument, NULL, 's'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {"follow", no_argument, NULL, 'f'},
    {"json", no_argument, NULL, OPTION_JSON},
    {"body", no_argument, NULL, OPTION_BODY},
    {"recover", no_argument, NULL, OPTION_RECOVER},
    {"queue", required_argument, NULL, FILTER_QUEUE},
    {"user", required_argument, NULL, FILTER_USER},
    {"vhost", required_argument, NULL, FILTER_VHOST},
    {"exchange", required_argument, NULL, FILTER_EXCHANGE},
    {"routing-key", required_argument, NULL, FILTER_ROUTING_KEY},
    {"since", required_argument, NULL, FILTER_SINCE},
    {"until", required_argument, NULL, FILTER_UNTIL},
    {"after", required_argument, NULL, FILTER_AFTER},
    {"limit", required_argument, NULL, FILTER_LIMIT},
    {"rejected", no_argument, NULL, FILTER_REJECTED},
    {NULL, 0, NULL, 0},
};

static const struct command {
    const char *name;
    command_run run;
    bool takes_filter, takes_json, takes_body, takes_follow, takes_recover;
    int operands;
} commands[] = {
    {"summary", summary_run, false, true, false, true, false, 0},
    {"list", list_run, true, true, false, true, false, 0},
    {"dump", dump_run, true, true, false, true, true, 0},
    {"show", show_run, false, true, true, false, false, 2},
    {"verify", verify_run, false, false, false, false, false, 0},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0], WORDS_MAX = 3 };

struct words {
    const char *at[WORDS_MAX]; /* the command and its operands */
    int count;
    const char *filter_option; /* the last one given, for the message */
};

/* NULL if none is near enough to have been meant. */
static const char *nearer(const char *typed, const char *candidate, const char *best,
                          unsigned *best_distance)
{
    unsigned distance = word_distance(typed, candidate);
    if (distance > 2 || distance >= *best_distance || distance >= strlen(candidate))
        return best;
    *best_distance = distance;
    return candidate;
}

static const struct command *find_command(const char *typed)
{
    const char *best = NULL;
    unsigned distance = UINT32_MAX;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(commands[i].name, typed) == 0)
            return &commands[i];
        best = nearer(typed, commands[i].name, best, &distance);
    }
    if (best)
        complain("there is no command \"%s\"; did you mean \"%s\"?", typed, best);
    else
        complain("there is no command \"%s\"; there are summary, list, dump, show and verify",
                 typed);
    return NULL;
}

static void complain_option(char *const argv[], int position)
{
    const char *typed = argv[position];
    char name[64] = "";
    if (typed[0] != '-' || typed[1] != '-') {
        complain("there is no option -%c; see --help", optopt);
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(typed + 2, "="), typed + 2);
    const char *best = NULL;
    unsigned distance = UINT32_MAX;
    for (const struct option *option = long_options; option->name; option++) {
        if (option->val == optopt && optopt != 0) {
            complain("--%s takes no value", option->name);
            return;
        }
        best = nearer(name, option->name, best, &distance);
    }
    if (best)
        complain("there is no option --%s; did you mean --%s?", name, best);
    else
        complain("there is no option --%s, or it could be several; see --help", name);
}

static bool take_word(struct words *words, const char *word)
{
    if (words->count == WORDS_MAX) {
        complain("\"%s\" is one word too many; see --help", word);
        return false;
    }
    words->at[words->count++] = word;
    return true;
}

static bool take_filter(struct inspect *inspect, struct words *words, int option, int index)
{
    words->filter_option = long_options[index].name;
    const char *wanted =
        filter_set(&inspect->filter, (enum filter_option)option, optarg, inspect->now_us);
    if (wanted)
        complain("--%s wants %s, not \"%s\"", long_options[index].name, wanted, optarg);
    return !wanted;
}

/* Returns true to go on. */
static bool take_option(struct inspect *inspect, struct words *words, int option, int index,
                        char *const argv[], int position, enum inspect_exit *status)
{
    *status = INSPECT_WRONG_USAGE;
    switch (option) {
    case 1:
        return take_word(words, optarg);
    case 's':
        inspect->spool = optarg;
        return true;
    case 'f':
        inspect->follow = true;
        return true;
    case OPTION_JSON:
        inspect->json = true;
        return true;
    case OPTION_BODY:
        inspect->body_only = true;
        return true;
    case OPTION_RECOVER:
        inspect->recover = true;
        return true;
    case 'h':
        output_text(help);
        *status = INSPECT_FINE;
        return false;
    case 'V':
        output_text("amqpbuf-inspect " AMQPBUF_VERSION "\n");
        *status = INSPECT_FINE;
        return false;
    case ':':
        complain("%s wants a value; see --help", argv[optind - 1]);
        return false;
    case '?':
        complain_option(argv, position);
        return false;
    default:
        return take_filter(inspect, words, option, index);
    }
}

static bool fits(const struct command *command, const struct inspect *inspect,
                 const struct words *words)
{
    if (words->filter_option && !command->takes_filter)
        complain("%s takes no --%s", command->name, words->filter_option);
    else if (inspect->json && !command->takes_json)
        complain("%s takes no --json", command->name);
    else if (inspect->follow && !command->takes_follow)
        complain("%s takes no --follow", command->name);
    else if (inspect->follow && inspect->filter.rejected)
        complain("--follow shows what comes to wait; what is refused has no end to wait at");
    else if (inspect->recover && !command->takes_recover)
        complain("%s takes no --recover", command->name);
    else if (inspect->recover && inspect->follow)
        complain("--recover is for a spool that no amqpbuf has: nothing comes to follow");
    else if (inspect->body_only && !command->takes_body)
        complain("%s takes no --body", command->name);
    else if (inspect->body_only && inspect->json)
        complain("--body is the body alone, so there is nothing for --json to do");
    else if (words->count - 1 > command->operands)
        complain("\"%s\" is one word too many for %s", words->at[command->operands + 1],
                 command->name);
    else if (words->count - 1 < command->operands)
        complain("show wants two numbers: QUEUE and SEQ, as list shows them");
    else
        return true;
    return false;
}

static bool take_command(struct inspect *inspect, const struct words *words, command_run *run)
{
    const struct command *command = words->count > 0 ? find_command(words->at[0]) : &commands[0];
    if (!command || (words->count > 0 && !fits(command, inspect, words)))
        return false;
    if (words->count == 0 &&
        !fits(command, inspect, &(struct words){.count = 1, .filter_option = words->filter_option}))
        return false;
    *run = inspect->recover ? recover_run : command->run;
    if (command->operands == 0)
        return true;
    uint64_t queue;
    if (!number_parse(words->at[1], UINT32_MAX, &queue) ||
        !number_parse(words->at[2], UINT64_MAX, &inspect->show_seq)) {
        complain("show wants two numbers: QUEUE and SEQ, as list shows them");
        return false;
    }
    inspect->show_queue = (uint32_t)queue;
    return true;
}

bool arguments_parse(struct inspect *inspect, command_run *run, int argc, char *argv[],
                     enum inspect_exit *status)
{
    struct words words = {0};
    opterr = 0;
    while (optind < argc) {
        int index = 0, position = optind;
        /* "-": words come in their place, before or after options, whatever POSIXLY_CORRECT says.
         * ":": a missing value is told from an unknown option. */
        int option = getopt_long(argc, argv, "-:s:fhV", long_options, &index);
        if (option == -1)
            break;
        if (!take_option(inspect, &words, option, index, argv, position, status))
            return false;
    }
    *status = INSPECT_WRONG_USAGE;
    for (; optind < argc; optind++)
        if (!take_word(&words, argv[optind]))
            return false;
    return take_command(inspect, &words, run);
}
