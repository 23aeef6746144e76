#include "spool/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <lmdb.h>

#include "base/log.h"
#include "spool/others.h"

enum { TOLD_FIRST_MS = 10000, TOLD_AGAIN_MS = 60000 };

/* Its locks and its environment end with the process. */
static void take_locks(const char *path)
{
    MDB_env *env;
    MDB_txn *txn;
    int dead;
    if (mdb_env_create(&env) != 0 || mdb_env_open(env, path, MDB_NOTLS, 0600) != 0)
        return;
    mdb_reader_check(env, &dead);
    if (mdb_txn_begin(env, NULL, MDB_RDONLY, &txn) == 0)
        mdb_txn_abort(txn);
    if (mdb_txn_begin(env, NULL, 0, &txn) == 0)
        mdb_txn_abort(txn);
}

static void run_child(const char *path, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it has the parent's descriptors, and so its locks */
    if (getppid() == parent)
        take_locks(path);
    _exit(0);
}

static void say_waiting(const char *path, pid_t child, unsigned seconds)
{
    char others[OTHERS_TEXT_MAX];
    bool is_known = others_name(path, child, others);
    LOG(LOG_ERROR, "spool_stalled", LOG_N("seconds", seconds),
        LOG_T("pids", is_known ? others : NULL),
        LOG_T("reason", "the start waits: another process holds LMDB's lock on the spool, or the "
                        "disk does not answer"));
}

/* Until it has ended, or is killed: then its end of the pipe is closed. */
static void wait_for(pid_t child, int alive, const char *path)
{
    struct pollfd end = {.fd = alive};
    int limit_ms = TOLD_FIRST_MS;
    unsigned waited_ms = 0;
    for (int count; (count = poll(&end, 1, limit_ms)) <= 0;) {
        if (count < 0 && errno != EINTR)
            break;
        if (count < 0)
            continue;
        waited_ms += (unsigned)limit_ms;
        limit_ms = TOLD_AGAIN_MS;
        say_waiting(path, child, waited_ms / 1000);
    }
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
}

static bool exists(const char *path, const char *file)
{
    char name[4096];
    snprintf(name, sizeof name, "%s/%s", path, file);
    return access(name, F_OK) == 0;
}

void trial_run(const char *path)
{
    int alive[2];
    if (!exists(path, "lock.mdb") || !exists(path, "data.mdb") || pipe2(alive, O_CLOEXEC) != 0)
        return;
    pid_t parent = getpid(), child = fork();
    if (child == 0)
        run_child(path, parent);
    close(alive[1]);
    if (child > 0)
        wait_for(child, alive[0], path);
    close(alive[0]);
}
