#include "spool/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/assert.h"
#include "base/crash_point.h"
#include "spool/big_endian.h"
#include "spool/env.h"
#include "spool/home.h"
#include "spool/page.h"
#include "spool/unsynced.h"
#include "spool/view.h"

/* Two slots, written in turn, and a byte behind them that says that a sync has failed since the
 * newer one was written, or is under way; docs/spool-format.md has the bytes. That byte is for a
 * process that comes after this one in the same boot: a power cut makes it meaningless, so it needs
 * no sync. It is written before each sync, because who is killed in one does not hear how it ended.
 */

enum {
    SLOT_BYTES = 256 * 1024,
    PAGE_BYTES_MAX = 64 * 1024, /* LMDB's MAX_PAGESIZE is half of that */
    META_PAGES = 2,             /* the first two of data.mdb, written in turn by LMDB's commits */

    AT_MAGIC = 0,
    AT_TXNID = 8,
    AT_PAGE_BYTES = 16,
    AT_CHECKSUM = 24,
    AT_BOOT = 32,
    BOOT_BYTES = 36,
    AT_PAGES = 4096,
    AT_DOUBT = 2 * SLOT_BYTES,
};

static const char magic[8] = {'c', 'h', 'e', 'c', 'k', 'p', 't', '1'};

static enum status fail(struct failure *failure, int error, const char *doing)
{
    return failure_set(failure, error == ENOSPC ? STATUS_NO_SPACE : STATUS_IO, "%s: %s", doing,
                       strerror(error));
}

static void name_file(char name[4096], const char *path, const char *file)
{
    snprintf(name, 4096, "%s/%s", path, file);
}

/* Which run of the machine this is; false if that cannot be told. */
static bool read_boot_id(char boot[BOOT_BYTES])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    bool is_read = fd >= 0 && read(fd, boot, BOOT_BYTES) == BOOT_BYTES;
    if (fd >= 0)
        close(fd);
    return is_read;
}

static enum status no_boot_id(struct failure *failure, const char *so)
{
    return failure_set(
        failure, STATUS_INVALID,
        "/proc/sys/kernel/random/boot_id cannot be read, so a crash of the process "
        "cannot be told from one of the machine: %s; mend it with the whole of /proc "
        "(systemd: no ProcSubset=pid)",
        so);
}

static bool is_this_boot(const uint8_t *slot)
{
    char boot[BOOT_BYTES];
    return read_boot_id(boot) && memcmp(slot + AT_BOOT, boot, BOOT_BYTES) == 0;
}

static size_t pages_bytes(const uint8_t *slot)
{
    return META_PAGES * (size_t)big_endian_get(slot + AT_PAGE_BYTES, 4);
}

/* Of everything but the boot id: a torn one is that of no machine. */
static uint64_t checksum(const uint8_t *slot)
{
    uint64_t head = XXH3_64bits(slot, AT_CHECKSUM);
    return XXH3_64bits_withSeed(slot + AT_PAGES, pages_bytes(slot), head);
}

/* ---- reading ---- */

/* Returns false if the slot was never written, or not to its end. */
static bool read_slot(int fd, unsigned which, uint8_t slot[SLOT_BYTES])
{
    ssize_t len = pread(fd, slot, SLOT_BYTES, (off_t)which * SLOT_BYTES);
    if (len < AT_PAGES || memcmp(slot + AT_MAGIC, magic, sizeof magic) != 0)
        return false;
    size_t pages = pages_bytes(slot);
    return pages > 0 && pages <= META_PAGES * PAGE_BYTES_MAX && (size_t)len >= AT_PAGES + pages &&
           checksum(slot) == big_endian_get(slot + AT_CHECKSUM, 8);
}

/* False of the state of another data.mdb, as after a backup was put in its place: that knows of no
 * commit so late. What a power cut leaves of it does: its meta pages were synced before the slot
 * was written. Where they cannot be told the checkpoint is all that there is. */
static bool is_of(const uint8_t *slot, int data)
{
    uint64_t last = 0, page_bytes = big_endian_get(slot + AT_PAGE_BYTES, 4);
    bool is_known = false;
    for (unsigned page = 0; page < META_PAGES; page++) {
        uint8_t meta[PAGE_META_BYTES];
        uint64_t txnid;
        if (pread(data, meta, sizeof meta, (off_t)(page * page_bytes)) != sizeof meta)
            return false;
        if (!page_is_meta(meta, page, &txnid))
            continue;
        last = txnid > last ? txnid : last;
        is_known = true;
    }
    return !is_known || big_endian_get(slot + AT_TXNID, 8) <= last;
}

