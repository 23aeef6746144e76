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

/* Two slots, written in turn; docs/spool-format.md has the bytes. */

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

/* The newer of the two slots, in memory of the caller's; NULL if there is none. */
static uint8_t *read_newest(const char *path)
{
    char name[4096];
    name_file(name, path, "checkpoint");
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    uint8_t *newest = calloc(1, SLOT_BYTES), *other = calloc(1, SLOT_BYTES);
    ENSURE(newest && other);
    bool any = read_slot(fd, 0, newest);
    if (read_slot(fd, 1, other) &&
        (!any || big_endian_get(other + AT_TXNID, 8) > big_endian_get(newest + AT_TXNID, 8))) {
        uint8_t *swap = newest;
        newest = other;
        other = swap;
        any = true;
    }
    close(fd);
    free(other);
    if (any)
        return newest;
    free(newest);
    return NULL;
}

bool checkpoint_is_due(const char *path)
{
    uint8_t *slot = read_newest(path);
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
    char name[4096];
    name_file(name, path, "data.mdb");
    uint8_t *slot = access(name, F_OK) == 0 ? read_newest(path) : NULL;
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

/* ---- writing ---- */

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
    ssize_t len = (ssize_t)(AT_PAGES + pages);
    if (!error && (pwrite(c->fd, slot, (size_t)len, (off_t)c->slot * SLOT_BYTES) != len ||
                   fdatasync(c->fd) != 0))
        error = errno ? errno : EIO;
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
    int error = mdb_env_sync(env, 1);
    CRASH_POINT("in_checkpoint");
    if (!error)
        error = env_begin(env, MDB_RDONLY, &txn);
    if (error)
        return env_error(failure, error, "syncing the spool");
    error = write_slot(c, env, info.me_last_txnid);
    if (error) {
        mdb_txn_abort(txn);
        return fail(failure, error, "writing the spool's checkpoint");
    }
    if (c->held)
        mdb_txn_abort(c->held);
    c->held = txn;
    c->txnid = info.me_last_txnid;
    c->slot ^= 1;
    return STATUS_OK;
}

enum status checkpoint_begin(struct checkpoint *c, const char *path, MDB_env *env,
                             struct failure *failure)
{
    char name[4096], boot[BOOT_BYTES];
    if (!read_boot_id(boot))
        return no_boot_id(failure, "spool.sync = interval needs that");
    name_file(name, path, "checkpoint");
    int error = mdb_env_sync(env, 1); /* before the old one goes */
    if (error)
        return env_error(failure, error, "syncing the spool");
    c->fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (c->fd < 0)
        return fail(failure, errno, name);
    enum status status = checkpoint_take(c, env, failure);
    return status == STATUS_OK ? home_sync(path, failure) : status;
}

void checkpoint_end(struct checkpoint *c)
{
    if (c->held)
        mdb_txn_abort(c->held);
    if (c->fd >= 0)
        close(c->fd);
    *c = (struct checkpoint){.fd = -1};
}

enum status checkpoint_remove(const char *path, MDB_env *env, struct failure *failure)
{
    char name[4096];
    name_file(name, path, "checkpoint");
    if (access(name, F_OK) != 0)
        return STATUS_OK;
    int error = mdb_env_sync(env, 1);
    if (error)
        return env_error(failure, error, "syncing the spool");
    return unlink(name) == 0 ? home_sync(path, failure) : fail(failure, errno, name);
}
