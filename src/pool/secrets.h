#pragma once

/* The passwords of one login. RabbitMQ has accepted the current one last, and it is what
 * connections are opened with. Others that it has accepted (the one before, other tokens of the
 * same identity) are good for a while without asking again. A candidate is a client's new one that
 * RabbitMQ is still to be asked about. */

#include <stdbool.h>
#include <stdint.h>

enum { SECRETS_OTHERS = 8, SECRETS_FRESH_MS = 60000 };

struct secrets {
    char *current;
    char *candidate; /* NULL: none */
    struct {
        char *password; /* NULL: none */
        uint64_t proven_ms;
    } others[SECRETS_OTHERS];
};

/* A password by itself: overwritten before its memory is given back, compared in constant time. */
void secret_set(char **, const char *password);
void secret_wipe(char **);
bool secret_is(const char *a, const char *b);

void secrets_init(struct secrets *, const char *password);
void secrets_deinit(struct secrets *);
/* It is the current one, or another one that RabbitMQ has accepted, however long ago. */
bool secrets_know(const struct secrets *, const char *password);
/* It is the current one, or RabbitMQ has accepted it within the last SECRETS_FRESH_MS. */
bool secrets_vouch(const struct secrets *, const char *password, uint64_t now_ms);
/* RabbitMQ has accepted it beside the current one. The oldest of too many is forgotten. */
void secrets_remember(struct secrets *, const char *password, uint64_t now_ms);
/* RabbitMQ has refused it. */
void secrets_forget(struct secrets *, const char *password);
/* It is the current one from now on. `keep_old`: the one before was good, and stays so for a while.
 */
void secrets_replace(struct secrets *, const char *password, bool keep_old, uint64_t now_ms);
/* What a connection is to be opened with: the candidate, if there is one. */
const char *secrets_to_dial(const struct secrets *);
bool secrets_is_candidate(const struct secrets *, const char *password);
