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

void log_output_write(const struct iovec *parts, int count)
{
    pthread_mutex_lock(&lock);
    ssize_t written = -1;
    bool is_taken = takes_a_line_soon();
    while (is_taken && (written = writev(STDERR_FILENO, parts, count)) < 0 && errno == EINTR)
        ;
    if (!is_taken || (written < 0 && errno == EAGAIN))
        lost++;
    pthread_mutex_unlock(&lock);
}

uint64_t log_output_lost(void)
{
    uint64_t told = 0;
    pthread_mutex_lock(&lock);
    if (lost > 0 && takes_a_line(0)) {
        told = lost;
        lost = 0;
    }
    pthread_mutex_unlock(&lock);
    return told;
}
