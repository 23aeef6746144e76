#include "proxy/stall.h"

#include <stdbool.h>
#include <unistd.h>

#include "base/log.h"
#include "proxy/proxy_struct.h"
#include "spool/others.h"
#include "spooler/spooler.h"

enum {
    STALLED_AGAIN_MS = 60000,
    HANGS_MS = 500, /* while stopping: a commit of a disk that works takes less */
};

static void say_stalled(struct proxy *proxy, uint64_t now, uint64_t busy_ms)
{
    if (busy_ms < SPOOLER_STALLED_MS && proxy->stall_told_ms) {
        LOG(LOG_WARN, "spool_goes_on");
        proxy->stall_told_ms = 0;
    }
    if (busy_ms < SPOOLER_STALLED_MS ||
        (proxy->stall_told_ms && now - proxy->stall_told_ms < STALLED_AGAIN_MS))
        return;
    char others[OTHERS_TEXT_MAX];
    bool awaits_lock = others_are_awaited();
    bool is_known = awaits_lock && others_name(proxy->rt.config->spool.path, 0, others);
    LOG(LOG_ERROR, "spool_stalled", LOG_N("seconds", busy_ms / 1000),
        LOG_N("jobs", spooler_pending(proxy->rt.spooler)), LOG_T("pids", is_known ? others : NULL),
        LOG_T("reason",
              awaits_lock
                  ? "another process holds LMDB's lock on the spool: nothing is stored, and "
                    "nobody gets an answer, until it goes on or ends"
                  : "the disk does not answer: nothing is stored, and nobody gets an "
                    "answer"));
    proxy->stall_told_ms = now;
}

/* What the disk has not taken was answered to nobody. */
static void give_up(const struct proxy *proxy)
{
    LOG(LOG_ERROR, "stop_unfinished", LOG_N("jobs", spooler_pending(proxy->rt.spooler)),
        LOG_T("reason", others_are_awaited() ? "another process holds LMDB's lock on the spool"
                                             : "the spool's disk does not answer"));
    _exit(1);
}

void stall_look(struct proxy *proxy, uint64_t now)
{
    if (!proxy->rt.spooler)
        return;
    uint64_t busy_ms = spooler_busy_ms(proxy->rt.spooler);
    say_stalled(proxy, now, busy_ms);
    if (proxy->stage != PROXY_RUNNING && now >= proxy->give_up_ms && busy_ms >= HANGS_MS)
        give_up(proxy);
}
