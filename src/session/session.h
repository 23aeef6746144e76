#pragma once

/* The life of a client's connection: accepted, frames taken, held and tried again, closed. */

#include <stdint.h>

#include <uv.h>

struct client;
struct client_handler;
struct clients;
struct pools_events;
struct tls_context;

/* What clients (clients_init) and pools (pools_init) tell their sessions. */
extern const struct client_handler session_handler;
extern const struct pools_events session_pools_events;

/* `tls` is NULL for a plain connection; `obstacle` says why it has to go at once, NULL if not. */
void session_accept(struct clients *, uv_stream_t *listener, struct tls_context *tls,
                    const char *obstacle);
void session_tick(struct client *, uint64_t now_ms);
