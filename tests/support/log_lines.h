#pragma once

/* What is logged, read back through a socket that keeps one write(2) one packet. Behind cmocka.h.
 */

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LOG_TIME_LEN = sizeof "ts=2024-05-17T09:30:00.123456Z " - 1 };

static int log_reading_end, log_kept_stderr;

static inline int log_redirect(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
    log_kept_stderr = dup(STDERR_FILENO);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    close(ends[1]);
    log_reading_end = ends[0];
    return 0;
}

static inline int log_restore(void **state)
{
    (void)state;
    dup2(log_kept_stderr, STDERR_FILENO);
    close(log_kept_stderr);
    close(log_reading_end);
    return 0;
}

/* What the next write(2) wrote, or "" if there was none. */
static inline const char *log_next_write(void)
{
    static char text[16384];
    ssize_t len = read(log_reading_end, text, sizeof text - 1);
    text[len > 0 ? len : 0] = '\0';
    return text;
}

/* A line of logfmt without its time. */
static inline const char *log_next_line(void)
{
    const char *text = log_next_write();
    assert_true(strlen(text) > LOG_TIME_LEN);
    return text + LOG_TIME_LEN;
}
