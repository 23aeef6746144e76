#include "spool/unsynced.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"
#include "base/service.h"
#include "spool/free_list.h"
#include "spool/page_set.h"
#include "spool/view.h"

/* LMDB writes only to pages that are free in every state that is still read. So a page was written
 * since a state that is held if it was free in that state, or behind its end, and is not free now.
 */

enum {
    RUN_BYTES = 256 * 1024,
    META_PAGES = 2,
    TOLD_BYTES = 64 * 1024 * 1024,
    TOLD_MAX_MS = 120000, /* longer than so much takes on a disk that works */
};

static bool remove_free(void *arg, size_t freed_by, const size_t *pages, size_t count)
{
    (void)freed_by;
    for (size_t i = 0; i < count; i++)
        page_set_remove(arg, pages[i]);
    return true;
}

static int find(struct page_set *set, MDB_txn *synced, uint64_t synced_last_page, MDB_txn *now)
{
    for (uint64_t page = synced ? synced_last_page + 1 : 0; page < set->pages; page++)
        page_set_add(set, page);
    int error = synced ? free_list_collect(synced, set) : 0;
    if (!error)
        error = free_list_walk(now, remove_free, set);
    for (uint64_t page = 0; page < META_PAGES; page++)
        page_set_add(set, page);
    return error;
}

static int write_run(int fd, uint8_t *buffer, off_t at, size_t len)
{
    errno = EIO; /* of a file that is too short */
    if (pread(fd, buffer, len, at) != (ssize_t)len || pwrite(fd, buffer, len, at) != (ssize_t)len)
        return errno;
    return 0;
}

/* A start may have all of the spool to write: the service manager is to wait for it. */
static void say_all(uint64_t bytes)
{
    LOG(LOG_WARN, "sync_doubted", LOG_N("bytes", bytes),
        LOG_T("reason",
              "the last sync of the amqpbuf before may have failed: all that is in use is "
              "written again before ports open"));
}

static int write_all(MDB_env *env, const struct page_set *set)
{
    uint64_t written = 0;
    MDB_stat stat;
    mdb_filehandle_t fd;
    mdb_env_stat(env, &stat);
    mdb_env_get_fd(env, &fd);
    uint8_t *buffer = malloc(RUN_BYTES);
    ENSURE(buffer);
    int error = 0;
    for (uint64_t page = 0; page < set->pages && !error;) {
        uint64_t run = page_set_run(set, page, RUN_BYTES / stat.ms_psize);
        if (run > 0)
            error = write_run(fd, buffer, (off_t)(page * stat.ms_psize), run * stat.ms_psize);
        if (written / TOLD_BYTES != (written + run * stat.ms_psize) / TOLD_BYTES)
            service_starting(TOLD_MAX_MS);
        written += run * stat.ms_psize;
        page += run > 0 ? run : 1;
    }
    free(buffer);
    return error;
}

int unsynced_write_again(MDB_env *env, MDB_txn *synced, uint64_t synced_last_page)
{
    MDB_txn *now;
    MDB_envinfo info;
    MDB_stat stat;
    mdb_env_info(env, &info);
    struct page_set set = {0};
    int error = view_begin(env, &now);
    if (error)
        return error;
    page_set_reach(&set, info.me_last_pgno + 1);
    error = find(&set, synced, synced_last_page, now);
    view_end(now);
    if (!error && !synced) {
        service_starting(TOLD_MAX_MS);
        mdb_env_stat(env, &stat);
        say_all(set.count * stat.ms_psize);
    }
    if (!error)
        error = write_all(env, &set);
    page_set_free(&set);
    return error;
}
