#pragma once

/* libuv in a world that is simulated: its loop, timers, sockets and threads, as far as the proxy
 * uses them. What the proxy cannot see of it is here; the rest is <uv.h>.
 *
 * A process that is killed is not there any more for anybody else, and still has to be cleaned
 * away: from sim_uv_kill on, its sockets are gone, its clock is its own, and its loop runs alone
 * until everything is closed. Whatever it still does, nobody sees. */

#include <stdbool.h>
#include <stdint.h>

#include <uv.h>

#include "agenda.h"
#include "prng.h"

struct end;
struct sockaddr;

/* Begins a process of the proxy. */
void sim_uv_begin(uint64_t seed);
/* The process is over; nothing of it may be left. */
void sim_uv_end(void);
void sim_uv_kill(void);
bool sim_uv_is_killed(void);
/* The process ends itself, from a callback of the loop. */
_Noreturn void sim_uv_exit(void);
/* A signal arrives; false if nobody waits for it. */
bool sim_uv_signal(int signum);
bool sim_uv_is_listening(void);
/* A client connects. NULL: refused, nobody listens. */
struct end *sim_uv_connect(uint64_t seed);
/* Who answers where the proxy connects to: NULL if nobody does (refused); *silent: nobody ever says
 * so, either. */
void sim_uv_on_dial(struct end *(*dial)(int port, bool *silent));
/* The loop that runs; NULL: none does. */
uv_loop_t *sim_uv_loop(void);
uint64_t sim_uv_now_us(void);
/* From the second thread: takes some time, in which others go on. */
void sim_uv_thread_takes_us(uint64_t us);

/* ---- between the files that stand for libuv ---- */

/* Something for the loop to do, some time from now; the run of a killed process does it at once. */
struct deed {
    struct event event;
    struct deed *next, *previous;
    void (*run)(void *arg);
    void *arg;
};
void deed_in(struct deed *, uint64_t delay_us, void (*run)(void *arg), void *arg);
void deed_cancel(struct deed *);
struct prng *sim_uv_prng(void);
void sim_handle_init(uv_loop_t *, uv_handle_t *, uv_handle_type);
/* When it is closed, and before its close callback. */
void sim_tcp_close(uv_tcp_t *);
void sim_tcp_closed(uv_tcp_t *);
void sim_tcp_kill_all(void);
void sim_thread_kill(void);
/* Runs a thread that can; true if it did. Of a killed process. */
bool sim_thread_run(void);