/* The newer of the two slots, in memory of the caller's, and its place; NULL if there is none. */
static uint8_t *read_newest(int fd, unsigned *which)
{
    uint8_t *newest = calloc(1, SLOT_BYTES), *other = calloc(1, SLOT_BYTES);
    ENSURE(newest && other);
    bool any = read_slot(fd, 0, newest);
    *which = 0;
    if (read_slot(fd, 1, other) &&
        (!any || big_endian_get(other + AT_TXNID, 8) > big_endian_get(newest + AT_TXNID, 8))) {
        uint8_t *swap = newest;
        newest = other;
        other = swap;
        any = true;
        *which = 1;
    }
    free(other);
    if (any)
        return newest;
    free(newest);
    return NULL;
}

static int open_to_read(const char *path, const char *file)
{
    char name[4096];
    name_file(name, path, file);
    return open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* whatever has this name */
}

static uint8_t *read_checkpoint(const char *path)
{
    unsigned which;
    int fd = open_to_read(path, "checkpoint"), data = open_to_read(path, "data.mdb");
    uint8_t *slot = fd >= 0 && data >= 0 ? read_newest(fd, &which) : NULL;
    if (slot && !is_of(slot, data)) {
        free(slot);
        slot = NULL;
    }
    if (fd >= 0)
        close(fd);
    if (data >= 0)
        close(data);
    return slot;
}

bool checkpoint_is_due(const char *path)
{
    uint8_t *slot = read_checkpoint(path);
    bool due = slot && !is_this_boot(slot) && !home_is_locked(path);
    free(slot);
    return due;
}

