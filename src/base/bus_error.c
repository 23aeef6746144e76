#include "base/bus_error.h"

#include <signal.h>
#include <unistd.h>

#include "base/assert.h"

static void (*explain)(void);
static int status;

static void on_bus_error(int number)
{
    (void)number;
    explain();
    _exit(status);
}

void bus_error_explain(void (*say)(void), int exit_status)
{
    explain = say;
    status = exit_status;
    /* Once: a second one, in `say`, is the end. */
    struct sigaction action = {.sa_handler = on_bus_error, .sa_flags = (int)SA_RESETHAND};
    ENSURE(sigaction(SIGBUS, &action, NULL) == 0);
}
