#pragma once

/* TLS 1.2 and up between a stream and its socket (OpenSSL over memory: it never sees the socket).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What connections of one kind share: certificates, keys, rules. */
struct tls_context;

struct tls_settings {
    bool is_server;
    const char *certificate, *private_key; /* PEM files; "": none. The certificate may be a chain */
    const char *ca;                        /* PEM file; "": of a client, the system's; of a server,
                                              it asks for no certificate */
    bool verify;                           /* of a client: chain and name */
};

/* NULL, with a sentence for a person in `why`, if a file cannot be used. */
struct tls_context *tls_context_new(const struct tls_settings *, char *why, size_t why_size);
/* Why its own certificate, or one of its chain, is refused by whoever looks at the time; NULL: none
 * is, or there is none.
 */
const char *tls_context_is_untimely(const struct tls_context *);
/* Sessions that are open keep what they need of it. */
void tls_context_free(struct tls_context *);

struct tls;

/* `host` is whom a client wants to speak to: a name or an address. NULL for a server. */
struct tls *tls_new(struct tls_context *, const char *host);
void tls_free(struct tls *);

enum { TLS_LATER = 0, TLS_ENDED = -1, TLS_FAILED = -2 };

/* Begins the handshake; a client has something to send then. */
void tls_begin(struct tls *);
/* Takes bytes that came from the socket. */
void tls_feed(struct tls *, const void *bytes, size_t len);
/* Up to `size` bytes of what the peer has said, or one of the above. */
int tls_read(struct tls *, void *out, size_t size);
/* Takes bytes for the peer; how many, or TLS_LATER (the handshake is not over) or TLS_FAILED. */
int tls_write(struct tls *, const void *bytes, size_t len);
/* Says goodbye to the peer. */
void tls_shutdown(struct tls *);
/* What is to be sent to the socket; valid until the next call. */
const uint8_t *tls_output(struct tls *, size_t *len);
/* So many bytes of that were sent. */
void tls_sent(struct tls *, size_t len);
/* What its buffers have room for, OpenSSL's own for the beginning of a record too; NULL: those of
 * all sessions. */
size_t tls_held_bytes(const struct tls *);
/* Gives back what its buffers took beyond the ordinary, if there is nothing in them. */
void tls_trim(struct tls *);
/* Why it failed; an empty text if it has not. */
const char *tls_why(const struct tls *);
