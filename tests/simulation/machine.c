/* The rest of what the proxy asks of its machine: clocks, chance, and its own end. */

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "life.h"
#include "machine.h"
#include "prng.h"
#include "sim_uv.h"

enum { BEGAN_S = 1700000000 }; /* of the wall clock */

static unsigned boots;

void machine_boots(void)
{
    boots++;
}

/* A file that says which one this is. */
static int open_boot_id(void)
{
    char id[64];
    int fd = memfd_create("boot_id", MFD_CLOEXEC);
    int len = snprintf(id, sizeof id, "00000000-0000-4000-8000-%012u\n", boots);
    if (fd >= 0)
        ENSURE(syscall(SYS_pwrite64, fd, id, (size_t)len, 0) == len);
    return fd;
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    if (strcmp(path, "/proc/sys/kernel/random/boot_id") == 0)
        return open_boot_id();
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    uint64_t us = sim_uv_now_us();
    now->tv_sec = (time_t)(us / 1000000) + (clock == CLOCK_REALTIME ? BEGAN_S : 0);
    now->tv_nsec = (long)(us % 1000000) * 1000;
    return 0;
}

time_t time(time_t *out)
{
    time_t now = (time_t)(sim_uv_now_us() / 1000000) + BEGAN_S;
    if (out)
        *out = now;
    return now;
}

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
    (void)wanted, (void)left;
    return 0;
}

/* Keys and nonces: nobody attacks here. */
int RAND_bytes(unsigned char *out, int len)
{
    for (int i = 0; i < len; i++)
        out[i] = (unsigned char)prng_next(sim_uv_prng());
    return 1;
}

int malloc_trim(size_t pad)
{
    (void)pad;
    return 0;
}

/* Who would look for readers that have died (env_evict_dead): here none does. */
pid_t fork(void)
{
    errno = EAGAIN;
    return -1;
}

void crash_point(const char *name)
{
    (void)name;
    life_step();
}

void _exit(int status)
{
    (void)status;
    life_gave_up();
    sim_uv_exit();
}
