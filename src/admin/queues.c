#include "admin/queues.h"

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "json/escape.h"

/* A string, or {"base64": ...} if it is not UTF-8, as amqpbuf-inspect has it. */
static json_t *name(const char *bytes)
{
    json_t *text = json_string(bytes);
    if (text)
        return text;
    size_t len = strlen(bytes); /* a user's or vhost's: below 64 KiB */
    char *coded = malloc((len + 2) / 3 * 4 + 1);
    ENSURE(coded);
    EVP_EncodeBlock((unsigned char *)coded, (const unsigned char *)bytes, (int)len);
    json_t *json = json_pack("{s:s}", "base64", coded);
    free(coded);
    return json;
}

/* A sentence for a person; RabbitMQ's may have any bytes, and end inside a character. */
static json_t *sentence_or_null(const char *text)
{
    if (!text)
        return json_null();
    json_t *json = json_string(text);
    if (json)
        return json;
    char *escaped = escape_text(text, strlen(text));
    json = json_string(escaped);
    free(escaped);
    return json;
}

/* RFC 3339. */
static json_t *moment_or_null(uint64_t at_us)
{
    if (at_us == 0)
        return json_null();
    time_t at_s = (time_t)(at_us / 1000000);
    struct tm date;
    char day[64];
    if (!gmtime_r(&at_s, &date) || strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &date) == 0)
        return json_integer((json_int_t)at_us);
    return json_sprintf("%s.%06uZ", day, (unsigned)(at_us % 1000000));
}

/* 0 is no id and no sequence number. */
static json_t *number_or_null(uint64_t number)
{
    return number != 0 ? json_integer((json_int_t)number) : json_null();
}

static json_t *json_queue(const struct snapshot_queue *queue)
{
    const struct queue_gauges *spool = &queue->spool;
    return json_pack(
        "{s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:o, s:o, s:I, s:s, s:b, s:o, s:I, s:I, s:f}", "id",
        number_or_null(spool->id), "user", name(queue->user), "vhost", name(queue->vhost),
        "messages", (json_int_t)spool->messages, "bytes", (json_int_t)spool->bytes, "first_seq",
        number_or_null(spool->first_seq), "last_seq", number_or_null(spool->last_seq), "oldest_at",
        moment_or_null(spool->oldest_at_us), "newest_at", moment_or_null(spool->newest_at_us),
        "rejected", (json_int_t)spool->rejected, "state", snapshot_state_names[queue->state],
        "paused", queue->paused, "reason", sentence_or_null(queue->reason), "clients",
        (json_int_t)queue->clients, "drained", (json_int_t)queue->drained, "drain_rate",
        round(queue->drain_rate * 10) / 10);
}

char *queues_json(const struct snapshot *snapshot, size_t *len)
{
    json_t *queues = json_array();
    for (uint32_t i = 0; i < snapshot->queue_count; i++)
        json_array_append_new(queues, json_queue(&snapshot->queues[i]));
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    const struct counters *counters = &snapshot->counters;
    json_t *all = json_pack(
        "{s:o, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:o, s:s}", "queues", queues, "bytes_used",
        (json_int_t)snapshot->spool.used_bytes, "bytes_max", (json_int_t)snapshot->spool.max_bytes,
        "messages_max", (json_int_t)snapshot->queue_max, "now", moment_or_null(now_us), "clients",
        (json_int_t)counters->clients, "upstreams", (json_int_t)counters->upstreams, "forwarded",
        (json_int_t)counters->forwarded, "not_ready", sentence_or_null(snapshot->not_ready),
        "version", AMQPBUF_VERSION);
    ENSURE(all);
    char *text = json_dumps(all, JSON_COMPACT);
    ENSURE(text);
    json_decref(all);
    *len = strlen(text);
    return text;
}
