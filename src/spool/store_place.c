#include "base/assert.h"
#include "base/log.h"
#include "spool/env.h"
#include "spool/store.h"
#include "spool/store_internal.h"

/* Files of the spool that somebody moves or removes beside the process that has them open. */

static void say_misplaced(enum place_change change)
{
    static const struct {
        const char *file, *reason;
    } texts[] = {
        [PLACE_CHECKPOINT_GONE] = {"checkpoint",
                                   "it was removed or replaced beside the running amqpbuf: a power "
                                   "cut could have taken the spool"},
        [PLACE_LOCK_GONE] = {"lock.mdb",
                             "it was removed or replaced beside the running amqpbuf: what other "
                             "processes began to read since may be damaged (a backup: make it "
                             "again)"},
        [PLACE_DATA_GONE] = {"data.mdb",
                             "it was moved, removed or replaced beside the running amqpbuf: "
                             "nothing is stored until it is back; what waits is delivered as long "
                             "as amqpbuf runs"},
    };
    if (change == PLACE_AS_IT_WAS)
        LOG(LOG_WARN, "spool_in_place");
    else
        LOG(LOG_ERROR, "spool_misplaced", LOG_T("file", texts[change].file),
            LOG_T("reason", texts[change].reason));
}

static void note_change(struct store *s, enum place_change change)
{
    if (change != s->misplaced)
        say_misplaced(change);
    s->misplaced = change;
}

/* Not by opening the store again: the one that stands there now may be of another boot. */
static enum status renew_checkpoint(struct store *s)
{
    if (checkpoint_renew(&s->checkpoint, s->path, s->env, NULL) != STATUS_OK)
        return STATUS_FATAL;
    place_note_checkpoint(&s->place, s->path);
    return STATUS_OK;
}

enum status store_look_at_place(struct store *s)
{
    ENSURE(!s->txn);
    enum place_change change = place_look(&s->place, s->path);
    note_change(s, change);
    if (change == PLACE_CHECKPOINT_GONE) {
        if (renew_checkpoint(s) != STATUS_OK)
            return STATUS_FATAL;
        change = place_look(&s->place, s->path);
        note_change(s, change);
    }
    /* Who reads by the old one is seen as long as it is used. */
    return change == PLACE_LOCK_GONE && env_is_alone(s->env) ? STATUS_FATAL : STATUS_OK;
}

const char *store_misplaced(const struct store *s)
{
    return s->misplaced == PLACE_DATA_GONE ? "the spool's data.mdb was moved, removed or replaced"
                                           : NULL;
}
