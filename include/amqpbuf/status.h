#pragma once

/* What can go wrong in the spool and the configuration, for amqpbuf and amqpbuf-inspect alike.
 * Errors of other libraries (LMDB, OpenSSL, errno) are translated into these where they enter. */

#define AMQPBUF_STATUS(X)                                                                          \
    X(STATUS_OK, "success")                                                                        \
    X(STATUS_NOT_FOUND, "not found")                                                               \
    X(STATUS_NO_SPOOL, "there is no spool here")                                                   \
    X(STATUS_FULL, "the spool has reached spool.max_size")                                         \
    X(STATUS_NO_SPACE, "no space left on the device")                                              \
    X(STATUS_NO_MEMORY, "out of memory")                                                           \
    X(STATUS_IO, "input/output error")                                                             \
    X(STATUS_DAMAGED, "damaged data")                                                              \
    X(STATUS_VERSION, "made by another version of amqpbuf")                                        \
    X(STATUS_IN_USE, "in use by another amqpbuf")                                                  \
    X(STATUS_PERMISSION, "wrong permissions")                                                      \
    X(STATUS_INVALID, "invalid argument")                                                          \
    X(STATUS_FATAL, "the environment must be reopened")

enum status {
#define X(name, text) name,
    AMQPBUF_STATUS(X)
#undef X
};

/* A short English text; never NULL. */
const char *status_text(enum status);

/* A status with the sentence that a person needs: what failed, on what, and what mends it. */
struct failure {
    enum status status;
    char text[256];
};

/* Fills `failure` (if not NULL) and returns `status`. */
enum status failure_set(struct failure *failure, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