static enum status put_back(const char *path, const uint8_t *slot, struct failure *failure)
{
    char name[4096];
    name_file(name, path, "data.mdb");
    int fd = open(name, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(failure, errno, name);
    ssize_t len = (ssize_t)pages_bytes(slot);
    int error = 0;
    if (pwrite(fd, slot + AT_PAGES, (size_t)len, 0) != len || fdatasync(fd) != 0)
        error = errno ? errno : EIO;
    close(fd);
    return error ? fail(failure, error, name) : STATUS_OK;
}

enum status checkpoint_restore(const char *path, bool *restored, struct failure *failure)
{
    uint8_t *slot = read_checkpoint(path);
    enum status status = STATUS_OK;
    char boot[BOOT_BYTES];
    *restored = slot && !is_this_boot(slot);
    if (slot && !read_boot_id(boot))
        status = no_boot_id(failure, "the spool has a checkpoint, and is not touched");
    else if (*restored)
        status = put_back(path, slot, failure);
    free(slot);
    return status;
}

/* ---- syncing ---- */

static bool read_doubt(int fd)
{
    char doubt = 0;
    return pread(fd, &doubt, 1, AT_DOUBT) == 1 && doubt != 0;
}

/* On a disk that takes no byte a sync may still do what it can. */
static void write_doubt(const struct checkpoint *c, bool is_doubted)
{
    char doubt = is_doubted ? 1 : 0;
    (void)!pwrite(c->fd, &doubt, 1, AT_DOUBT);
}

/* What a sync that failed may have lost is written again: at once, while the kernel still has it,
 * and before the next one, in case that the disk did not let it. */
static int sync_data(struct checkpoint *c, MDB_env *env)
{
    int error = c->is_doubted ? unsynced_write_again(env, c->held, c->last_page) : 0;
    if (error)
        return error;
    write_doubt(c, true);
    error = mdb_env_sync(env, 1);
    c->is_doubted = error != 0;
    if (error) {
        CRASH_POINT("after_failed_sync");
        (void)unsynced_write_again(env, c->held, c->last_page);
    } else {
        write_doubt(c, false);
    }
    return error;
}

/* ---- writing ---- */

static int put_slot(int fd, unsigned which, const uint8_t *slot)
{
    ssize_t len = (ssize_t)(AT_PAGES + pages_bytes(slot));
    bool is_put = pwrite(fd, slot, (size_t)len, (off_t)which * SLOT_BYTES) == len;
    return is_put && fdatasync(fd) == 0 ? 0 : errno ? errno : EIO;
}

static int write_slot(struct checkpoint *c, MDB_env *env, uint64_t txnid)
{
    mdb_filehandle_t data;
    MDB_stat stat;
    uint8_t *slot = calloc(1, SLOT_BYTES);
    ENSURE(slot);
    mdb_env_get_fd(env, &data);
    mdb_env_stat(env, &stat);
    ENSURE(stat.ms_psize <= PAGE_BYTES_MAX);
    memcpy(slot + AT_MAGIC, magic, sizeof magic);
    big_endian_put(slot + AT_TXNID, txnid, 8);
    big_endian_put(slot + AT_PAGE_BYTES, stat.ms_psize, 4);
    size_t pages = pages_bytes(slot);
    int error = read_boot_id((char *)slot + AT_BOOT) ? 0 : EIO;
    if (!error && pread(data, slot + AT_PAGES, pages, 0) != (ssize_t)pages)
        error = errno ? errno : EIO;
    big_endian_put(slot + AT_CHECKSUM, checksum(slot), 8);
    if (!error)
        error = put_slot(c->fd, c->slot, slot);
    free(slot);
    return error;
}

enum status checkpoint_take(struct checkpoint *c, MDB_env *env, struct failure *failure)
{
    MDB_txn *txn;
    MDB_envinfo info;
    mdb_env_info(env, &info);
    if (c->held && info.me_last_txnid == c->txnid)
        return STATUS_OK;
    int error = sync_data(c, env);
    CRASH_POINT("in_checkpoint");
    if (!error)
        error = view_begin(env, &txn);
    if (error)
        return env_error(failure, error, "syncing the spool");
    error = write_slot(c, env, info.me_last_txnid);
    if (error) {
        view_end(txn);
        return fail(failure, error, "writing the spool's checkpoint");
    }
    if (c->held)
        view_end(c->held);
    c->held = txn;
    c->txnid = info.me_last_txnid;
    c->last_page = info.me_last_pgno;
    c->slot ^= 1;
    return STATUS_OK;
}

/* Makes a slot that of no state. */
static int clear_slot(int fd, unsigned which)
{
    static const char none[sizeof magic] = {0};
    ssize_t len = pwrite(fd, none, sizeof none, (off_t)which * SLOT_BYTES + AT_MAGIC);
    return len == sizeof none && fdatasync(fd) == 0 ? 0 : errno;
}

/* Both slots have their blocks then, whatever becomes of the disk. Where a file system cannot
 * promise that, writing a slot tells. */
static int claim(int fd)
{
    int error = fallocate(fd, 0, 0, AT_DOUBT + 1) == 0 ? 0 : errno;
    return error == ENOSPC || error == EDQUOT ? error : 0;
}

/* The older one first: its pages may have been used again. */
static int clear_slots(const struct checkpoint *c)
{
    int error = clear_slot(c->fd, c->slot);
    return error ? error : clear_slot(c->fd, c->slot ^ 1);
}

/* The first one does not go in the place of one that still counts. That is written again before: it
 * may be there for who reads it through the kernel, and not on the disk, if its sync has failed. */
static int spare_newest(struct checkpoint *c, MDB_env *env)
{
    unsigned newest;
    int error = 0;
    mdb_filehandle_t data;
    mdb_env_get_fd(env, &data);
    uint8_t *slot = read_newest(c->fd, &newest);
    c->slot = slot ? newest ^ 1 : 0;
    if (slot)
        error = is_of(slot, data) ? put_slot(c->fd, newest, slot) : clear_slots(c);
    free(slot);
    return error;
}

enum status checkpoint_begin(struct checkpoint *c, const char *path, MDB_env *env,
                             struct failure *failure)
{
    char name[4096], boot[BOOT_BYTES];
    if (!read_boot_id(boot))
        return no_boot_id(failure, "spool.sync = interval needs that");
    name_file(name, path, "checkpoint");
    c->fd = open(name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (c->fd < 0)
        return fail(failure, errno, name);
    int error = claim(c->fd);
    c->is_doubted = read_doubt(c->fd);
    if (!error)
        error = spare_newest(c, env);
    enum status status = error ? fail(failure, error, name) : checkpoint_take(c, env, failure);
    if (status != STATUS_OK)
        return status;
    /* An old one may have a higher number: of another boot, or of a spool that was replaced. */
    error = clear_slot(c->fd, c->slot);
    return error ? fail(failure, error, name) : home_sync(path, failure);
}

enum status checkpoint_end(struct checkpoint *c, MDB_env *env, struct failure *failure)
{
    int error = sync_data(c, env);
    if (!error && c->held)
        error = clear_slots(c);
    if (c->held)
        view_end(c->held);
    close(c->fd);
    *c = (struct checkpoint){.fd = -1};
    return error ? env_error(failure, error, "letting go of the spool's checkpoint") : STATUS_OK;
}

enum status checkpoint_renew(struct checkpoint *c, const char *path, MDB_env *env,
                             struct failure *failure)
{
    char name[4096];
    name_file(name, path, "checkpoint");
    (void)checkpoint_end(c, env, NULL); /* what fails here fails again in the new one */
    if (unlink(name) != 0 && errno != ENOENT)
        return fail(failure, errno, name);
    return checkpoint_begin(c, path, env, failure);
}

enum status checkpoint_remove(const char *path, MDB_env *env, struct failure *failure)
{
    char name[4096];
    struct checkpoint c = {0};
    name_file(name, path, "checkpoint");
    c.fd = open(name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (c.fd < 0 && errno != ENOENT)
        return fail(failure, errno, name);
    bool is_there = c.fd >= 0;
    c.is_doubted = is_there && read_doubt(c.fd);
    int error = is_there ? sync_data(&c, env) : mdb_env_sync(env, 1);
    if (is_there)
        close(c.fd);
    if (error || !is_there)
        return env_error(failure, error, "syncing the spool");
    return unlink(name) == 0 ? home_sync(path, failure) : fail(failure, errno, name);
}
