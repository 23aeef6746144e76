/* libuv's loop, timers, signals and lookups over the agenda. */

#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "agenda.h"
#include "base/assert.h"
#include "fiber.h"
#include "prng.h"
#include "sim_uv.h"

enum {
    ACTIVE = 1, /* uv_handle_t.flags */
    CLOSING = 2,
    TIMERS_MAX = 4096,
    SIGNALS_MAX = 32,
    LATENCY_US = 200, /* of what one thread tells another, and the kernel the process */
    LOOKUP_US = 20000,
};

static struct {
    uv_loop_t *loop;
    uv_handle_t *closing;
    unsigned handles, active; /* open; of those, what keeps the loop alive */
    uv_timer_t *timers[TIMERS_MAX];
    unsigned timer_count;
    uint64_t timer_order;
    uv_prepare_t *prepare;
    uv_idle_t *idle;
    uv_signal_t *signals[SIGNALS_MAX];
    struct deed deeds; /* in their order */
    struct deed last;  /* of a killed process: that it cleans up */
    bool is_touched;   /* something of the process has run */
    bool is_killed;
    uint64_t now_us; /* of a killed process */
    struct prng prng;
    jmp_buf top; /* uv_run */
} self;

void sim_uv_begin(uint64_t seed)
{
    memset(&self, 0, sizeof self);
    self.deeds.next = self.deeds.previous = &self.deeds;
    self.prng = prng_of(seed, 1);
}

void sim_uv_end(void)
{
    deed_cancel(&self.last); /* it was at its end anyway */
    ENSURE(!self.loop && self.handles == 0 && self.timer_count == 0 &&
           self.deeds.next == &self.deeds);
}

struct prng *sim_uv_prng(void)
{
    return &self.prng;
}

uv_loop_t *sim_uv_loop(void)
{
    return self.loop;
}

bool sim_uv_is_killed(void)
{
    return self.is_killed;
}

uint64_t sim_uv_now_us(void)
{
    return self.is_killed ? self.now_us : agenda_now_us();
}

/* ---- what is to be done by the loop ---- */

static void take_out(struct deed *d)
{
    agenda_cancel(&d->event);
    d->next->previous = d->previous;
    d->previous->next = d->next;
    d->next = d->previous = NULL;
}

static void do_it(void *arg)
{
    struct deed *d = arg;
    take_out(d);
    self.is_touched = true;
    d->run(d->arg);
}

void deed_in(struct deed *d, uint64_t delay_us, void (*run)(void *arg), void *arg)
{
    if (d->next)
        return;
    d->run = run;
    d->arg = arg;
    d->next = &self.deeds;
    d->previous = self.deeds.previous;
    d->previous->next = d->next->previous = d;
    if (!self.is_killed)
        agenda_in(&d->event, delay_us, do_it, d);
}

void deed_cancel(struct deed *d)
{
    if (d->next)
        take_out(d);
}

/* Cleans up, without any patience. */
static void die(void *arg)
{
    (void)arg;
    sim_uv_signal(SIGTERM);
    sim_uv_signal(SIGTERM);
}

void sim_uv_kill(void)
{
    if (self.is_killed)
        return;
    self.now_us = agenda_now_us();
    self.is_killed = true;
    for (struct deed *d = self.deeds.next; d != &self.deeds; d = d->next)
        agenda_cancel(&d->event);
    sim_tcp_kill_all();
    sim_thread_kill();
    deed_in(&self.last, 0, die, NULL);
}

/* ---- the loop ---- */

int uv_loop_init(uv_loop_t *loop)
{
    ENSURE(!self.loop);
    self.loop = loop;
    return 0;
}

int uv_loop_close(uv_loop_t *loop)
{
    if (self.handles > 0)
        return UV_EBUSY;
    ENSURE(loop == self.loop);
    self.loop = NULL;
    return 0;
}

uint64_t uv_now(const uv_loop_t *loop)
{
    (void)loop;
    return sim_uv_now_us() / 1000;
}

uint64_t uv_hrtime(void)
{
    return sim_uv_now_us() * 1000;
}

static void run_closing(void)
{
    while (self.closing) {
        uv_handle_t *handle = self.closing;
        self.closing = handle->next_closing;
        self.handles--;
        if (handle->type == UV_TCP)
            sim_tcp_closed((uv_tcp_t *)handle);
        if (handle->close_cb)
            handle->close_cb(handle);
    }
}

static uv_timer_t *first_timer(void)
{
    uv_timer_t *first = NULL;
    for (unsigned i = 0; i < self.timer_count; i++) {
        uv_timer_t *t = self.timers[i];
        if (!first || t->timeout < first->timeout ||
            (t->timeout == first->timeout && t->start_id < first->start_id))
            first = t;
    }
    return first;
}

static bool run_timers(void)
{
    bool ran = false;
    uint64_t now = sim_uv_now_us() / 1000;
    uv_timer_t *t;
    while ((t = first_timer()) != NULL && t->timeout <= now) {
        uint64_t repeat = t->repeat;
        uv_timer_stop(t);
        if (repeat)
            uv_timer_start(t, t->timer_cb, repeat, repeat);
        t->timer_cb(t);
        ran = true;
    }
    return ran;
}

