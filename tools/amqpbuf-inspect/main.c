/* amqpbuf-inspect: what waits in the spool of amqpbuf. */

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arguments.h"
#include "base/bus_error.h"
#include "base/standard.h"
#include "config/spool_path.h"
#include "output.h"

enum { PIDS_TRIED = 8 };

static bool is_directory(const char *path)
{
    struct stat found;
    return stat(path, &found) == 0 && S_ISDIR(found.st_mode);
}

static bool is_no_spool(enum status status)
{
    return status == STATUS_NO_SPOOL || status == STATUS_VERSION || status == STATUS_PERMISSION;
}

static void say_bus_error(void)
{
    fflush(stdout);
    complain("data.mdb is shorter than its own tables say, or the disk cannot read it");
}

static pid_t child;

static void on_end_signal(int number)
{
    kill(child, number);
}

/* Goes on in a child, which has another pid; this process stays to pass its end on. */
static void go_on_in_child(void)
{
    child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        return;
    }
    int status = 0;
    signal(SIGINT, on_end_signal);
    signal(SIGTERM, on_end_signal);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    _exit(child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : INSPECT_DAMAGE);
}

/* LMDB tells readers apart by their pid. In a container of its own this process may have the number
 * of the proxy, or of one that starts later: 1, mostly. */
static enum status open_spool(struct inspect *inspect, struct failure *failure)
{
    if (getpid() == 1)
        go_on_in_child();
    enum status status = reader_open(&inspect->reader, inspect->spool, failure);
    for (unsigned tries = 0; status == STATUS_IN_USE && tries < PIDS_TRIED; tries++) {
        go_on_in_child();
        status = reader_open(&inspect->reader, inspect->spool, failure);
    }
    return status;
}

static enum inspect_exit run_with_spool(struct inspect *inspect, command_run run)
{
    struct failure failure = {0};
    enum status status = open_spool(inspect, &failure);
    if (status != STATUS_OK) {
        if (!is_directory(inspect->spool))
            status = STATUS_NO_SPOOL;
        if (status == STATUS_NO_SPOOL)
            complain("there is no spool in %s; give its directory with -s DIR", inspect->spool);
        else
            complain("%s: %s", inspect->spool, failure.text);
        return is_no_spool(status) ? INSPECT_NO_SPOOL : INSPECT_DAMAGE;
    }
    enum inspect_exit outcome = run(inspect);
    reader_close(inspect->reader);
    return outcome;
}

int main(int argc, char *argv[])
{
    struct inspect inspect = {0};
    char *found = NULL;
    standard_descriptors_hold();
    inspect_look_at_clock(&inspect);
    command_run run;
    enum inspect_exit status;
    setlocale(LC_CTYPE, "C.UTF-8"); /* AMQP's text is UTF-8 whatever the terminal's locale says */
    const char *no_color = getenv("NO_COLOR");
    inspect.terminal = isatty(STDOUT_FILENO);
    inspect.colour = inspect.terminal && (!no_color || no_color[0] == '\0');
    bus_error_explain(say_bus_error, INSPECT_DAMAGE);
    filter_init(&inspect.filter);
    output_init();
    if (arguments_parse(&inspect, &run, argc, argv, &status)) {
        if (!inspect.spool)
            inspect.spool = found = spool_path_find(NULL, stderr);
        status = inspect.recover ? run(&inspect) : run_with_spool(&inspect, run);
    }
    free(found);
    return (int)output_finish(status);
}
