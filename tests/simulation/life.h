#pragma once

/* The lives of the proxy's process: it is started, told to stop or to reload, killed at any step,
 * and started again. */

#include <stdbool.h>
#include <stdint.h>

void life_begin(const char *spool, uint64_t seed);
void life_end(void);
/* A setting, "SECTION.KEY=VALUE": of the next start, and of the next reload. */
void life_set(const char *setting);
/* Starts the process, lets the world go on, and starts it again whenever it has ended; until
 * life_finish. */
void life_run(void);
/* Told to stop, and not started again. */
void life_finish(void);
/* From an event of the agenda. */
void life_stop(void);
void life_reload(void);
/* Killed at the n-th step from now: a system call on the disk, a write to a socket, a named place
 * of the code. 0: now. */
void life_kill(uint64_t steps, bool power_cut);
/* It is not killed after all. */
void life_kill_never(void);
bool life_is_up(void);
/* The largest pool.window and drain.window that were ever set; 0: one was `auto`. */
unsigned life_largest_window(void);
/* The largest pool.publish_buffer_size that was ever set. */
unsigned life_largest_buffer(void);
/* spool.overflow was `reject` at some time: what has no room is nacked. */
bool life_rejects(void);
/* It was told to stop: it may have left RabbitMQ already, and not listen to it any more. */
bool life_is_leaving(void);
/* It was told to stop twice: it leaves at once, without a word to anybody. */
bool life_is_hasty(void);
/* It was told to stop so long ago that who reads slowly may miss its last word. */
bool life_is_overdue(void);
/* For how long it stays away after its end. */
void life_set_pause_us(uint64_t us);
unsigned life_ends(void);

struct proxy;
/* NULL while none runs, or it is being cleaned away. */
const struct proxy *life_proxy(void);

/* ---- for what stands for the machine ---- */

void life_step(void);
void life_gave_up(void);
