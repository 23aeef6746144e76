#include "spool/unsynced.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/assert.h"
#include "spool/free_list.h"
#include "spool/page_set.h"
#include "spool/view.h"

/* LMDB writes only to pages that are free in every state that is still read. So a page was written
 * since a state that is held if it was free in that state, or behind its end, and is not free now.
 */

enum { RUN_BYTES = 256 * 1024, META_PAGES = 2 };

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

static int write_all(MDB_env *env, const struct page_set *set)
{
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
        page += run > 0 ? run : 1;
    }
    free(buffer);
    return error;
}

int unsynced_write_again(MDB_env *env, MDB_txn *synced, uint64_t synced_last_page)
{
    MDB_txn *now;
    MDB_envinfo info;
    mdb_env_info(env, &info);
    struct page_set set = {0};
    int error = view_begin(env, &now);
    if (error)
        return error;
    page_set_reach(&set, info.me_last_pgno + 1);
    error = find(&set, synced, synced_last_page, now);
    view_end(now);
    if (!error)
        error = write_all(env, &set);
    page_set_free(&set);
    return error;
}
