#include "spool/guard.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/assert.h"

static _Thread_local sigjmp_buf *way_out; /* NULL: nothing is guarded */
static _Thread_local bool was_unreadable;
static struct sigaction usual_segv, usual_bus;

static void on_assertion(MDB_env *env, const char *text)
{
    (void)env, (void)text;
    if (way_out)
        siglongjmp(*way_out, 1);
}

/* Not ours: the faulting instruction runs again, and the signal goes where it went before. */
static void on_signal(int number)
{
    was_unreadable = number == SIGBUS;
    if (way_out)
        siglongjmp(*way_out, 1);
    ENSURE(sigaction(number, number == SIGBUS ? &usual_bus : &usual_segv, NULL) == 0);
}

static void take_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER};
    ENSURE(sigaction(SIGSEGV, &action, &usual_segv) == 0);
    ENSURE(sigaction(SIGBUS, &action, &usual_bus) == 0);
}

void guard_init(MDB_env *env)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    ENSURE(pthread_once(&once, take_signals) == 0);
    ENSURE(mdb_env_set_assert(env, on_assertion) == 0);
}

/* As LMDB's own. A page that seems to have keys of a fixed length has a length of 0 for them here,
 * where there are none such; if it also seems to have billions of keys, LMDB's search among them
 * goes round in a circle. */
static int compare(const MDB_val *a, const MDB_val *b)
{
    if (b->mv_size == 0 && way_out)
        siglongjmp(*way_out, 1);
    size_t len = a->mv_size < b->mv_size ? a->mv_size : b->mv_size;
    int order = memcmp(a->mv_data, b->mv_data, len);
    return order != 0 ? order : (a->mv_size > b->mv_size) - (a->mv_size < b->mv_size);
}

int guard_open(MDB_txn *txn, const char *name, unsigned flags, MDB_dbi *dbi)
{
    int error = mdb_dbi_open(txn, name, flags, dbi);
    return error ? error : mdb_set_compare(txn, *dbi, compare);
}

bool guard_is_damage(int error)
{
    return error == MDB_CORRUPTED || error == MDB_PAGE_NOTFOUND || error == MDB_INVALID ||
           error == MDB_BAD_TXN || error == MDB_CURSOR_FULL; /* a branch leads back to itself */
}

bool guard_was_unreadable(void)
{
    return was_unreadable;
}

int guard_run(int (*run)(void *arg), void *arg)
{
    sigjmp_buf here, *volatile outer = way_out;
    if (sigsetjmp(here, 0) != 0) {
        way_out = outer;
        return MDB_CORRUPTED;
    }
    way_out = &here;
    int result = run(arg);
    way_out = outer;
    return result;
}
