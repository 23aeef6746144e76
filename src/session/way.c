#include "session/way.h"

/* Places taken by what is on its way to RabbitMQ become free by themselves; others do not. */
static enum way without_place(const struct facts *f)
{
    bool frees_itself = f->pool == POOL_LIVE && f->queue_retains;
    return frees_itself || f->holds ? WAY_HELD : WAY_BUFFER_FULL;
}

/* Nothing is buffered: it can be sent, or waits until it can. If that is because the disk takes no
 * login now, what is sent goes to the spool when it does: each has a place. */
static enum way without_spool(const struct facts *f, enum way sent)
{
    switch (f->pool) {
    case POOL_OFFLINE:
        return WAY_LOST;
    case POOL_DRAINING:
        return WAY_HELD;
    case POOL_LIVE:
        break;
    }
    return !f->has_place && f->queue_retains ? WAY_HELD : sent;
}

enum way way_of_begin(const struct facts *f)
{
    if (f->memory_is_short)
        return WAY_HELD;
    if (f->is_leaving) /* what finds no room is dropped: it knows by then */
        return f->spools && f->has_place ? WAY_ON : WAY_NACKED;
    if (!f->spools)
        return without_spool(f, WAY_ON);
    if (!f->has_place)
        return without_place(f);
    if (f->pool != POOL_LIVE && !f->disk_has_room)
        return WAY_DISK_FULL;
    return WAY_ON;
}

/* Behind what is still on its way to RabbitMQ (P2). */
static enum way of_leaving(const struct facts *f)
{
    if (f->retains)
        return WAY_HELD;
    return f->spools && f->has_place && f->disk_has_room ? WAY_SPOOL : WAY_NACKED;
}

/* Older ones of its destination are in the spool, also when nothing more is stored there (P2). */
static enum way behind_doubts(const struct facts *f, enum way stored)
{
    return f->spools ? stored : without_spool(f, WAY_HELD);
}

enum way way_of_publish(const struct facts *f)
{
    if (f->is_leaving)
        return of_leaving(f);
    if (f->spools && !f->has_place)
        return without_place(f);
    if (f->is_direct)
        return f->is_blocked ? WAY_HELD : WAY_LIVE;
    if (f->is_transactional)
        return f->is_doubted ? behind_doubts(f, WAY_TRANSACTION) : WAY_TRANSACTION;
    if (f->is_doubted)
        return behind_doubts(f, WAY_SPOOL);
    if (f->pool == POOL_LIVE && !f->is_blocked)
        return f->spools ? WAY_LIVE : without_spool(f, WAY_LIVE);
    if (!f->spools)
        return without_spool(f, WAY_HELD);
    if (f->pool == POOL_DRAINING && f->holds)
        return WAY_HELD;                              /* a moment later the pool is live */
    return f->channel_retains ? WAY_HELD : WAY_SPOOL; /* older ones are on their way still (P2) */
}
