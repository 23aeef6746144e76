/* See tools/simulate. */

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "history.h"
#include "run.h"
#include "tally.h"

enum { EXIT_BROKEN = 1, EXIT_USAGE = 2, TEXT_BYTES = 1024, DEFAULT_RUNS = 100 };

/* What a child tells: shared memory, so that it is there whatever becomes of the child. */
struct report {
    uint64_t seed; /* the one it is at */
    uint64_t runs, ends, events, hash;
    struct ledger_counts messages;
    uint64_t tallies[TALLIES];
    char text[TEXT_BYTES]; /* what was broken */
};

static struct report *report;
static char spool[64];

/* The machine's own clock, not the simulated one. */
static double seconds(void)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void tell(const char *text)
{
    snprintf(report->text, sizeof report->text, "%s", text);
}

static void add(const struct run_result *r)
{
    report->runs++;
    report->ends += r->ends;
    report->events += r->events;
    report->hash = report->hash * 31 + r->hash;
    report->messages.published += r->messages.published;
    report->messages.safe += r->messages.safe;
    report->messages.refused += r->messages.refused;
    report->messages.repeats += r->messages.repeats;
    report->messages.rejected += r->messages.rejected;
}

static void leave(int status)
{
    fflush(stdout);
    syscall(SYS_exit_group, status);
}

