#pragma once

/* What every command of amqpbuf-inspect is given. */

#include <stdbool.h>
#include <stdint.h>

#include "amqpbuf/spool_reader.h"
#include "filter.h"

enum inspect_exit {
    INSPECT_FINE = 0,
    INSPECT_DAMAGE = 1, /* damage found, no such message, or the work could not be finished */
    INSPECT_WRONG_USAGE = 2,
    INSPECT_NO_SPOOL = 3,
};

struct inspect {
    const char *spool; /* directory */
    struct filter filter;
    bool json;
    bool body_only;
    bool recover; /* without LMDB, page by page: there is no reader */
    bool follow;  /* go on with what changes, until a signal or the reader's end */
    uint32_t show_queue;
    uint64_t show_seq;
    uint64_t now_us; /* microseconds since 1970 UTC */
    bool terminal;   /* standard output is one */
    bool colour;     /* and may be coloured */
    struct reader *reader;
};

/* Ages are told as of now. */
void inspect_look_at_clock(struct inspect *);

typedef enum inspect_exit (*command_run)(struct inspect *);

/* Each writes to output.h, says on standard error what went wrong, and returns the exit status. */
enum inspect_exit summary_run(struct inspect *);
enum inspect_exit list_run(struct inspect *);
enum inspect_exit dump_run(struct inspect *);
enum inspect_exit recover_run(struct inspect *);
enum inspect_exit show_run(struct inspect *);
enum inspect_exit verify_run(struct inspect *);

/* Prints "amqpbuf-inspect: ..." on standard error, with control characters escaped. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
