#include "link.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

/* One direction: what was written at one end and not read at the other. */
struct pipe {
    uint8_t *bytes;
    size_t len, arrived; /* the first `arrived` of `len` may be read */
    uint64_t written, read;
    bool finished; /* nothing follows the last byte */
    bool finish_arrived;
    bool is_full; /* the writer was told so */
};

struct link;

struct end {
    struct link *link;
    const struct end_handler *handler;
    void *owner;
    struct pipe in;
    struct event arrival, room;
    bool reset, reset_comes; /* this side knows; it will */
    bool closed;
};

struct link {
    struct end ends[2];
    struct link_shape shape;
    struct prng prng;
};

static unsigned open_ends;

unsigned link_ends(void)
{
    return open_ends;
}

struct end *end_other(struct end *e)
{
    return e == &e->link->ends[0] ? &e->link->ends[1] : &e->link->ends[0];
}

void link_new(struct end **one, struct end **other, struct link_shape shape, struct prng seed)
{
    struct link *l = calloc(1, sizeof *l);
    ENSURE(l);
    *l = (struct link){.shape = shape, .prng = seed};
    for (unsigned i = 0; i < 2; i++) {
        l->ends[i].link = l;
        l->ends[i].in.bytes = malloc(shape.buffer_bytes);
        ENSURE(l->ends[i].in.bytes);
    }
    *one = &l->ends[0];
    *other = &l->ends[1];
    open_ends += 2;
}

void end_own(struct end *e, const struct end_handler *handler, void *owner)
{
    e->handler = handler;
    e->owner = owner;
}

static uint64_t delay(struct link *l)
{
    return 1 + prng_below(&l->prng, l->shape.delay_us);
}

static void arrive(void *arg);

static void expect_arrival(struct end *e)
{
    if (!e->closed && !agenda_has(&e->arrival))
        agenda_in(&e->arrival, delay(e->link), arrive, e);
}

/* A piece of what is on its way, or all; then its end. */
static void arrive(void *arg)
{
    struct end *e = arg;
    struct pipe *p = &e->in;
    if (p->arrived < p->len) {
        size_t left = p->len - p->arrived;
        bool all = prng_percent(&e->link->prng, 70);
        p->arrived += all ? left : 1 + prng_below(&e->link->prng, left);
    } else if (e->reset_comes) {
        e->reset = true;
    } else {
        p->finish_arrived = p->finished;
    }
    bool ends = e->reset_comes || p->finished;
    if (p->arrived < p->len || (ends && !e->reset && !p->finish_arrived))
        expect_arrival(e);
    if (e->handler)
        e->handler->on_readable(e->owner);
}

static void tell_room(void *arg)
{
    struct end *e = arg;
    if (e->handler && e->handler->on_writable)
        e->handler->on_writable(e->owner);
}

int64_t end_write(struct end *e, const void *bytes, size_t len)
{
    struct end *to = end_other(e);
    struct pipe *p = &to->in;
    ENSURE(!e->closed && !p->finished);
    if (e->reset)
        return END_IS_RESET;
    if (to->closed) { /* the kernel of the other side answers with a reset */
        e->reset_comes = true;
        expect_arrival(e);
        return (int64_t)len;
    }
    if (to->reset || to->reset_comes)
        return (int64_t)len; /* lost on its way */
    size_t room = e->link->shape.buffer_bytes - p->len, n = len < room ? len : room;
    if (n > 0)
        memcpy(p->bytes + p->len, bytes, n);
    p->len += n;
    p->written += n;
    p->is_full = p->is_full || n < len;
    if (n > 0)
        expect_arrival(to);
    return (int64_t)n;
}

int64_t end_read(struct end *e, void *out, size_t size)
{
    struct pipe *p = &e->in;
    if (end_is_dead(e))
        return END_IS_RESET;
    size_t n = p->arrived < size ? p->arrived : size;
    if (n == 0)
        return 0;
    memcpy(out, p->bytes, n);
    memmove(p->bytes, p->bytes + n, p->len - n);
    p->len -= n;
    p->arrived -= n;
    p->read += n;
    struct end *writer = end_other(e);
    if (p->is_full && p->len <= e->link->shape.buffer_bytes / 2) {
        p->is_full = false;
        if (!writer->closed)
            agenda_in(&writer->room, delay(e->link), tell_room, writer);
    }
    return (int64_t)n;
}

bool end_is_left(struct end *e)
{
    return end_other(e)->closed;
}

bool end_is_over(const struct end *e)
{
    return e->in.finish_arrived && e->in.len == 0;
}

bool end_was_reset(const struct end *e)
{
    return e->reset;
}

bool end_is_dead(const struct end *e)
{
    return e->reset && e->in.arrived == 0;
}

bool end_other_has_finished(const struct end *e)
{
    return e->in.finish_arrived;
}

bool end_has_news(const struct end *e)
{
    return e->reset || e->in.arrived > 0 || end_is_over(e);
}

uint64_t end_written(const struct end *e)
{
    return end_other((struct end *)(uintptr_t)e)->in.written;
}

uint64_t end_bytes_read(const struct end *e)
{
    return e->in.read;
}

void end_finish(struct end *e)
{
    struct end *to = end_other(e);
    if (to->in.finished)
        return;
    to->in.finished = true;
    expect_arrival(to);
}

static void leave(struct end *e)
{
    ENSURE(!e->closed);
    e->closed = true;
    agenda_cancel(&e->arrival);
    agenda_cancel(&e->room);
    open_ends--;
    struct link *l = e->link;
    if (!end_other(e)->closed)
        return;
    free(l->ends[0].in.bytes);
    free(l->ends[1].in.bytes);
    free(l);
}

static void send_reset(struct end *to)
{
    if (to->closed || to->reset)
        return;
    struct pipe *p = &to->in;
    p->len -= prng_below(&to->link->prng, p->len - p->arrived + 1);
    to->reset_comes = true;
    expect_arrival(to);
}

void end_close(struct end *e)
{
    struct end *to = end_other(e);
    if (!e->reset && !e->reset_comes && e->in.len > 0)
        send_reset(to);
    else if (!to->closed)
        end_finish(e);
    leave(e);
}

void end_abort(struct end *e)
{
    send_reset(end_other(e));
    leave(e);
}

void link_cut(struct end *e)
{
    send_reset(end_other(e));
    send_reset(e);
}
