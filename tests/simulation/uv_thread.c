/* libuv's threads: one beside the loop's, which runs when the agenda says so. */

#include <string.h>

#include "agenda.h"
#include "base/assert.h"
#include "fiber.h"
#include "history.h"
#include "prng.h"
#include "sim_uv.h"

enum {
    WAKE_US = 200,  /* most, from a signal until it runs */
    SWITCH_US = 20, /* most, when another may run in between */
    SWITCH_PERCENT = 10,
};

static struct {
    struct event event; /* it is ready */
    bool is_ready;      /* of a killed process */
    const uv_cond_t *waits_for;
    const uv_mutex_t *waits_with;
    bool was_given; /* something meanwhile: the loop has had the mutex */
    bool timed_out;
} thread;

static void resume(void *arg)
{
    (void)arg;
    fiber_resume();
}

static void make_ready(uint64_t delay_us)
{
    thread.is_ready = true;
    if (!sim_uv_is_killed())
        agenda_in(&thread.event, delay_us, resume, NULL);
}

void sim_thread_kill(void)
{
    agenda_cancel(&thread.event);
}

bool sim_thread_run(void)
{
    if (!thread.is_ready || fiber_is_over())
        return false;
    thread.is_ready = false;
    fiber_resume();
    return true;
}

void sim_uv_thread_takes_us(uint64_t us)
{
    if (!fiber_is_inside())
        return;
    make_ready(us);
    fiber_give_way();
}

int uv_thread_create(uv_thread_t *id, uv_thread_cb run, void *arg)
{
    *id = 0;
    memset(&thread, 0, sizeof thread);
    fiber_begin(run, arg);
    make_ready(prng_below(sim_uv_prng(), WAKE_US));
    return 0;
}

/* It was asked to end, and it says so before it does. */
int uv_thread_join(uv_thread_t *id)
{
    (void)id;
    while (!fiber_is_over()) {
        agenda_cancel(&thread.event);
        fiber_resume();
    }
    return 0;
}

/* ---- locks: one byte of libuv's own ---- */

static bool *flag_of(uv_mutex_t *mutex)
{
    return (bool *)mutex;
}

int uv_mutex_init(uv_mutex_t *mutex)
{
    memset(mutex, 0, sizeof *mutex);
    return 0;
}

void uv_mutex_destroy(uv_mutex_t *mutex)
{
    ENSURE(!*flag_of(mutex));
}

/* Who wants it lets the other one run until it is free. */
void uv_mutex_lock(uv_mutex_t *mutex)
{
    if (fiber_is_inside() && prng_percent(sim_uv_prng(), SWITCH_PERCENT))
        sim_uv_thread_takes_us(prng_below(sim_uv_prng(), SWITCH_US));
    while (*flag_of(mutex)) {
        ENSURE(!fiber_is_inside()); /* the loop gives way to nobody */
        agenda_cancel(&thread.event);
        fiber_resume();
    }
    *flag_of(mutex) = true;
}

void uv_mutex_unlock(uv_mutex_t *mutex)
{
    ENSURE(*flag_of(mutex));
    *flag_of(mutex) = false;
    thread.was_given =
        thread.was_given || (!fiber_is_inside() && thread.waits_for && thread.waits_with == mutex);
}

int uv_cond_init(uv_cond_t *cond)
{
    memset(cond, 0, sizeof *cond);
    return 0;
}

void uv_cond_destroy(uv_cond_t *cond)
{
    ENSURE(thread.waits_for != cond);
}

void uv_cond_signal(uv_cond_t *cond)
{
    if (thread.waits_for != cond)
        return;
    thread.waits_for = NULL;
    make_ready(prng_below(sim_uv_prng(), WAKE_US));
}

static void time_is_over(void *arg)
{
    (void)arg;
    CHECK(!thread.was_given, "the thread is given something, and nobody wakes it");
    thread.waits_for = NULL;
    thread.timed_out = true;
    fiber_resume();
}

static bool wait_for(uv_cond_t *cond, uv_mutex_t *mutex, uint64_t timeout_us)
{
    ENSURE(fiber_is_inside());
    thread.waits_for = cond;
    thread.waits_with = mutex;
    thread.was_given = thread.timed_out = false;
    if (timeout_us > 0 && !sim_uv_is_killed())
        agenda_in(&thread.event, timeout_us, time_is_over, NULL);
    uv_mutex_unlock(mutex);
    fiber_give_way();
    uv_mutex_lock(mutex);
    return !thread.timed_out;
}

void uv_cond_wait(uv_cond_t *cond, uv_mutex_t *mutex)
{
    wait_for(cond, mutex, 0);
}

int uv_cond_timedwait(uv_cond_t *cond, uv_mutex_t *mutex, uint64_t timeout_ns)
{
    return wait_for(cond, mutex, timeout_ns / 1000) ? 0 : UV_ETIMEDOUT;
}

void uv_sleep(unsigned ms)
{
    sim_uv_thread_takes_us((uint64_t)ms * 1000);
}
