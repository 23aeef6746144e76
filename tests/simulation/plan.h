#pragma once

/* What is to happen in a run, as its seed decides it: clients that come, and things that befall
 * RabbitMQ, the network, the disk and the proxy. Each entry has a generator of its own, so that one
 * can be left out without a change to the others (main.c makes a failing run short that way). */

#include <stdbool.h>
#include <stdint.h>

enum { PLAN_MAX = 256 };

/* How many entries the plan of this seed has. */
unsigned plan_make(uint64_t seed);
/* Enters them, but for those that are left out. */
void plan_begin(const bool left_out[PLAN_MAX]);
/* Nothing more happens, and all that was broken is whole again. */
void plan_end(void);
/* Nothing of it is left to come, after plan_end. */
bool plan_is_over(void);
/* Somebody comes who knows a password that was changed: what is stored may wait for it. */
void plan_log_in(void);
/* When that is to be. */
uint64_t plan_length_us(void);
/* An entry in words, valid until the next call. */
const char *plan_name(unsigned entry);