/* Its sockets are gone: nothing comes but what it does itself. */
static void poll_alone(void)
{
    if (self.deeds.next != &self.deeds) {
        do_it(self.deeds.next);
        return;
    }
    if (sim_thread_run() || self.closing || self.idle)
        return;
    const uv_timer_t *t = first_timer();
    ENSURE(t); /* else it would wait for ever */
    if (t->timeout * 1000 > self.now_us)
        self.now_us = t->timeout * 1000;
}

/* Lets the world go on until something comes for the process, or a timer of it is due. */
static void poll(void)
{
    const uv_timer_t *t = first_timer();
    uint64_t until = self.closing || self.idle                  ? agenda_now_us()
                     : t && t->timeout * 1000 > agenda_now_us() ? t->timeout * 1000
                     : t                                        ? agenda_now_us()
                                                                : UINT64_MAX;
    unsigned most = 1 + (unsigned)prng_below(&self.prng, 4);
    self.is_touched = false;
    while (most > 0 && !self.is_killed) {
        if (!agenda_run_next(until)) {
            ENSURE(until != UINT64_MAX);
            if (!self.is_touched)
                agenda_wait(until);
            return;
        }
        if (self.is_touched) { /* and perhaps what comes at the same moment */
            until = agenda_now_us();
            most--;
        }
    }
}

void sim_uv_exit(void)
{
    ENSURE(!fiber_is_inside());
    longjmp(self.top, 1);
}

int uv_run(uv_loop_t *loop, uv_run_mode mode)
{
    ENSURE(loop == self.loop && mode == UV_RUN_DEFAULT);
    if (setjmp(self.top) != 0)
        sim_uv_kill(); /* it has ended itself */
    while (self.active > 0 || self.closing) {
        run_timers();
        if (self.prepare)
            self.prepare->prepare_cb(self.prepare);
        if (self.is_killed)
            poll_alone();
        else
            poll();
        run_closing();
    }
    return 0;
}

/* ---- handles ---- */

void sim_handle_init(uv_loop_t *loop, uv_handle_t *handle, uv_handle_type type)
{
    handle->loop = loop;
    handle->type = type;
    handle->close_cb = NULL;
    handle->next_closing = NULL;
    handle->flags = 0;
    memset(handle->u.reserved, 0, sizeof handle->u.reserved);
    self.handles++;
}

/* As libuv: only what is active keeps the loop alive. */
static void set_active(uv_handle_t *handle, bool is_active)
{
    if (((handle->flags & ACTIVE) != 0) == is_active)
        return;
    handle->flags ^= ACTIVE;
    if (is_active)
        self.active++;
    else
        self.active--;
}

int uv_is_active(const uv_handle_t *handle)
{
    return (handle->flags & ACTIVE) != 0;
}

int uv_is_closing(const uv_handle_t *handle)
{
    return (handle->flags & CLOSING) != 0;
}

void uv_close(uv_handle_t *handle, uv_close_cb callback)
{
    ENSURE(!uv_is_closing(handle));
    switch (handle->type) {
    case UV_TIMER:
        uv_timer_stop((uv_timer_t *)handle);
        break;
    case UV_PREPARE:
        self.prepare = NULL;
        break;
    case UV_IDLE:
        self.idle = NULL;
        break;
    case UV_SIGNAL:
        if (((uv_signal_t *)handle)->signum)
            self.signals[((uv_signal_t *)handle)->signum] = NULL;
        break;
    case UV_TCP:
        sim_tcp_close((uv_tcp_t *)handle);
        break;
    case UV_ASYNC:
        deed_cancel(handle->u.reserved[3]);
        free(handle->u.reserved[3]);
        break;
    default:
        ENSURE(false);
    }
    set_active(handle, false);
    handle->flags |= CLOSING;
    handle->close_cb = callback;
    handle->next_closing = NULL;
    uv_handle_t **last = &self.closing;
    while (*last)
        last = &(*last)->next_closing;
    *last = handle;
}

int uv_timer_init(uv_loop_t *loop, uv_timer_t *timer)
{
    sim_handle_init(loop, (uv_handle_t *)timer, UV_TIMER);
    return 0;
}

int uv_timer_start(uv_timer_t *timer, uv_timer_cb callback, uint64_t timeout, uint64_t repeat)
{
    uv_timer_stop(timer);
    ENSURE(self.timer_count < TIMERS_MAX);
    timer->timer_cb = callback;
    timer->timeout = sim_uv_now_us() / 1000 + timeout;
    timer->repeat = repeat;
    timer->start_id = ++self.timer_order;
    self.timers[self.timer_count++] = timer;
    set_active((uv_handle_t *)timer, true);
    return 0;
}

int uv_timer_stop(uv_timer_t *timer)
{
    for (unsigned i = 0; i < self.timer_count; i++)
        if (self.timers[i] == timer) {
            self.timers[i] = self.timers[--self.timer_count];
            set_active((uv_handle_t *)timer, false);
            break;
        }
    return 0;
}

