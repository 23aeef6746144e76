#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "json/escape.h"
#include "json/moment.h"

static volatile sig_atomic_t caught;
static int write_error; /* errno of the first write that failed */

static struct {
    bool shown;
    bool shares_terminal; /* with standard output */
    const char *verb;     /* NULL: no progress is wanted */
    uint64_t total, done;
    double begun_s, next_s;
} progress;

static void on_signal(int number)
{
    caught = number;
}

void output_init(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler =
                                   on_signal}; /* not SA_RESTART: a write that waits ends */
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction before;
        sigaction(numbers[i], NULL, &before);
        if (before.sa_handler != SIG_IGN) /* nohup stays nohup */
            sigaction(numbers[i], &action, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
}

bool output_stopped(void)
{
    return caught != 0 || write_error != 0;
}

bool output_pause(int ms)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    progress_clear();
    errno = 0;
    if (fflush(stdout) != 0 && write_error == 0)
        write_error = errno;
    /* A pipe whose reader has gone away says so without being written to. */
    if (!output_stopped() && poll(&out, 1, ms) > 0 && out.revents & (POLLERR | POLLHUP))
        write_error = EPIPE;
    return !output_stopped();
}

bool output_bytes(const void *bytes, size_t len)
{
    if (output_stopped())
        return false;
    if (progress.shares_terminal)
        progress_clear();
    errno = 0;
    if (fwrite(bytes, 1, len, stdout) < len)
        write_error = errno != 0 ? errno : EIO;
    return write_error == 0;
}

bool output_text(const char *text)
{
    return output_bytes(text, strlen(text));
}

bool output_format(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    ENSURE(len >= 0);
    bool written = output_bytes(text, (size_t)len);
    free(text);
    return written;
}

enum inspect_exit output_finish(enum inspect_exit status)
{
    progress_clear();
    errno = 0;
    if (fflush(stdout) != 0 && write_error == 0)
        write_error = errno;
    if (caught != 0) {
        signal(caught, SIG_DFL);
        raise(caught);
    }
    if (write_error == 0 || write_error == EPIPE)
        return status;
    complain("cannot write the output: %s", strerror(write_error));
    return INSPECT_DAMAGE;
}

void complain(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    ENSURE(len >= 0);
    progress_clear();
    if (isatty(STDERR_FILENO) && isatty(STDOUT_FILENO))
        fflush(stdout); /* in the order in which it happened */
    char *safe = escape_text(text, (size_t)len);
    fprintf(stderr, "amqpbuf-inspect: %s\n", safe);
    free(safe);
    free(text);
}

static double clock_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

void progress_begin(const char *verb, uint64_t total, bool wanted)
{
    progress.verb = wanted && isatty(STDERR_FILENO) ? verb : NULL;
    progress.shares_terminal = isatty(STDOUT_FILENO);
    progress.total = total;
    progress.done = 0;
    progress.begun_s = clock_s();
    progress.next_s = progress.begun_s + 1;
}

/* At the speed so far: "1m 20s". */
static const char *time_left(double now_s)
{
    static char text[MOMENT_TEXT_BYTES];
    double left = (double)(progress.total - progress.done) / (double)progress.done;
    moment_age(0, (uint64_t)((now_s - progress.begun_s) * left * 1e6), text);
    return text;
}

void progress_step(void)
{
    if (!progress.verb)
        return;
    progress.done++;
    double now_s = clock_s();
    if (now_s < progress.next_s)
        return;
    progress.next_s = now_s + 0.25;
    progress.shown = true;
    if (progress.total >= progress.done)
        fprintf(stderr, "\r\033[K%s %" PRIu64 " of %" PRIu64 " messages, %s left", progress.verb,
                progress.done, progress.total, time_left(now_s));
    else
        fprintf(stderr, "\r\033[K%s %" PRIu64 " messages", progress.verb, progress.done);
}

void progress_clear(void)
{
    if (!progress.shown)
        return;
    progress.shown = false;
    fputs("\r\033[K", stderr);
}