/* Runs seeds in a child, until one breaks. True if none did. */
static bool run_in_child(uint64_t first, uint64_t count, const bool left_out[PLAN_MAX], bool prints)
{
    fflush(stdout);
    report->text[0] = 0;
    pid_t child = _Fork(); /* fork(2) is the proxy's, see machine.c */
    if (child == 0) {
        history_on_failure(tell);
        tally_into(report->tallies);
        for (uint64_t i = 0; i < count; i++) {
            report->seed = first + i;
            struct run_result r = run_seed(first + i, spool, left_out, prints);
            add(&r);
        }
        leave(0);
    }
    int status;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (!report->text[0])
        snprintf(report->text, sizeof report->text, "the process ended with %s %d",
                 WIFSIGNALED(status) ? "signal" : "status",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

/* The same promise in the same way: what differs behind the first number are the messages. */
static bool is_same(const char *one, const char *other)
{
    size_t len = strcspn(one + 1, "0123456789") + 1; /* "P2" has one, too */
    len += strcspn(one + len + (one[len] != 0), "0123456789");
    return strncmp(one, other, len) == 0;
}

static bool leave_out_pieces(uint64_t seed, unsigned count, unsigned piece, const char *wanted,
                             bool left_out[PLAN_MAX])
{
    bool tried[PLAN_MAX], any = false;
    for (unsigned at = 0; at < count; at += piece) {
        memcpy(tried, left_out, sizeof tried);
        for (unsigned i = at; i < at + piece && i < count; i++)
            tried[i] = true;
        if (memcmp(tried, left_out, sizeof tried) == 0 || run_in_child(seed, 1, tried, false) ||
            !is_same(wanted, report->text))
            continue;
        memcpy(left_out, tried, sizeof tried);
        any = true;
    }
    return any;
}

/* Leaves out what it breaks without, piece by piece, the pieces getting smaller. */
static void shrink(uint64_t seed, bool left_out[PLAN_MAX])
{
    unsigned count = plan_make(seed);
    char wanted[TEXT_BYTES];
    memcpy(wanted, report->text, sizeof wanted);
    int silent = dup(STDERR_FILENO);
    if (!freopen("/dev/null", "w", stderr))
        return;
    bool is_shorter = true;
    while (is_shorter) {
        is_shorter = false;
        for (unsigned piece = count / 2; piece > 0; piece /= 2)
            is_shorter = leave_out_pieces(seed, count, piece, wanted, left_out) || is_shorter;
    }
    dup2(silent, STDERR_FILENO);
    close(silent);
}

static void show_failure(uint64_t seed, bool left_out[PLAN_MAX])
{
    printf("seed %" PRIu64 ": %s\n", seed, report->text);
    shrink(seed, left_out);
    printf("What is needed for it:\n");
    unsigned count = plan_make(seed);
    for (unsigned i = 0; i < count; i++)
        if (!left_out[i])
            printf("  %u %s\n", i, plan_name(i));
    printf("Its history, with --print --seed %" PRIu64 " --only", seed);
    const char *comma = " ";
    for (unsigned i = 0; i < count; comma = left_out[i++] ? comma : ",")
        if (!left_out[i])
            printf("%s%u", comma, i);
    printf(":\n");
    run_in_child(seed, 1, left_out, true);
    printf("seed %" PRIu64 " without the rest: %s\n", seed, report->text);
}

static void show_sums(double took)
{
    printf("%" PRIu64 " runs, %" PRIu64 " ends of RabbitMQ or the proxy, %" PRIu64
           " events, %u messages (%u safe, %u refused, %u repeated, %u rejected) in %.1f s: "
           "%.0f ends a second; history %016" PRIx64 "\n",
           report->runs, report->ends, report->events, report->messages.published,
           report->messages.safe, report->messages.refused, report->messages.repeats,
           report->messages.rejected, took, (double)report->ends / took, report->hash);
}

static void show_tallies(void)
{
    printf("of these:");
    for (unsigned i = 0; i < TALLIES; i++)
        printf(" %" PRIu64 " %s%s", report->tallies[i], tally_name(i),
               i + 1 < TALLIES ? "," : "\n");
}

/* "1,5,9": of the plan, these alone. */
static void keep_only(const char *list, bool left_out[PLAN_MAX])
{
    for (unsigned i = 0; i < PLAN_MAX; i++)
        left_out[i] = true;
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        unsigned long entry = strtoul(at, NULL, 10);
        if (entry < PLAN_MAX)
            left_out[entry] = false;
    }
}

static int usage(void)
{
    fputs("usage: simulation [--seed S] [--runs N] [--minutes M] [--only ENTRY,...] [--brief] "
          "[--print]\n",
          stderr);
    return EXIT_USAGE;
}

int main(int argc, char *argv[])
{
    static const struct option options[] = {{"seed", required_argument, NULL, 's'},
                                            {"runs", required_argument, NULL, 'r'},
                                            {"minutes", required_argument, NULL, 'm'},
                                            {"only", required_argument, NULL, 'o'},
                                            {"brief", no_argument, NULL, 'b'},
                                            {"print", no_argument, NULL, 'p'},
                                            {NULL, 0, NULL, 0}};
    uint64_t seed = 1, runs = UINT64_MAX, batch = 200;
    double minutes = 0, begin = seconds();
    bool prints = false, is_brief = false, left_out[PLAN_MAX] = {0};
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        switch (option) {
        case 's':
            seed = strtoull(optarg, NULL, 10);
            break;
        case 'r':
            runs = strtoull(optarg, NULL, 10);
            break;
        case 'm':
            minutes = strtod(optarg, NULL);
            break;
        case 'o':
            keep_only(optarg, left_out);
            break;
        case 'b':
            is_brief = true;
            break;
        case 'p':
            prints = true;
            break;
        default:
            return usage();
        }
    if (runs == UINT64_MAX && minutes <= 0)
        runs = DEFAULT_RUNS;
    if (minutes > 0)
        history_hash_nothing(); /* how far it comes is another each time */
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    snprintf(spool, sizeof spool, "%s/simulation.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (report == MAP_FAILED || !mkdtemp(spool))
        return EXIT_BROKEN;
    bool is_well = true;
    for (uint64_t done = 0; is_well; done += batch) {
        uint64_t left = runs - done;
        if (left == 0 || (minutes > 0 && seconds() - begin > minutes * 60))
            break;
        batch = left < batch ? left : batch;
        is_well = run_in_child(seed + done, batch, left_out, prints);
    }
    if (!is_well && !prints && !is_brief)
        show_failure(report->seed, left_out);
    else if (!is_well)
        printf("seed %" PRIu64 ": %s\n", report->seed, report->text);
    else {
        show_tallies();
        show_sums(seconds() - begin);
    }
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", spool);
    if (system(command) != 0)
        return EXIT_BROKEN;
    return is_well ? 0 : EXIT_BROKEN;
}
