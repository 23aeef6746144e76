#pragma once

/* The switch into the spool: what a lost upstream had not answered. */

struct pool;
struct upstream;

/* Spools the publishes that the upstream's relays retain, oldest first across all of them, and
 * answers or refuses the methods that await a reply. With buffering off the clients whose channels
 * were bound to it are closed (320). To be called while the links are still attached. */
void failover_upstream(struct pool *, struct upstream *);
