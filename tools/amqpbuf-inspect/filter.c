#include "filter.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "json/moment.h"

void filter_init(struct filter *filter)
{
    *filter = (struct filter){.until_us = UINT64_MAX, .limit = UINT64_MAX};
}

bool number_parse(const char *text, uint64_t max, uint64_t *number)
{
    /* strtoull alone would take "-1" and " 1" as well. */
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || value > max)
        return false;
    *number = value;
    return true;
}

static const char *set_number(const char *value, uint64_t *number, const char *wanted)
{
    return number_parse(value, UINT64_MAX, number) ? NULL : wanted;
}

static const char *set_queue(struct filter *filter, const char *value)
{
    uint64_t id;
    if (!number_parse(value, UINT32_MAX, &id))
        return "a queue's number, as the summary shows it";
    filter->has_queue = true;
    filter->queue = (uint32_t)id;
    return NULL;
}

static const char *set_moment(const char *value, uint64_t now_us, uint64_t *at_us)
{
    return moment_parse(value, now_us, at_us)
               ? NULL
               : "a time such as 2026-01-02T03:04:05Z, 2026-01-02, @1767323045 or 15m (ago)";
}

const char *filter_set(struct filter *filter, enum filter_option option, const char *value,
                       uint64_t now_us)
{
    switch (option) {
    case FILTER_QUEUE:
        return set_queue(filter, value);
    case FILTER_USER:
        filter->user = value;
        return NULL;
    case FILTER_VHOST:
        filter->vhost = value;
        return NULL;
    case FILTER_EXCHANGE:
        filter->exchange = value;
        return NULL;
    case FILTER_ROUTING_KEY:
        filter->routing_key = value;
        return NULL;
    case FILTER_SINCE:
        return set_moment(value, now_us, &filter->since_us);
    case FILTER_UNTIL:
        return set_moment(value, now_us, &filter->until_us);
    case FILTER_AFTER:
        return set_number(value, &filter->after, "a sequence number");
    case FILTER_LIMIT:
        return set_number(value, &filter->limit, "a number of messages");
    case FILTER_REJECTED:
        filter->rejected = true;
        return NULL;
    case FILTER_END:
        break;
    }
    ENSURE(!"a filter option");
    return NULL;
}

bool filter_wants_queue(const struct filter *filter, uint32_t id, const char *user,
                        const char *vhost)
{
    return (!filter->has_queue || filter->queue == id) &&
           (!filter->user || strcmp(filter->user, user) == 0) &&
           (!filter->vhost || strcmp(filter->vhost, vhost) == 0);
}

static bool same(const char *wanted, const struct name *name)
{
    return !wanted || (name->present && strlen(wanted) == name->len &&
                       memcmp(wanted, name->bytes, name->len) == 0);
}

bool filter_wants_record(const struct filter *filter, const struct reader_record *record,
                         const struct routing *routing)
{
    return record->received_at_us >= filter->since_us &&
           record->received_at_us < filter->until_us &&
           same(filter->exchange, &routing->exchange) &&
           same(filter->routing_key, &routing->routing_key);
}
