#include "fiber.h"

#include <stddef.h>
#include <ucontext.h>

#include "base/assert.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#else
#define __sanitizer_start_switch_fiber(save, bottom, size)  ((void)0)
#define __sanitizer_finish_switch_fiber(save, bottom, size) ((void)0)
#endif

enum { STACK_BYTES = 1024 * 1024 };

static struct {
    ucontext_t inside, outside;
    void (*run)(void *arg);
    void *arg;
    bool is_inside, is_begun;
    char stack[STACK_BYTES] __attribute__((aligned(16)));
    void *inside_shadow, *outside_shadow;
    const void *outside_stack;
    size_t outside_size;
} fiber;

static void enter(void)
{
    __sanitizer_finish_switch_fiber(NULL, &fiber.outside_stack, &fiber.outside_size);
    fiber.run(fiber.arg);
    fiber.is_inside = fiber.is_begun = false;
    __sanitizer_start_switch_fiber(NULL, fiber.outside_stack, fiber.outside_size);
    setcontext(&fiber.outside);
}

void fiber_begin(void (*run)(void *arg), void *arg)
{
    ENSURE(!fiber.is_begun);
    fiber.run = run;
    fiber.arg = arg;
    fiber.is_begun = true;
    ENSURE(getcontext(&fiber.inside) == 0);
    fiber.inside.uc_stack.ss_sp = fiber.stack;
    fiber.inside.uc_stack.ss_size = STACK_BYTES;
    fiber.inside.uc_link = NULL;
    makecontext(&fiber.inside, enter, 0);
}

void fiber_resume(void)
{
    ENSURE(fiber.is_begun && !fiber.is_inside);
    fiber.is_inside = true;
    __sanitizer_start_switch_fiber(&fiber.outside_shadow, fiber.stack, STACK_BYTES);
    ENSURE(swapcontext(&fiber.outside, &fiber.inside) == 0);
    __sanitizer_finish_switch_fiber(fiber.outside_shadow, NULL, NULL);
}

void fiber_give_way(void)
{
    ENSURE(fiber.is_inside);
    fiber.is_inside = false;
    __sanitizer_start_switch_fiber(&fiber.inside_shadow, fiber.outside_stack, fiber.outside_size);
    ENSURE(swapcontext(&fiber.inside, &fiber.outside) == 0);
    __sanitizer_finish_switch_fiber(fiber.inside_shadow, &fiber.outside_stack, &fiber.outside_size);
}

bool fiber_is_inside(void)
{
    return fiber.is_inside;
}

bool fiber_is_over(void)
{
    return !fiber.is_begun;
}
