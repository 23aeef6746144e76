#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/assert.h"
#include "fiber.h"
#include "history.h"
#include "prng.h"
#include "sim_uv.h"

enum { PAGE_BYTES = 4096, SYNC_US = 2000, LOG_LINE_BYTES = 8192, KNOWN_MAX = 64 };

struct contents {
    uint8_t *bytes;
    size_t len, capacity;
};

/* A page that is written, and not synced. */
struct unsynced {
    size_t offset;
};

struct disk_faults disk_faults;

static struct {
    char data[256];
    ino_t inode;
    /* Descriptors that were found to be data.mdb, until they are closed: of each write two system
     * calls less. */
    struct {
        bool is_data, is_synced; /* O_DSYNC */
    } known[KNOWN_MAX];
    struct contents written, durable;
    struct unsynced *unsynced;
    size_t unsynced_count, unsynced_capacity;
    size_t claimed;
    bool is_frozen, was_broken;
    struct prng prng;
    void (*step)(void);
} disk;

void disk_begin(const char *directory, uint64_t seed)
{
    snprintf(disk.data, sizeof disk.data, "%s/data.mdb", directory);
    disk.prng = prng_of(seed, 3);
    disk.inode = 0;
    disk.written.len = disk.durable.len = disk.unsynced_count = disk.claimed = 0;
    disk.is_frozen = disk.was_broken = false;
    disk_faults = (struct disk_faults){.sync_us = SYNC_US};
}

void disk_end(void)
{
    free(disk.written.bytes);
    free(disk.durable.bytes);
    free(disk.unsynced);
    disk.written = disk.durable = (struct contents){0};
    disk.unsynced = NULL;
    disk.unsynced_capacity = 0;
}

bool disk_was_broken(void)
{
    return disk.was_broken;
}

void disk_on_step(void (*step)(void))
{
    disk.step = step;
}

static bool is_data(int fd)
{
    struct stat st;
    if (fd <= 2 || fd >= KNOWN_MAX)
        return false;
    if (disk.known[fd].is_data)
        return true;
    if (disk.inode == 0 && stat(disk.data, &st) == 0)
        disk.inode = st.st_ino;
    if (disk.inode == 0 || fstat(fd, &st) != 0 || st.st_ino != disk.inode)
        return false;
    disk.known[fd].is_data = true;
    disk.known[fd].is_synced = fcntl(fd, F_GETFL) & O_DSYNC;
    return true;
}

int close(int fd)
{
    if (fd >= 0 && fd < KNOWN_MAX)
        disk.known[fd].is_data = false;
    return (int)syscall(SYS_close, fd);
}

/* ---- what is there, and what would be ---- */

static void put(struct contents *c, size_t offset, const void *bytes, size_t len)
{
    size_t end = offset + len;
    if (end > c->capacity) {
        c->capacity = end * 2;
        c->bytes = realloc(c->bytes, c->capacity);
        ENSURE(c->bytes);
    }
    if (offset > c->len)
        memset(c->bytes + c->len, 0, offset - c->len);
    memcpy(c->bytes + offset, bytes, len);
    if (end > c->len)
        c->len = end;
}

static void put_page(size_t offset)
{
    size_t left = disk.written.len - offset;
    put(&disk.durable, offset, disk.written.bytes + offset, left < PAGE_BYTES ? left : PAGE_BYTES);
}

static void note_write(int fd, size_t offset, const void *bytes, size_t len)
{
    if (disk.is_frozen)
        return;
    put(&disk.written, offset, bytes, len);
    if (disk.known[fd].is_synced) {
        put(&disk.durable, offset, bytes, len);
        return;
    }
    for (size_t at = offset / PAGE_BYTES * PAGE_BYTES; at < offset + len; at += PAGE_BYTES) {
        if (disk.unsynced_count == disk.unsynced_capacity) {
            disk.unsynced_capacity = disk.unsynced_capacity * 2 + 64;
            disk.unsynced = realloc(disk.unsynced, disk.unsynced_capacity * sizeof *disk.unsynced);
            ENSURE(disk.unsynced);
        }
        disk.unsynced[disk.unsynced_count++].offset = at;
    }
}

static void note_sync(void)
{
    for (size_t i = 0; i < disk.unsynced_count && !disk.is_frozen; i++)
        put_page(disk.unsynced[i].offset);
    if (!disk.is_frozen)
        disk.unsynced_count = 0;
}

