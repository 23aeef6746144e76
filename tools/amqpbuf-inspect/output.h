#pragma once

/* Standard output, with an eye on what can go wrong with it: a reader that went away (`| head`),
 * a full disk, a signal. Whatever it is, the work stops at the next record and the spool is closed
 * properly: a process that died within a read transaction would leave its slot in LMDB's table of
 * readers, and the proxy could not use old pages again. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "inspect.h"

/* Takes over SIGINT, SIGTERM, SIGHUP and SIGPIPE. */
void output_init(void);

/* False once output_stopped. */
bool output_bytes(const void *bytes, size_t len);
bool output_text(const char *text);
bool output_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* True if there is no point in going on. */
bool output_stopped(void);
/* Flushes, and waits so many milliseconds, or until there is no point in going on: then false. */
bool output_pause(int ms);

/* Flushes. Returns `status`, or INSPECT_DAMAGE after saying why if something could not be written;
 * a reader that went away is no error. Ends the process if a signal asked for it, so that the
 * shell sees that. */
enum inspect_exit output_finish(enum inspect_exit status);

/* One line on standard error that is kept up to date, if that is a terminal and the work takes
 * longer than a second. `total` 0: not known. */
void progress_begin(const char *verb, uint64_t total, bool wanted);
void progress_step(void);
/* Clears the line, so that something else may be written. */
void progress_clear(void);
