#include "spool/view.h"

#include <errno.h>
#include <stdlib.h>

#include "base/assert.h"
#include "spool/lock.h"

struct views {
    MDB_txn *idle[VIEWS_OF_STORE];
    unsigned count, kept;
};

static int begin_new(MDB_env *env, MDB_txn **txn)
{
    int error = lock_begin(env, MDB_RDONLY, txn);
    if (error == MDB_READERS_FULL && lock_evict_dead(env) > 0)
        error = lock_begin(env, MDB_RDONLY, txn);
    /* LMDB locks one byte of lock.mdb for each process that reads, at the place of its number. */
    return error == EAGAIN || error == EACCES ? EBUSY : error;
}

void view_init(MDB_env *env, unsigned kept)
{
    struct views *views = calloc(1, sizeof *views);
    ENSURE(views && kept <= VIEWS_OF_STORE);
    views->kept = kept;
    ENSURE(mdb_env_set_userctx(env, views) == 0);
}

int view_take_places(MDB_env *env)
{
    struct views *views = mdb_env_get_userctx(env);
    while (views->count < views->kept) {
        MDB_txn *txn;
        int error = begin_new(env, &txn);
        if (error)
            return error;
        mdb_txn_reset(txn);
        views->idle[views->count++] = txn;
    }
    return 0;
}

int view_begin(MDB_env *env, MDB_txn **txn)
{
    struct views *views = mdb_env_get_userctx(env);
    while (views && views->count > 0) {
        int error = mdb_txn_renew(views->idle[--views->count]);
        if (error == MDB_BAD_RSLOT)
            continue; /* its place was taken away: ending it would end another's */
        if (error)
            views->count++;
        else
            *txn = views->idle[views->count];
        return error;
    }
    return begin_new(env, txn);
}

void view_end(MDB_txn *txn)
{
    struct views *views = mdb_env_get_userctx(mdb_txn_env(txn));
    if (views && views->count < views->kept) {
        mdb_txn_reset(txn);
        views->idle[views->count++] = txn;
    } else {
        mdb_txn_abort(txn);
    }
}

int view_commit(MDB_txn *txn)
{
    MDB_env *env = mdb_txn_env(txn);
    int error = mdb_txn_commit(txn);
    if (!error && begin_new(env, &txn) == 0) /* its place went with it */
        view_end(txn);
    return error;
}

void view_free(MDB_env *env)
{
    struct views *views = mdb_env_get_userctx(env);
    for (unsigned i = 0; views && i < views->count; i++)
        mdb_txn_abort(views->idle[i]);
    free(views);
    ENSURE(mdb_env_set_userctx(env, NULL) == 0);
}
