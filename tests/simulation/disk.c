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

#include "agenda.h"
#include "base/assert.h"
#include "fiber.h"
#include "history.h"
#include "prng.h"
#include "sim_uv.h"

enum { PAGE_BYTES = 4096, SYNC_US = 2000, LOG_LINE_BYTES = 8192, KNOWN_MAX = 64, PATH_BYTES = 256 };

enum { DATA, CHECKPOINT, FILES };

struct contents {
    uint8_t *bytes;
    size_t len, capacity;
};

/* A page that is written, and not synced. */
struct unsynced {
    size_t offset;
};

struct disk_faults disk_faults;

struct file {
    char path[PATH_BYTES];
    ino_t inode;
    struct contents written, durable;
    struct unsynced *unsynced;
    size_t unsynced_count, unsynced_capacity;
    size_t claimed;
    bool is_there; /* when it was frozen */
};

static struct {
    struct file files[FILES];
    /* What descriptors were found to be, until they are closed: of each write two system calls
     * less. */
    struct {
        struct file *file;
        bool is_synced; /* O_DSYNC */
    } known[KNOWN_MAX];
    bool is_frozen, was_broken, was_cut;
    bool has_synced_data; /* this process */
    uint64_t longest_sync_us, failing_us;
    struct prng prng;
    void (*step)(void);
} disk;

void disk_begin(const char *directory, uint64_t seed)
{
    snprintf(disk.files[DATA].path, PATH_BYTES, "%s/data.mdb", directory);
    snprintf(disk.files[CHECKPOINT].path, PATH_BYTES, "%s/checkpoint", directory);
    disk.prng = prng_of(seed, 3);
    for (unsigned i = 0; i < FILES; i++) {
        struct file *f = &disk.files[i];
        f->inode = 0;
        f->written.len = f->durable.len = f->unsynced_count = f->claimed = 0;
    }
    disk.is_frozen = disk.was_broken = disk.was_cut = disk.has_synced_data = false;
    disk.longest_sync_us = disk.failing_us = 0;
    disk_faults = (struct disk_faults){.sync_us = SYNC_US};
}

void disk_end(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        struct file *f = &disk.files[i];
        free(f->written.bytes);
        free(f->durable.bytes);
        free(f->unsynced);
        *f = (struct file){0};
    }
}

uint64_t disk_longest_sync_us(void)
{
    return disk.longest_sync_us;
}

uint64_t disk_failing_since_us(void)
{
    return disk.failing_us;
}

bool disk_was_broken(void)
{
    return disk.was_broken;
}

void disk_on_step(void (*step)(void))
{
    disk.step = step;
}

static struct file *find(ino_t inode)
{
    struct stat st;
    for (unsigned i = 0; i < FILES; i++) {
        struct file *f = &disk.files[i];
        if (f->inode == 0 && f->path[0] && stat(f->path, &st) == 0)
            f->inode = st.st_ino;
        if (f->inode == inode)
            return f;
    }
    return NULL;
}

/* NULL: another file, which is never lost here. */
static struct file *file_of(int fd)
{
    struct stat st;
    if (fd <= 2 || fd >= KNOWN_MAX)
        return NULL;
    if (disk.known[fd].file)
        return disk.known[fd].file;
    struct file *f = fstat(fd, &st) == 0 ? find(st.st_ino) : NULL;
    disk.known[fd].file = f;
    disk.known[fd].is_synced = f && (fcntl(fd, F_GETFL) & O_DSYNC);
    return f;
}

int close(int fd)
{
    if (fd >= 0 && fd < KNOWN_MAX)
        disk.known[fd].file = NULL;
    return (int)syscall(SYS_close, fd);
}

/* ---- what is there, and what would be ---- */