void disk_freeze(bool power_cut)
{
    disk.is_frozen = true;
    if (!power_cut)
        return;
    for (size_t i = 0; i < disk.unsynced_count; i++)
        if (prng_percent(&disk.prng, 50))
            put_page(disk.unsynced[i].offset);
    disk.written.len = 0;
    put(&disk.written, 0, disk.durable.bytes, disk.durable.len);
}

void disk_thaw(void)
{
    int fd = open(disk.data, O_WRONLY | O_CLOEXEC);
    if (disk.is_frozen && fd >= 0) {
        ENSURE(syscall(SYS_pwrite64, fd, disk.written.bytes, disk.written.len, 0) ==
               (ssize_t)disk.written.len);
        ENSURE(ftruncate(fd, (off_t)disk.written.len) == 0);
    }
    if (fd >= 0)
        close(fd);
    if (disk.is_frozen && disk.written.len == 0)
        unlink(disk.data);
    disk.inode = 0;
    disk.is_frozen = disk.was_broken = false;
    disk.claimed = disk.written.len;
}

/* ---- system calls ---- */

static void step(void)
{
    if (disk.step && !disk.is_frozen)
        disk.step();
}

/* 0, or the error that a write has to fail with. */
static int obstacle(size_t end)
{
    if (disk.is_frozen)
        return 0;
    if (disk_faults.writes_fail)
        return EIO;
    size_t there = disk.written.len > disk.claimed ? disk.written.len : disk.claimed;
    return disk_faults.is_full && end > there ? ENOSPC : 0;
}

static ssize_t fails(int error)
{
    disk.was_broken = true;
    errno = error;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
    if (!is_data(fd))
        return syscall(SYS_pwrite64, fd, bytes, len, offset);
    step();
    int error = obstacle((size_t)offset + len);
    if (error)
        return fails(error);
    ssize_t n = syscall(SYS_pwrite64, fd, bytes, len, offset);
    if (n > 0)
        note_write(fd, (size_t)offset, bytes, (size_t)n);
    return n;
}

/* base/log writes a line with one call. */
static ssize_t take_log(const struct iovec *iov, int count)
{
    char line[LOG_LINE_BYTES];
    size_t len = 0;
    for (int i = 0; i < count; len += iov[i++].iov_len) {
        ENSURE(iov[i].iov_len <= sizeof line - len);
        memcpy(line + len, iov[i].iov_base, iov[i].iov_len);
    }
    if (!sim_uv_is_killed())
        history_log(line, (int)len);
    return (ssize_t)len;
}

/* LMDB seeks before it writes several pages at once. */
ssize_t writev(int fd, const struct iovec *iov, int count)
{
    if (fd == STDERR_FILENO)
        return take_log(iov, count);
    if (!is_data(fd))
        return syscall(SYS_writev, fd, iov, count);
    step();
    size_t offset = (size_t)lseek(fd, 0, SEEK_CUR), len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    int error = obstacle(offset + len);
    if (error)
        return fails(error);
    ENSURE(syscall(SYS_writev, fd, iov, count) == (ssize_t)len);
    for (int i = 0; i < count; offset += iov[i++].iov_len)
        note_write(fd, offset, iov[i].iov_base, iov[i].iov_len);
    return (ssize_t)len;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    if (!is_data(fd))
        return syscall(SYS_write, fd, bytes, len);
    step();
    size_t offset = (size_t)lseek(fd, 0, SEEK_CUR);
    int error = obstacle(offset + len);
    if (error)
        return fails(error);
    ssize_t n = syscall(SYS_write, fd, bytes, len);
    if (n > 0)
        note_write(fd, offset, bytes, (size_t)n);
    return n;
}

int fdatasync(int fd)
{
    if (!is_data(fd))
        return 0;
    step();
    sim_uv_thread_takes_us(prng_below(&disk.prng, disk_faults.sync_us + 1));
    if (disk_faults.syncs_to_fail > 0 && !disk.is_frozen) {
        disk_faults.syncs_to_fail--;
        disk.unsynced_count = 0;
        history_note("disk: a sync fails");
        return (int)fails(EIO);
    }
    note_sync();
    step();
    return 0;
}

int fsync(int fd)
{
    (void)fd; /* of directories, and small files that are never lost here */
    return 0;
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    (void)fd;
    if ((mode & ~FALLOC_FL_KEEP_SIZE) == 0) {
        if (disk_faults.is_full && !disk.is_frozen)
            return (int)fails(ENOSPC);
        if ((size_t)(offset + len) > disk.claimed)
            disk.claimed = (size_t)(offset + len);
        return 0;
    }
    errno = EOPNOTSUPP; /* holes */
    return -1;
}
