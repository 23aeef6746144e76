#include "spool/env.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "amqpbuf/spool_format.h"
#include "spool/free_list.h"
#include "spool/guard.h"
#include "spool/lock.h"
#include "spool/others.h"
#include "spool/view.h"

enum {
    TABLE_BYTES_MAX = (ENV_READERS_MAX + 4) * 64, /* a reader's place is a cache line */
    VERSION_BYTES = 4,
};

enum status env_error(struct failure *failure, int error, const char *doing)
{
    enum status status;
    switch (error) {
    case 0:
        return STATUS_OK;
    case MDB_NOTFOUND:
        status = STATUS_NOT_FOUND;
        break;
    case MDB_MAP_FULL: /* the reserve should have prevented it: this transaction is lost */
    case MDB_TXN_FULL:
    case ENOSPC:
    case EDQUOT:
        status = STATUS_NO_SPACE;
        break;
    case ENOMEM:
        status = STATUS_NO_MEMORY;
        break;
    case EBUSY:
        return failure_set(
            failure, STATUS_IN_USE,
            "%s: a process of another container has the same number (pid %d) as this "
            "one and reads the spool, too",
            doing, getpid());
    case EACCES:
    case EPERM:
    case EROFS:
        status = STATUS_PERMISSION;
        break;
    case ENOENT:
        status = STATUS_NO_SPOOL;
        break;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
        status = STATUS_DAMAGED;
        break;
    case MDB_VERSION_MISMATCH:
        status = STATUS_VERSION;
        break;
    case MDB_PANIC:
        status = STATUS_FATAL;
        break;
    default:
        status = STATUS_IO;
    }
    if (error == MDB_CORRUPTED && guard_was_unreadable())
        return failure_set(failure, status,
                           "%s: data.mdb is shorter than its own tables say, or the disk cannot "
                           "read it",
                           doing);
    return failure_set(failure, status, "%s: %s", doing, mdb_strerror(error));
}

static enum status no_place(const char *path, struct failure *failure)
{
    char others[OTHERS_TEXT_MAX];
    bool is_known = others_name(path, 0, others);
    return failure_set(failure, STATUS_IN_USE,
                       "%s: as many processes read the spool as LMDB has places for, and none of "
                       "them is dead%s%s: end some of them",
                       path, is_known ? ": pid " : "", is_known ? others : "");
}

/* LMDB divides by the size of a page as it stands in the first of its two heads, and looks for the
 * second one behind so many bytes. */
static bool page_size_is_sound(int fd)
{
    enum { AT_PAGE_BYTES = 40, LEAST = 512, MOST = 64 * 1024 };
    uint32_t bytes = 0;
    bool is_there = pread(fd, &bytes, sizeof bytes, AT_PAGE_BYTES) == sizeof bytes;
    return !is_there || (bytes >= LEAST && bytes <= MOST && (bytes & (bytes - 1)) == 0);
}

/* What LMDB would take without a look. One that is not there it says itself. */
static enum status look_at_file(const char *path, unsigned flags, struct failure *failure)
{
    char name[4096];
    struct stat found;
    enum status status = STATUS_OK;
    snprintf(name, sizeof name, "%s/data.mdb", path);
    int fd = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);    /* a pipe would wait for a writer */
    if (fd < 0 && errno == ENOENT && lstat(name, &found) == 0) /* LMDB would make a new one there */
        status = failure_set(failure, STATUS_NO_SPOOL, "%s is a link to what is not there", name);
    else if (fd < 0 || fstat(fd, &found) < 0)
        status = STATUS_OK;
    else if (!S_ISREG(found.st_mode))
        status = failure_set(failure, STATUS_DAMAGED, "%s is no regular file", name);
    else if (found.st_size == 0 && flags & MDB_RDONLY) /* nothing was ever committed */
        status = failure_set(failure, STATUS_NO_SPOOL, "%s is empty", name);
    else if (!page_size_is_sound(fd))
        status = failure_set(failure, STATUS_DAMAGED, "%s: its head is damaged", name);
    if (fd >= 0)
        close(fd);
    return status;
}

/* LMDB maps its table of readers and writes to it: a page that the disk has no block for ends the
 * process. One that is there already has been written to where that matters. */
static enum status claim_table(const char *path, struct failure *failure)
{
    char name[4096];
    struct stat found = {0};
    snprintf(name, sizeof name, "%s/lock.mdb", path);
    int fd = open(name, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd < 0)
        return STATUS_OK; /* LMDB says why */
    int error = fstat(fd, &found) == 0 && S_ISREG(found.st_mode) &&
                        fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, TABLE_BYTES_MAX) != 0
                    ? errno
                    : 0;
    close(fd);
    if ((error != ENOSPC && error != EDQUOT) || found.st_size > 0)
        return STATUS_OK;
    unlink(name); /* others could not use it, either */
    return failure_set(failure, STATUS_NO_SPACE, "%s: %s", name, strerror(error));
}

