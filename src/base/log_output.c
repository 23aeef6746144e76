#include "base/log_output.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

enum {
    PATIENCE_MS = 100,      /* with a reader who is slow */
    STANDS_STILL_MS = 10000 /* so long he is not waited for again */
};

/* Two who have both seen room for one line: the second would wait. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t lost;
static uint64_t lost_ms; /* when the last wait was in vain; 0: never */
static bool fails;       /* the last line was not taken: a full disk, mostly */
static bool is_torn;     /* and the beginning of one was */

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Whether a line can be written without a wait: a pipe that takes anything takes PIPE_BUF bytes. */
static bool takes_a_line(int patience_ms)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&out, 1, patience_ms) != 0; /* an error is for the write to find */
}

static bool takes_a_line_soon(void)
{
    if (takes_a_line(0))
        return true;
    uint64_t now = now_ms();
    if (lost_ms && now - lost_ms < STANDS_STILL_MS)
        return false;
    if (takes_a_line(PATIENCE_MS))
        return true;
    lost_ms = now;
    return false;
}

/* Behind the beginning of a line that was lost, on a line of its own. */
static ssize_t write_parts(const struct iovec line[2])
{
    const struct iovec parts[] = {{"\n", is_torn}, line[0], line[1]};
    ssize_t written;
    do
        written = writev(STDERR_FILENO, parts, 3);
    while (written < 0 && errno == EINTR);
    return written;
}

void log_output_write(const struct iovec line[2])
{
    pthread_mutex_lock(&lock);
    ssize_t len = (ssize_t)(line[0].iov_len + line[1].iov_len) + is_torn;
    bool is_taken = takes_a_line_soon();
    ssize_t written = is_taken ? write_parts(line) : 0;
    bool is_whole = written == len;
    fails = is_taken && !is_whole && (written >= 0 || errno != EAGAIN);
    lost += !is_whole;
    is_torn = !is_whole && (is_torn || written > 0);
    pthread_mutex_unlock(&lock);
}

uint64_t log_output_lost(void)
{
    uint64_t told = 0;
    pthread_mutex_lock(&lock);
    if (lost > 0 && !fails && takes_a_line(0)) {
        told = lost;
        lost = 0;
    }
    pthread_mutex_unlock(&lock);
    return told;
}
