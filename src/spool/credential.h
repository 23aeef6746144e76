#pragma once

/* Seals passwords that are kept in the spool: AES-256-GCM (NIST SP 800-38D) under a key in a file
 * of its own, bound to user and vhost as additional data, so that a sealed password cannot be
 * moved to another queue. Sealed form: version (1 byte), nonce (12), ciphertext, tag (16). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "amqpbuf/status.h"

enum { CREDENTIAL_KEY_BYTES = 32, CREDENTIAL_OVERHEAD_BYTES = 1 + 12 + 16 };

struct credential_key {
    uint8_t bytes[CREDENTIAL_KEY_BYTES];
};

/* Reads the key, making it with mode 0600 from the system's random source if the file is missing.
 * STATUS_PERMISSION, with the chmod that mends it, if others may read it; its group may if the file
 * is root's and the reader is not. */
enum status credential_key_load(struct credential_key *, const char *path, struct failure *);

/* `sealed` takes password_len + CREDENTIAL_OVERHEAD_BYTES bytes. */
enum status credential_seal(const struct credential_key *, const char *user, const char *vhost,
                            const uint8_t *password, size_t password_len, uint8_t *sealed);
/* `password` takes sealed_len - CREDENTIAL_OVERHEAD_BYTES bytes; *password_len gets the length.
 * STATUS_DAMAGED if it was not sealed by this key for this user and vhost. */
enum status credential_open(const struct credential_key *, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t sealed_len, uint8_t *password,
                            size_t *password_len);
/* Compares in time that depends on the lengths alone. */
bool credential_equal(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len);
/* Overwrites memory in a way that the compiler keeps. */
void credential_wipe(void *memory, size_t len);