enum status env_open(MDB_env **env, const char *path, uint64_t map_size, unsigned flags,
                     struct failure *failure)
{
    enum status status = look_at_file(path, flags, failure);
    if (status == STATUS_OK && !(flags & MDB_RDONLY))
        status = claim_table(path, failure);
    if (status != STATUS_OK)
        return status;
    int error = mdb_env_create(env);
    if (error)
        return env_error(failure, error, "creating the environment");
    guard_init(*env);
    view_init(*env, flags & MDB_RDONLY ? VIEWS_OF_READER : VIEWS_OF_STORE);
    error = mdb_env_set_maxdbs(*env, ENV_DATABASES_MAX);
    if (!error)
        error = mdb_env_set_maxreaders(*env, ENV_READERS_MAX);
    if (!error && map_size)
        error = mdb_env_set_mapsize(*env, map_size);
    if (!error)
        error = mdb_env_open(*env, path, flags | MDB_NOTLS, 0600);
    if (!error && !(flags & MDB_RDONLY))
        error = view_take_places(*env);
    if (!error)
        return STATUS_OK;
    status = error == MDB_READERS_FULL ? no_place(path, failure) : env_error(failure, error, path);
    env_close(*env);
    *env = NULL;
    return status;
}

void env_close(MDB_env *env)
{
    view_free(env);
    mdb_env_close(env);
}

struct oldest_reader {
    size_t txnid;       /* of any reader, or the last commit's */
    size_t other_txnid; /* the same of other processes alone */
    int other_pid;
    bool is_alone; /* no other process has a place in the table */
};

/* One line of LMDB's table of readers: "pid thread txnid", with "-" where it reads nothing now. */
static int on_reader(const char *line, void *arg)
{
    struct oldest_reader *oldest = arg;
    size_t txnid;
    int pid, fields = sscanf(line, "%d %*x %zu", &pid, &txnid);
    if (fields >= 1 && pid != getpid())
        oldest->is_alone = false;
    if (fields != 2)
        return 0;
    if (txnid < oldest->txnid)
        oldest->txnid = txnid;
    if (txnid < oldest->other_txnid && pid != getpid()) {
        oldest->other_txnid = txnid;
        oldest->other_pid = pid;
    }
    return 0;
}

static struct oldest_reader look_at_table(MDB_env *env, size_t last_txnid)
{
    struct oldest_reader oldest = {
        .txnid = last_txnid, .other_txnid = last_txnid, .is_alone = true};
    mdb_reader_list(env, on_reader, &oldest);
    return oldest;
}

/* A reader that died keeps its place in the table until somebody looks whether it is alive. */
static struct oldest_reader find_oldest_reader(MDB_env *env, size_t last_txnid)
{
    struct oldest_reader oldest = look_at_table(env, last_txnid);
    bool has_changed = !oldest.is_alone && lock_evict_dead(env) > 0;
    return has_changed ? look_at_table(env, last_txnid) : oldest;
}

bool env_is_alone(MDB_env *env)
{
    if (look_at_table(env, 0).is_alone)
        return true;
    lock_evict_dead(env);
    return look_at_table(env, 0).is_alone;
}

struct free_count {
    size_t oldest;
    uint64_t pages, held;
};

static bool count_free(void *arg, size_t freed_by, const size_t *pages, size_t count)
{
    (void)pages;
    struct free_count *f = arg;
    f->pages += count;
    if (freed_by >= f->oldest)
        f->held += count;
    return true;
}

enum status env_count_pages(MDB_env *env, MDB_txn *txn, struct env_pages *pages,
                            struct failure *failure)
{
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(env, &info);
    mdb_env_stat(env, &stat);
    struct oldest_reader oldest = find_oldest_reader(env, mdb_txn_id(txn));
    *pages = (struct env_pages){
        .bytes = stat.ms_psize,
        .oldest_txnid = oldest.txnid,
        .is_reader_behind = oldest.txnid < mdb_txn_id(txn),
        .holder_pid = oldest.other_pid,
    };
    struct free_count f = {.oldest = oldest.txnid};
    int error = free_list_walk(txn, count_free, &f);
    pages->held = f.held;
    uint64_t all = info.me_last_pgno + 1;
    pages->used = all > f.pages ? all - f.pages : 0;
    return env_error(failure, error, "counting free pages");
}

int env_write_version(MDB_txn *txn, MDB_dbi meta)
{
    uint8_t value[VERSION_BYTES] = {0, 0, 0, SPOOL_FORMAT_VERSION};
    MDB_val key = {sizeof "version" - 1, "version"}, data = {sizeof value, value};
    return mdb_put(txn, meta, &key, &data, 0);
}

/* A database whose name is damaged is not found, and must not be made anew. */
static bool has_databases(MDB_txn *txn)
{
    enum { MAIN_DBI = 1 };
    MDB_stat stat;
    return mdb_stat(txn, MAIN_DBI, &stat) == 0 && stat.ms_entries > 0;
}

enum status env_read_version(MDB_txn *txn, MDB_dbi *meta, uint32_t *version,
                             struct failure *failure)
{
    MDB_val key = {sizeof "version" - 1, "version"}, data;
    int error = guard_open(txn, "meta", 0, meta);
    if (!error)
        error = mdb_get(txn, *meta, &key, &data);
    if (error == MDB_NOTFOUND && has_databases(txn))
        return failure_set(failure, STATUS_DAMAGED,
                           "there is no format version: what tells LMDB where it is is damaged, or "
                           "this is the environment of another program");
    if (error)
        return env_error(failure, error, "reading the format version");
    static const uint8_t zeros[VERSION_BYTES - 1]; /* no version will be that high */
    if (data.mv_size != VERSION_BYTES || memcmp(data.mv_data, zeros, sizeof zeros) != 0)
        return failure_set(failure, STATUS_DAMAGED, "the format version is unreadable");
    *version = ((const uint8_t *)data.mv_data)[VERSION_BYTES - 1];
    return STATUS_OK;
}
