/* amqpbuf-inspect: what waits in the spool of amqpbuf. */

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arguments.h"
#include "base/bus_error.h"
#include "output.h"

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

static enum inspect_exit run_with_spool(struct inspect *inspect, command_run run)
{
    struct failure failure = {0};
    enum status status = reader_open(&inspect->reader, inspect->spool, &failure);
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
    struct inspect inspect = {.spool = "./spool"};
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
    if (arguments_parse(&inspect, &run, argc, argv, &status))
        status = run_with_spool(&inspect, run);
    return (int)output_finish(status);
}
