#include "admin/history.h"

#include <jansson.h>
#include <string.h>

#include "base/assert.h"

void history_add(struct history *h, const struct snapshot *s)
{
    struct history_sample sample = {
        .forwarded = s->counters.forwarded,
        .spooled = s->counters.spooled,
        .drained = s->counters.drained,
        .used_bytes = s->spool.used_bytes,
    };
    for (uint32_t i = 0; i < s->spool.queue_count; i++)
        sample.waiting += s->spool.queues[i].messages;
    h->samples[(h->first + h->count) % HISTORY_SAMPLES] = sample;
    if (h->count < HISTORY_SAMPLES)
        h->count++;
    else
        h->first = (h->first + 1) % HISTORY_SAMPLES;
}

static json_t *series(const struct history *h, size_t field)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < h->count; i++) {
        const struct history_sample *sample = &h->samples[(h->first + i) % HISTORY_SAMPLES];
        uint64_t value;
        memcpy(&value, (const char *)sample + field, sizeof value);
        json_array_append_new(list, json_integer((json_int_t)value));
    }
    return list;
}

char *history_json(const struct history *h, size_t *len)
{
    json_t *all = json_pack("{s:i, s:o, s:o, s:o, s:o, s:o}", "step_ms", HISTORY_STEP_MS, "waiting",
                            series(h, offsetof(struct history_sample, waiting)), "forwarded",
                            series(h, offsetof(struct history_sample, forwarded)), "spooled",
                            series(h, offsetof(struct history_sample, spooled)), "drained",
                            series(h, offsetof(struct history_sample, drained)), "bytes_used",
                            series(h, offsetof(struct history_sample, used_bytes)));
    ENSURE(all);
    char *text = json_dumps(all, JSON_COMPACT);
    ENSURE(text);
    json_decref(all);
    *len = strlen(text);
    return text;
}
