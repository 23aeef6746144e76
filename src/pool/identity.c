#include "pool/identity.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xxhash.h>

#include "base/assert.h"

/* What RabbitMQ (rabbit_auth_backend_oauth2) reads permissions from, and the usual names for
 * auth_oauth2.additional_scopes_key. */
static const char *const right_claims[] = {
    "aud",   "scope",           "scp",          "authorization", "authorization_details",
    "roles", "groups",          "authorities",  "permissions",   "entitlements",
    "azp",   "resource_access", "realm_access",
};

/* ---- the token ---- */

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Base64url without padding (RFC 7515). NULL if it is none. */
static char *decode(const char *text, size_t text_len, size_t *len)
{
    char *out = malloc(text_len + 1);
    ENSURE(out);
    uint32_t bits = 0;
    unsigned count = 0;
    *len = 0;
    for (size_t i = 0; i < text_len; i++) {
        int value = sextet(text[i]);
        if (value < 0) {
            free(out);
            return NULL;
        }
        bits = bits << 6 | (uint32_t)value;
        count += 6;
        if (count < 8)
            continue;
        count -= 8;
        out[(*len)++] = (char)(bits >> count & 0xff);
    }
    return out;
}

/* The claims of what looks like a JWT: header.claims.signature, the claims a JSON object. */
static json_t *read_claims(const char *password)
{
    const char *claims = strchr(password, '.');
    const char *end = claims ? strchr(claims + 1, '.') : NULL;
    if (!end || strchr(end + 1, '.'))
        return NULL;
    size_t len;
    char *text = decode(claims + 1, (size_t)(end - claims - 1), &len);
    if (!text)
        return NULL;
    json_t *json = json_loadb(text, len, 0, NULL);
    free(text);
    if (json_is_object(json))
        return json;
    json_decref(json);
    return NULL;
}

/* ---- its name ---- */

/* Brackets and commas are escaped: one name means one identity. */
static void add_escaped(FILE *out, const char *text)
{
    for (; *text; text++)
        if (strchr("(),%", *text))
            fprintf(out, "%%%02X", (unsigned)*text);
        else
            fputc(*text, out);
}

/* " (SUBJECT, ISSUER)" or " (SUBJECT, CLIENT, ISSUER)"; NULL if the token names nobody. */
static char *make_suffix(const json_t *claims)
{
    const char *subject = json_string_value(json_object_get(claims, "sub"));
    const char *client = json_string_value(json_object_get(claims, "client_id"));
    const char *issuer = json_string_value(json_object_get(claims, "iss"));
    if (!subject && !client)
        return NULL;
    char *suffix;
    size_t len;
    FILE *out = open_memstream(&suffix, &len);
    ENSURE(out);
    bool both = subject && client && strcmp(subject, client) != 0;
    fputs(" (", out);
    add_escaped(out, subject ? subject : client);
    if (both) {
        fputs(", ", out);
        add_escaped(out, client);
    }
    if (both || issuer) {
        fputs(", ", out);
        add_escaped(out, issuer ? issuer : "");
    }
    fputc(')', out);
    ENSURE(fclose(out) == 0);
    return suffix;
}

static uint64_t rights_of(const json_t *claims)
{
    uint64_t rights = 1;
    for (size_t i = 0; i < sizeof right_claims / sizeof *right_claims; i++) {
        const json_t *claim = json_object_get(claims, right_claims[i]);
        char *text = json_dumps(claim, JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_COMPACT);
        if (text)
            rights = XXH3_64bits_withSeed(text, strlen(text), rights + i);
        free(text);
    }
    return rights ? rights : 1;
}

/* A NumericDate (RFC 7519), which may have a fraction. */
static uint64_t expiry_of(const json_t *claims)
{
    const json_t *claim = json_object_get(claims, "exp");
    double expires = json_number_value(claim);
    if (!json_is_number(claim) || expires >= (double)INT64_MAX)
        return UINT64_MAX;
    return expires > 0 ? (uint64_t)expires : 0;
}

static char *join(const char *a, size_t a_len, const char *b)
{
    size_t b_len = strlen(b);
    char *out = malloc(a_len + b_len + 1);
    ENSURE(out);
    memcpy(out, a, a_len);
    memcpy(out + a_len, b, b_len + 1);
    return out;
}

void identity_init(struct identity *id, const char *user, const char *password)
{
    *id = (struct identity){.expires_s = UINT64_MAX};
    json_t *claims = read_claims(password);
    char *suffix = claims ? make_suffix(claims) : NULL;
    size_t user_len = strlen(user), suffix_len = suffix ? strlen(suffix) : 0;
    if (suffix && user_len >= suffix_len && strcmp(user + user_len - suffix_len, suffix) == 0)
        user_len -= suffix_len;
    id->dial_user = join(user, user_len, "");
    id->name = join(user, user_len, suffix ? suffix : "");
    if (suffix) {
        id->expires_s = expiry_of(claims);
        id->rights = rights_of(claims);
        id->is_token = true;
    }
    free(suffix);
    json_decref(claims);
}

void identity_clear(struct identity *id)
{
    free(id->name);
    free(id->dial_user);
    *id = (struct identity){0};
}

bool identity_has_expired(const struct identity *id)
{
    return (uint64_t)time(NULL) >= id->expires_s;
}
