#pragma once

/* The command line. */

#include <stdio.h>

#include "inspect.h"

/* Fills `inspect` and *run. False if there is nothing to run: *status is the exit status then, and
 * what had to be said (the help, the version, what is wrong) has been said. */
bool arguments_parse(struct inspect *, command_run *run, int argc, char *argv[],
                     enum inspect_exit *status);
