#include "leftovers.h"

#include <dirent.h>
#include <dlfcn.h>
#include <string.h>

#include <lmdb.h>

#include "base/assert.h"
#include "base/slab.h"
#include "history.h"
#include "pool/pool.h"
#include "pool/queue.h"
#include "proxy/proxy.h"
#include "spooler/spooler.h"

static const char *of_queue(const struct queue *queue)
{
    if (queue->backlog.waiting > 0)
        return "messages wait in the spool";
    if (queue->backlog.drain && !queue_stores_first(queue))
        return "a drain has nothing to do, and does not end";
    if (queue->retained > 0 || queue->reserved > 0 || queue->appending > 0 || queue->committing > 0)
        return "places of a queue are held by nobody";
    return NULL;
}

static const char *of_pool(const struct pool *pool)
{
    if (pool->client_count > 0)
        return "a pool counts clients that have gone";
    if (!list_empty(&pool->members) || !list_empty(&pool->waiting) || !list_empty(&pool->held))
        return "a pool holds clients that have gone";
    return NULL;
}

static const char *of_upstream(const struct upstream *u)
{
    if (u->under_way.window.under_way > 0 || u->under_way.window.shares.used > 0 ||
        u->under_way.bytes > 0 || u->under_way.senders > 0)
        return "places of a window are held by nobody";
    if (u->use == UPSTREAM_FOR_DRAIN && u->links.count == 0)
        return "a drain's connection is left behind its end";
    return NULL;
}

/* What all streams read into and write from. */
static size_t shared_bytes(const struct net *net)
{
    return (net->read_slab ? net->read_slab->capacity : 0) +
           (net->write_slab ? net->write_slab->capacity : 0);
}

static const char *of_memory(const struct proxy *proxy)
{
    if (proxy->rt.budget.kept > 0)
        return "memory is charged to nobody";
    if (proxy->rt.budget.is_short)
        return "memory is short, and nobody has any";
    if (slab_live_bytes() > shared_bytes(&proxy->rt.net))
        return "bytes of messages are held by nobody";
    if (proxy->rt.spooler && spooler_pending(proxy->rt.spooler) > 0)
        return "the spooler has something to do";
    return NULL;
}

const char *leftovers_in(const struct proxy *proxy)
{
    const char *what = NULL;
    unsigned numbers = 0, drains = 0;
    if (proxy->rt.counters.clients > 0 || !list_empty(&proxy->clients.all))
        return "a client is counted that has gone";
    for (const struct list *n = proxy->pools.queues.all.next;
         !what && n != &proxy->pools.queues.all; n = n->next) {
        const struct queue *queue = LIST_ENTRY(n, const struct queue, node);
        what = of_queue(queue);
        drains += queue->backlog.drain != NULL;
    }
    for (const struct list *n = proxy->pools.all.next; !what && n != &proxy->pools.all; n = n->next)
        what = of_pool(LIST_ENTRY(n, const struct pool, node));
    for (const struct list *n = proxy->upstreams.all.next; !what && n != &proxy->upstreams.all;
         n = n->next) {
        const struct upstream *u = LIST_ENTRY(n, const struct upstream, node);
        what = of_upstream(u);
        numbers += u->links.count - u->links.idle_count;
    }
    if (!what && numbers > drains)
        what = "a channel's number is held by nobody";
    return what ? what : of_memory(proxy);
}

unsigned leftovers_descriptors(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    ENSURE(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/* ---- readers of the spool ---- */

/* A line of LMDB's table; the first is a heading, or says that there is none. */
static int count_reader(const char *line, void *count)
{
    if (!strchr(line, '('))
        ++*(int *)count;
    return 0;
}

/* All have let go of their places before. */
void mdb_env_close(MDB_env *env)
{
    static void (*next)(MDB_env *);
    int lines = 0;
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "mdb_env_close");
    ENSURE(next);
    mdb_reader_list(env, count_reader, &lines);
    CHECK(lines <= 1, "%d readers of the spool have not let go of their places", lines - 1);
    next(env);
}
