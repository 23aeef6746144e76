#include "pool/secrets.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "spool/credential.h"

/* ---- one password ---- */

void secret_wipe(char **secret)
{
    if (*secret)
        credential_wipe(*secret, strlen(*secret));
    free(*secret);
    *secret = NULL;
}

void secret_set(char **secret, const char *password)
{
    char *copy = strdup(password);
    ENSURE(copy);
    secret_wipe(secret);
    *secret = copy;
}

bool secret_is(const char *a, const char *b)
{
    return credential_equal((const uint8_t *)a, strlen(a), (const uint8_t *)b, strlen(b));
}

/* ---- those of a login ---- */

void secrets_init(struct secrets *s, const char *password)
{
    *s = (struct secrets){0};
    secret_set(&s->current, password);
}

void secrets_deinit(struct secrets *s)
{
    secret_wipe(&s->current);
    secret_wipe(&s->candidate);
    for (unsigned i = 0; i < SECRETS_OTHERS; i++)
        secret_wipe(&s->others[i].password);
}

/* Its place among the others; SECRETS_OTHERS if it has none. */
static unsigned find(const struct secrets *s, const char *password)
{
    unsigned i = 0;
    while (i < SECRETS_OTHERS &&
           !(s->others[i].password && secret_is(s->others[i].password, password)))
        i++;
    return i;
}

bool secrets_know(const struct secrets *s, const char *password)
{
    return secret_is(s->current, password) || find(s, password) < SECRETS_OTHERS;
}

bool secrets_vouch(const struct secrets *s, const char *password, uint64_t now_ms)
{
    unsigned i = find(s, password);
    return secret_is(s->current, password) ||
           (i < SECRETS_OTHERS && now_ms - s->others[i].proven_ms < SECRETS_FRESH_MS);
}

/* A free place, or that of the one that was proven longest ago. */
static unsigned place(const struct secrets *s)
{
    unsigned best = 0;
    for (unsigned i = 0; i < SECRETS_OTHERS; i++) {
        if (!s->others[i].password)
            return i;
        if (s->others[i].proven_ms < s->others[best].proven_ms)
            best = i;
    }
    return best;
}

void secrets_remember(struct secrets *s, const char *password, uint64_t now_ms)
{
    unsigned i = find(s, password);
    if (i == SECRETS_OTHERS)
        i = place(s);
    secret_set(&s->others[i].password, password);
    s->others[i].proven_ms = now_ms;
}

void secrets_forget(struct secrets *s, const char *password)
{
    unsigned i = find(s, password);
    if (i < SECRETS_OTHERS)
        secret_wipe(&s->others[i].password);
}

void secrets_replace(struct secrets *s, const char *password, bool keep_old, uint64_t now_ms)
{
    secrets_forget(s, password);
    if (keep_old)
        secrets_remember(s, s->current, now_ms);
    secret_set(&s->current, password);
}

const char *secrets_to_dial(const struct secrets *s)
{
    return s->candidate ? s->candidate : s->current;
}

bool secrets_is_candidate(const struct secrets *s, const char *password)
{
    return s->candidate && secret_is(s->candidate, password);
}
