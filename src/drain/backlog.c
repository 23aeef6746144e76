#include "drain/backlog.h"

#include "base/assert.h"
#include "base/handles.h"
#include "peer/runtime.h"

void backlog_init(struct backlog *b, struct runtime *rt, const struct backlog_events *events,
                  const char *user, const char *vhost)
{
    *b = (struct backlog){.rt = rt, .events = events, .user = user, .vhost = vhost};
    b->handle = handles_add(b);
    b->doubts.pass = 1;
    autotune_init(&b->tuned);
}

uint32_t backlog_window(const struct backlog *b)
{
    uint32_t window = b->rt->config->drain.window;
    return window > 0 ? window : autotune_window(&b->tuned);
}

uint32_t backlog_channels(const struct backlog *b)
{
    return b->left + b->probing + (b->drain ? 1 : 0);
}

void backlog_deinit(struct backlog *b)
{
    ENSURE(!b->drain);
    handles_remove(b->handle);
    doubts_clear(&b->doubts);
    asides_clear(&b->asides);
    declared_clear(&b->declared);
    names_clear(&b->names);
    remains_clear(&b->remains);
}

void backlog_note_remains(struct backlog *b, const uint64_t *seqs, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        b->damaged += remains_add(&b->remains, seqs[i]);
}

void backlog_was_dropped(struct backlog *b)
{
    b->id = 0;
    b->damaged = 0;
    remains_clear(&b->remains);
    asides_clear(&b->asides);
}

bool backlog_holds(const struct backlog *b, uint64_t destination)
{
    return doubts_hold(&b->doubts, destination) ||
           (b->only_asides && asides_find(&b->asides, destination));
}

void backlog_changed(struct backlog *b)
{
    b->events->on_changed(b);
}

void backlog_promise_ended(struct backlog *b, uint64_t name)
{
    if (names_end_promise(&b->names, name))
        b->events->on_promise_ended(b);
}
