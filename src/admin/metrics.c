#include "admin/metrics.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void plain(FILE *out, const char *name, const char *type, const char *help, uint64_t value)
{
    head(out, name, type, help);
    fprintf(out, "%s %" PRIu64 "\n", name, value);
}

/* U+FFFD, the replacement character. */
#define ODD "\xEF\xBF\xBD"

/* How many bytes have to be spelled out here: one that is not UTF-8, or those of a U+FFFD. */
static size_t odd_bytes(const char *at, bool is_utf8)
{
    if (!is_utf8)
        return (unsigned char)*at >= 0x80;
    return strncmp(at, ODD, strlen(ODD)) == 0 ? strlen(ODD) : 0;
}

/* Names are any bytes, labels are UTF-8. Two names must never become one label, because Prometheus
 * refuses the whole page over a series that is there twice: odd bytes are spelled out, each behind
 * a U+FFFD, which stands for nothing else. */
static void label_value(FILE *out, const char *name)
{
    json_t *text = json_string(name); /* NULL: it is not UTF-8 */
    for (const char *at = name; *at; at++) {
        size_t odd = odd_bytes(at, text != NULL);
        for (size_t i = 0; i < odd; i++)
            fprintf(out, ODD "%02x", (unsigned char)at[i]);
        if (odd > 0)
            at += odd - 1;
        else if (*at == '\\' || *at == '"')
            fprintf(out, "\\%c", *at);
        else if (*at == '\n')
            fputs("\\n", out);
        else
            fputc(*at, out);
    }
    json_decref(text);
}

static void labels(FILE *out, const char *metric, const struct snapshot_queue *queue)
{
    fprintf(out, "%s{user=\"", metric);
    label_value(out, queue->user);
    fputs("\",vhost=\"", out);
    label_value(out, queue->vhost);
    fputc('"', out);
}

/* ---- queues ---- */

static double messages(const struct snapshot_queue *queue)
{
    return (double)queue->spool.messages;
}

static double bytes(const struct snapshot_queue *queue)
{
    return (double)queue->spool.bytes;
}

static double rejected(const struct snapshot_queue *queue)
{
    return (double)queue->spool.rejected;
}

static double oldest_age_s(const struct snapshot_queue *queue)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double at_s = (double)queue->spool.oldest_at_us / 1e6;
    double age_s = (double)now.tv_sec + (double)now.tv_nsec / 1e9 - at_s;
    return queue->spool.oldest_at_us != 0 && age_s > 0 ? age_s : 0;
}

static double paused(const struct snapshot_queue *queue)
{
    return queue->paused;
}

static const struct {
    const char *name, *help;
    double (*value)(const struct snapshot_queue *);
} gauges[] = {
    {"amqpbuf_queue_messages", "Messages that wait in the spool.", messages},
    {"amqpbuf_queue_bytes", "Bytes of the messages that wait: method, content header and body.",
     bytes},
    {"amqpbuf_queue_rejected_messages",
     "Messages that RabbitMQ refused, kept until a person removes them.", rejected},
    {"amqpbuf_queue_oldest_age_seconds", "How long the oldest message has waited; 0 if none does.",
     oldest_age_s},
    {"amqpbuf_queue_paused", "1 if a person has paused the drain, whatever the state.", paused},
};

static void put_states(FILE *out, const struct snapshot *snapshot)
{
    static const char name[] = "amqpbuf_queue_state";
    head(out, name, "gauge", "1 for the state that the queue is in, 0 for the others.");
    for (uint32_t i = 0; i < snapshot->queue_count; i++) {
        for (unsigned state = 0; state < SNAPSHOT_STATES; state++) {
            labels(out, name, &snapshot->queues[i]);
            fprintf(out, ",state=\"%s\"} %d\n", snapshot_state_names[state],
                    snapshot->queues[i].state == state);
        }
    }
}

static void put_queues(FILE *out, const struct snapshot *snapshot)
{
    for (size_t g = 0; g < sizeof gauges / sizeof gauges[0]; g++) {
        head(out, gauges[g].name, "gauge", gauges[g].help);
        for (uint32_t i = 0; i < snapshot->queue_count; i++) {
            labels(out, gauges[g].name, &snapshot->queues[i]);
            fprintf(out, "} %.17g\n", gauges[g].value(&snapshot->queues[i]));
        }
    }
    put_states(out, snapshot);
    plain(out, "amqpbuf_queue_max_messages", "gauge",
          "Most messages that one queue holds; 0 if buffering is off.", snapshot->queue_max);
}

