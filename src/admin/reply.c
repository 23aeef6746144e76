#include "admin/reply.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin/history.h"
#include "admin/host.h"
#include "admin/metrics.h"
#include "admin/queues.h"
#include "base/assert.h"
#include "proxy/proxy_struct.h"
#include "proxy/snapshot.h"

static const char page[] = {
#include "page.inc"
};

void reply_say(struct reply *reply, unsigned status, const char *text)
{
    *reply = (struct reply){status, REPLY_TEXT, text, strlen(text), false};
}

static void healthz(struct reply *reply, const struct snapshot *snapshot,
                    const struct history *history)
{
    (void)snapshot, (void)history; /* the loop turns, or nobody would answer */
    reply_say(reply, 200, "ok\n");
}

static void readyz(struct reply *reply, const struct snapshot *snapshot,
                   const struct history *history)
{
    (void)history;
    if (!snapshot->not_ready) {
        reply_say(reply, 200, "ready\n");
        return;
    }
    char *text = NULL;
    ENSURE(asprintf(&text, "not ready: %s\n", snapshot->not_ready) >= 0);
    reply_say(reply, 503, text);
    reply->owned = true;
}

static void metrics(struct reply *reply, const struct snapshot *snapshot,
                    const struct history *history)
{
    (void)history;
    *reply = (struct reply){200, METRICS_TYPE, NULL, 0, true};
    reply->text = metrics_text(snapshot, &reply->len);
}

static void queues(struct reply *reply, const struct snapshot *snapshot,
                   const struct history *history)
{
    (void)history;
    *reply = (struct reply){200, "application/json", NULL, 0, true};
    reply->text = queues_json(snapshot, &reply->len);
}

static void last_minutes(struct reply *reply, const struct snapshot *snapshot,
                         const struct history *history)
{
    (void)snapshot;
    *reply = (struct reply){200, "application/json", NULL, 0, true};
    reply->text = history_json(history, &reply->len);
}

static void status_page(struct reply *reply, const struct snapshot *snapshot,
                        const struct history *history)
{
    (void)snapshot, (void)history; /* the page fetches both */
    *reply = (struct reply){200, "text/html; charset=utf-8", page, sizeof page, false};
}

static const struct {
    const char *path;
    void (*make)(struct reply *, const struct snapshot *, const struct history *);
    bool is_public; /* tells nothing about anybody: balancers ask by any name */
} paths[] = {
    {"/", status_page, false}, {"/metrics", metrics, false}, {"/healthz", healthz, true},
    {"/readyz", readyz, true}, {"/queues", queues, false},   {"/history", last_minutes, false},
};

void reply_make(struct reply *reply, struct proxy *proxy, const struct history *history,
                const struct question *question)
{
    if (strcmp(question->method, "GET") != 0 && strcmp(question->method, "HEAD") != 0) {
        reply_say(reply, 405, "method not allowed: GET and HEAD are\n");
        return;
    }
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        if (strcmp(question->path, paths[i].path) != 0)
            continue;
        if (!paths[i].is_public && !host_is_ours(question->host, proxy->rt.config->admin.hosts)) {
            reply_say(reply, 421, "misdirected: admin.hosts in proxy.ini has not this name\n");
            return;
        }
        struct snapshot snapshot;
        snapshot_take(&snapshot, proxy);
        paths[i].make(reply, &snapshot, history);
        snapshot_free(&snapshot);
        return;
    }
    reply_say(reply, 404,
              "not found: there are /, /metrics, /healthz, /readyz, /queues and /history\n");
}

void reply_free(const struct reply *reply)
{
    if (reply->owned)
        free((void *)(uintptr_t)reply->text);
}
