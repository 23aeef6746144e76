#include "spool/lock.h"

#include <stddef.h>

#include "spool/others.h"

int lock_begin(MDB_env *env, unsigned flags, MDB_txn **txn)
{
    others_await();
    int error = mdb_txn_begin(env, NULL, flags, txn);
    others_go_on();
    return error;
}

int lock_evict_dead(MDB_env *env)
{
    int dead = 0;
    others_await();
    (void)mdb_reader_check(env, &dead);
    others_go_on();
    return dead;
}
