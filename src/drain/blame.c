#include "drain/blame.h"

#include <string.h>

enum { PAUSE_MIN_MS = 100, PAUSE_MAX_MS = 2000 };

static bool says(const char *text, const char *words)
{
    return strstr(text, words) != NULL;
}

/* "... refused for user 'U', backend B returned an error: E": a token that has run out, or a server
 * for logins that cannot be asked. Names are quoted before that, and may hold anything. */
static bool is_backends_failure(const char *text)
{
    static const char user[] = "refused for user '";
    const char *last = NULL;
    for (const char *at = text; (at = strstr(at, user)) != NULL; at += sizeof user - 1)
        last = at;
    return last && says(last, " returned an error: ");
}

static bool begins_with(const char *text, const char *words)
{
    return strncmp(text, words, strlen(words)) == 0;
}

/* There is such a queue, and its node or its process is not there now (rabbit_amqqueue). What is
 * not there at all is "no queue". */
static bool is_out_of_reach(const char *text)
{
    return begins_with(text, "NOT_FOUND - home node '") ||
           begins_with(text, "NOT_FOUND - queue '") ||
           begins_with(text, "NOT_FOUND - leader of ") ||
           begins_with(text, "NOT_FOUND - timed out ") ||
           begins_with(text, "NOT_FOUND - failed to perform ");
}

/* The nameless exchange is there as long as the vhost is. All of it is compared: clients name
 * exchanges as they like. */
bool blame_is_end_of_vhost(uint16_t code, const char *text, const char *vhost)
{
    static const char before[] = "NOT_FOUND - no exchange '' in vhost '";
    size_t begin = sizeof before - 1, len = strlen(vhost);
    return code == 404 && begins_with(text, before) && strncmp(text + begin, vhost, len) == 0 &&
           strcmp(text + begin + len, "'") == 0;
}

enum blame blame_of(uint16_t code, const char *text)
{
    switch (code) {
    case 312: /* no-route */
        return BLAME_UNROUTABLE;
    case 320: /* connection-forced */
        return BLAME_BROKER;
    case 403: /* access-refused */
        return is_backends_failure(text) ? BLAME_BROKER : BLAME_MESSAGE;
    case 404: /* not-found */
        return is_out_of_reach(text) ? BLAME_TRANSIENT : BLAME_MISSING;
    case 406: /* precondition-failed; a vhost that is full of queues will take it later */
        return says(text, "queue limit in vhost") ? BLAME_TRANSIENT : BLAME_MESSAGE;
    case 530: /* not-allowed */
        return says(text, "vhost") ? BLAME_BROKER : BLAME_MESSAGE;
    case 541: /* internal-error; a feature that is denied is no accident */
        return says(text, "deprecated") ? BLAME_MESSAGE : BLAME_TRANSIENT;
    case 0:   /* a nack: its queue has no process or no leader now, or is full */
    case 405: /* resource-locked: until another connection ends */
    case 501: /* frame-error: the proxy has made the frames anew, so something else spoiled them */
    case 503: /* command-invalid */
    case 504: /* channel-error */
    case 505: /* unexpected-frame */
    case 506: /* resource-error */
        return BLAME_TRANSIENT;
    default:
        return BLAME_MESSAGE;
    }
}

static enum remedy remedy_of_unroutable(const struct circumstances *c)
{
    if (c->just_back)
        return REMEDY_AGAIN;
    return c->mandatory || c->unroutable_rejects ? REMEDY_REJECT : REMEDY_DROP;
}

enum remedy remedy_of(enum blame blame, const struct circumstances *c)
{
    switch (blame) {
    case BLAME_MESSAGE:
        return REMEDY_REJECT;
    case BLAME_MISSING:
        return c->missing_waits ? REMEDY_AGAIN : REMEDY_REJECT;
    case BLAME_UNROUTABLE:
        return remedy_of_unroutable(c);
    case BLAME_TRANSIENT:
        return c->tries < c->nack_limit ? REMEDY_AGAIN : REMEDY_REJECT;
    case BLAME_BROKER:
        break;
    }
    return REMEDY_AGAIN;
}

uint32_t blame_pause_ms(uint32_t tries)
{
    uint32_t pause = PAUSE_MIN_MS;
    for (uint32_t i = 1; i < tries && pause < PAUSE_MAX_MS; i++)
        pause *= 2;
    return pause < PAUSE_MAX_MS ? pause : PAUSE_MAX_MS;
}