int uv_timer_again(uv_timer_t *timer)
{
    return uv_timer_start(timer, timer->timer_cb, timer->repeat, timer->repeat);
}

void uv_timer_set_repeat(uv_timer_t *timer, uint64_t repeat)
{
    timer->repeat = repeat;
}

uint64_t uv_timer_get_due_in(const uv_timer_t *timer)
{
    uint64_t now = sim_uv_now_us() / 1000;
    return timer->timeout > now ? timer->timeout - now : 0;
}

int uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare)
{
    sim_handle_init(loop, (uv_handle_t *)prepare, UV_PREPARE);
    return 0;
}

int uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb callback)
{
    prepare->prepare_cb = callback;
    self.prepare = prepare;
    set_active((uv_handle_t *)prepare, true);
    return 0;
}

int uv_idle_init(uv_loop_t *loop, uv_idle_t *idle)
{
    sim_handle_init(loop, (uv_handle_t *)idle, UV_IDLE);
    return 0;
}

int uv_idle_start(uv_idle_t *idle, uv_idle_cb callback)
{
    idle->idle_cb = callback;
    self.idle = idle;
    set_active((uv_handle_t *)idle, true);
    return 0;
}

int uv_idle_stop(uv_idle_t *idle)
{
    self.idle = NULL;
    set_active((uv_handle_t *)idle, false);
    return 0;
}

/* ---- signals ---- */

int uv_signal_init(uv_loop_t *loop, uv_signal_t *handle)
{
    sim_handle_init(loop, (uv_handle_t *)handle, UV_SIGNAL);
    handle->signum = 0;
    return 0;
}

int uv_signal_start(uv_signal_t *handle, uv_signal_cb callback, int signum)
{
    handle->signal_cb = callback;
    handle->signum = signum;
    self.signals[signum] = handle;
    set_active((uv_handle_t *)handle, true);
    return 0;
}

bool sim_uv_signal(int signum)
{
    uv_signal_t *handle = self.signals[signum];
    if (!handle)
        return false;
    self.is_touched = true;
    handle->signal_cb(handle, signum);
    return true;
}

/* ---- wake-ups from the other thread ---- */

static void run_async(void *arg)
{
    uv_async_t *async = arg;
    async->async_cb(async);
}

int uv_async_init(uv_loop_t *loop, uv_async_t *async, uv_async_cb callback)
{
    sim_handle_init(loop, (uv_handle_t *)async, UV_ASYNC);
    async->async_cb = callback;
    async->u.reserved[3] = calloc(1, sizeof(struct deed));
    ENSURE(async->u.reserved[3]);
    set_active((uv_handle_t *)async, true);
    return 0;
}

int uv_async_send(uv_async_t *async)
{
    deed_in(async->u.reserved[3], prng_below(&self.prng, LATENCY_US), run_async, async);
    return 0;
}

/* ---- lookups ---- */

/* Its request's `reserved` leads to it. */
struct lookup_deed {
    struct deed deed;
    uv_getaddrinfo_t *request;
    uv_getaddrinfo_cb callback;
    int port;
    bool is_cancelled;
};

static void found(void *arg)
{
    struct lookup_deed *l = arg;
    uv_getaddrinfo_t *request = l->request;
    uv_getaddrinfo_cb callback = l->callback;
    int status = l->is_cancelled || self.is_killed ? UV_ECANCELED : 0;
    struct {
        struct addrinfo info;
        struct sockaddr_in address;
    } *answer = NULL;
    if (status == 0) {
        answer = calloc(1, sizeof *answer);
        ENSURE(answer);
        answer->address.sin_family = AF_INET;
        answer->address.sin_port = htons((uint16_t)l->port);
        answer->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        answer->info = (struct addrinfo){.ai_family = AF_INET,
                                         .ai_socktype = SOCK_STREAM,
                                         .ai_addrlen = sizeof answer->address,
                                         .ai_addr = (struct sockaddr *)&answer->address};
    }
    free(l);
    self.active--;
    callback(request, status, answer ? &answer->info : NULL);
}

int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *request, uv_getaddrinfo_cb callback,
                   const char *node, const char *service, const struct addrinfo *hints)
{
    (void)node, (void)hints;
    struct lookup_deed *l = calloc(1, sizeof *l);
    ENSURE(l);
    *l = (struct lookup_deed){.request = request, .callback = callback, .port = atoi(service)};
    request->loop = loop;
    request->reserved[0] = l;
    self.active++;
    deed_in(&l->deed, prng_below(&self.prng, LOOKUP_US), found, l);
    return 0;
}

void uv_freeaddrinfo(struct addrinfo *info)
{
    free(info);
}

int uv_cancel(uv_req_t *request)
{
    ((struct lookup_deed *)request->reserved[0])->is_cancelled = true;
    return 0;
}

/* ---- the rest ---- */

uv_pid_t uv_os_getpid(void)
{
    return 4711;
}