/* ---- all of the proxy ---- */

static void put_rejected(FILE *out, const struct counters *counters)
{
    static const char name[] = "amqpbuf_messages_rejected_total";
    head(out, name, "counter", "Messages that RabbitMQ refused, by its reply code; 0 for a nack.");
    for (unsigned i = 0; i < counters->rejected_codes; i++) {
        const struct counted_code *counted = &counters->rejected[i];
        if (counted->code == COUNTED_CODE_OTHER)
            fprintf(out, "%s{code=\"other\"} %" PRIu64 "\n", name, counted->count);
        else
            fprintf(out, "%s{code=\"%u\"} %" PRIu64 "\n", name, counted->code, counted->count);
    }
}

static void put_counters(FILE *out, const struct counters *counters)
{
    plain(out, "amqpbuf_client_connections", "gauge", "Connections from publishers and consumers.",
          counters->clients);
    plain(out, "amqpbuf_upstream_connections", "gauge", "Connections to RabbitMQ.",
          counters->upstreams);
    plain(out, "amqpbuf_messages_forwarded_total", "counter",
          "Messages passed through to RabbitMQ.", counters->forwarded);
    plain(out, "amqpbuf_messages_spooled_total", "counter", "Messages committed to the spool.",
          counters->spooled);
    plain(out, "amqpbuf_messages_drained_total", "counter",
          "Messages that RabbitMQ took out of the spool.", counters->drained);
    plain(out, "amqpbuf_messages_unroutable_total", "counter",
          "Messages out of the spool that no queue was bound for, and that were dropped.",
          counters->unroutable);
    put_rejected(out, counters);
    plain(out, "amqpbuf_rejected_exported_total", "counter",
          "Messages that went from a rejected list to rejected.jsonl, because it was full or they "
          "were too old.",
          counters->rejected_exported);
    plain(out, "amqpbuf_rejected_dropped_total", "counter",
          "The same, dropped (pool.rejected_overflow).", counters->rejected_dropped);
    plain(out, "amqpbuf_queue_full_total", "counter", "Publishes refused because a queue was full.",
          counters->queue_full);
    plain(out, "amqpbuf_login_refused_total", "counter", "Logins of clients that were refused.",
          counters->login_refused);
}

static void put_commits(FILE *out, const struct spool_view *spool)
{
    static const char name[] = "amqpbuf_spool_commit_seconds";
    uint64_t count = 0;
    head(out, name, "histogram", "How long commits to the spool took, with fdatasync.");
    for (unsigned i = 0; i < COMMIT_BUCKETS; i++) {
        count += spool->commits[i];
        fprintf(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name, commit_bounds_s[i], count);
    }
    count += spool->commits[COMMIT_BUCKETS];
    fprintf(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, count);
    fprintf(out, "%s_sum %.9g\n%s_count %" PRIu64 "\n", name, spool->commit_sum_s, name, count);
}

char *metrics_text(const struct snapshot *snapshot, size_t *len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    ENSURE(out);
    head(out, "amqpbuf_build_info", "gauge", "1, with the version that runs.");
    fputs("amqpbuf_build_info{version=\"" AMQPBUF_VERSION "\"} 1\n", out);
    put_counters(out, &snapshot->counters);
    plain(out, "amqpbuf_message_memory_bytes", "gauge",
          "Memory of messages on their way, and of what clients have left unfinished.",
          snapshot->memory_bytes);
    plain(out, "amqpbuf_message_memory_max_bytes", "gauge", "The limit to that, listen.max_memory.",
          snapshot->memory_max);
    put_queues(out, snapshot);
    plain(out, "amqpbuf_spool_used_bytes", "gauge", "Bytes of the spool in use.",
          snapshot->spool.used_bytes);
    plain(out, "amqpbuf_spool_max_bytes", "gauge", "Most bytes that the spool may use.",
          snapshot->spool.max_bytes);
    plain(out, "amqpbuf_spool_held_bytes", "gauge",
          "Bytes that the spool has freed and cannot use again, because another process that reads "
          "an old state of it stands still.",
          snapshot->spool.held_bytes);
    head(out, "amqpbuf_spool_busy_seconds", "gauge",
         "How long the spool's thread has been at what it does; grows while the disk hangs.");
    fprintf(out, "amqpbuf_spool_busy_seconds %.3f\n", (double)snapshot->spooler_busy_ms / 1000);
    put_commits(out, &snapshot->spool);
    ENSURE(fclose(out) == 0);
    return text;
}