static void put(struct contents *c, size_t offset, const void *bytes, size_t len)
{
    size_t end = offset + len;
    if (len == 0)
        return;
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

static void put_page(struct file *f, size_t offset)
{
    size_t left = f->written.len - offset;
    put(&f->durable, offset, f->written.bytes + offset, left < PAGE_BYTES ? left : PAGE_BYTES);
}

static void note_write(int fd, size_t offset, const void *bytes, size_t len)
{
    struct file *f = disk.known[fd].file;
    if (disk.is_frozen)
        return;
    put(&f->written, offset, bytes, len);
    if (disk.known[fd].is_synced) {
        put(&f->durable, offset, bytes, len);
        return;
    }
    for (size_t at = offset / PAGE_BYTES * PAGE_BYTES; at < offset + len; at += PAGE_BYTES) {
        if (f->unsynced_count == f->unsynced_capacity) {
            f->unsynced_capacity = f->unsynced_capacity * 2 + 64;
            f->unsynced = realloc(f->unsynced, f->unsynced_capacity * sizeof *f->unsynced);
            ENSURE(f->unsynced);
        }
        f->unsynced[f->unsynced_count++].offset = at;
    }
}

static void note_sync(struct file *f)
{
    for (size_t i = 0; i < f->unsynced_count && !disk.is_frozen; i++)
        put_page(f, f->unsynced[i].offset);
    if (!disk.is_frozen)
        f->unsynced_count = 0;
}

static void lose_unsynced(struct file *f)
{
    for (size_t i = 0; i < f->unsynced_count; i++)
        if (prng_percent(&disk.prng, 50))
            put_page(f, f->unsynced[i].offset);
    f->unsynced_count = 0;
    f->written.len = 0;
    put(&f->written, 0, f->durable.bytes, f->durable.len);
}

void disk_freeze(bool power_cut)
{
    disk.is_frozen = true;
    disk.was_cut = power_cut;
    for (unsigned i = 0; i < FILES; i++) {
        disk.files[i].is_there = access(disk.files[i].path, F_OK) == 0;
        if (power_cut)
            lose_unsynced(&disk.files[i]);
    }
}

/* The process has gone on for a little, which did not happen. */
static void put_back(const struct file *f)
{
    if (!f->is_there || f->written.len == 0) {
        unlink(f->path);
        return;
    }
    int fd = open(f->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ENSURE(fd >= 0);
    ENSURE(syscall(SYS_pwrite64, fd, f->written.bytes, f->written.len, 0) ==
           (ssize_t)f->written.len);
    ENSURE(ftruncate(fd, (off_t)f->written.len) == 0);
    close(fd);
}

void disk_thaw(void)
{
    for (unsigned i = 0; i < FILES; i++) {
        struct file *f = &disk.files[i];
        if (disk.is_frozen)
            put_back(f);
        else if (access(f->path, F_OK) != 0)
            f->written.len = f->durable.len = f->unsynced_count = 0;
        f->inode = 0;
        f->claimed = f->written.len;
    }
    if (disk.was_cut) /* else the next process has still to sync what this one could not */
        disk.failing_us = 0;
    if (disk.failing_us == 0)
        disk.longest_sync_us = 0;
    disk.is_frozen = disk.was_broken = disk.was_cut = disk.has_synced_data = false;
}

/* ---- system calls ---- */

static void step(void)
{
    if (disk.step && !disk.is_frozen)
        disk.step();
}

/* 0, or the error that a write has to fail with. */
static int obstacle(const struct file *f, size_t end)
{
    if (disk.is_frozen)
        return 0;
    if (disk_faults.writes_fail)
        return EIO;
    size_t there = f->written.len > f->claimed ? f->written.len : f->claimed;
    return disk_faults.is_full && end > there ? ENOSPC : 0;
}

static ssize_t fails(int error)
{
    disk.was_broken = true;
    errno = error;
    return -1;
}

/* What is synced by time is so later than usual from here on. */
static ssize_t fails_to_sync(int error)
{
    if (disk.failing_us == 0)
        disk.failing_us = agenda_now_us();
    return fails(error);
}

static ssize_t fails_to_write(const struct file *f, int error)
{
    return f == &disk.files[CHECKPOINT] ? fails_to_sync(error) : fails(error);
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
    struct file *f = file_of(fd);
    if (!f)
        return syscall(SYS_pwrite64, fd, bytes, len, offset);
    step();
    /* The byte that says that a sync is in doubt is in a page that the kernel has. */
    bool is_byte = len == 1 && f == &disk.files[CHECKPOINT];
    int error = is_byte ? 0 : obstacle(f, (size_t)offset + len);
    if (error)
        return fails_to_write(f, error);
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
    struct file *f = file_of(fd);
    if (!f)
        return syscall(SYS_writev, fd, iov, count);
    step();
    size_t offset = (size_t)lseek(fd, 0, SEEK_CUR), len = 0;
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    int error = obstacle(f, offset + len);
    if (error)
        return fails_to_write(f, error);
    ENSURE(syscall(SYS_writev, fd, iov, count) == (ssize_t)len);
    for (int i = 0; i < count; offset += iov[i++].iov_len)
        note_write(fd, offset, iov[i].iov_base, iov[i].iov_len);
    return (ssize_t)len;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    struct file *f = file_of(fd);
    if (!f)
        return syscall(SYS_write, fd, bytes, len);
    step();
    size_t offset = (size_t)lseek(fd, 0, SEEK_CUR);
    int error = obstacle(f, offset + len);
    if (error)
        return fails_to_write(f, error);
    ssize_t n = syscall(SYS_write, fd, bytes, len);
    if (n > 0)
        note_write(fd, offset, bytes, (size_t)n);
    return n;
}

int fdatasync(int fd)
{
    struct file *f = file_of(fd);
    if (!f)
        return 0;
    step();
    uint64_t takes_us = prng_below(&disk.prng, disk_faults.sync_us + 1);
    if (disk.longest_sync_us < takes_us)
        disk.longest_sync_us = takes_us;
    sim_uv_thread_takes_us(takes_us);
    if (disk_faults.syncs_to_fail > 0 && !disk.is_frozen) {
        disk_faults.syncs_to_fail--;
        f->unsynced_count = 0;
        history_note("disk: a sync fails");
        return (int)fails_to_sync(EIO);
    }
    note_sync(f);
    if (f == &disk.files[DATA])
        disk.has_synced_data = true;
    else if (disk.has_synced_data) /* else a start has only made sure of the one before */
        disk.failing_us = 0;
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
    struct file *f = file_of(fd);
    if ((mode & ~FALLOC_FL_KEEP_SIZE) == 0) {
        if (disk_faults.is_full && !disk.is_frozen)
            return (int)fails(ENOSPC);
        if (f && (size_t)(offset + len) > f->claimed)
            f->claimed = (size_t)(offset + len);
        return 0;
    }
    errno = EOPNOTSUPP; /* holes */
    return -1;
}
