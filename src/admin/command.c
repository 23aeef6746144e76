#include "admin/command.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/handles.h"
#include "pool/queue.h"
#include "pool/rejected.h"
#include "proxy/proxy.h"

/* A command that is under way. */
struct order {
    uint64_t handle;
    command_done done;
    uint64_t owner;
};

static unsigned http_status(enum status status)
{
    switch (status) {
    case STATUS_OK:
        return 200;
    case STATUS_NOT_FOUND:
        return 404;
    case STATUS_FULL:
        return 507;
    case STATUS_INVALID:
        return 409;
    default:
        return 500;
    }
}

/* A number in decimal, and nothing else; 0 if it is none. */
static uint64_t read_number(const char *text)
{
    char *end;
    if (text[0] < '1' || text[0] > '9' || strlen(text) > 19)
        return 0;
    uint64_t number = strtoull(text, &end, 10);
    return *end ? 0 : number;
}

static struct queue *find_queue(const struct proxy *proxy, uint64_t id)
{
    for (struct list *n = proxy->pools.queues.all.next; n != &proxy->pools.queues.all;
         n = n->next) {
        struct queue *queue = LIST_ENTRY(n, struct queue, node);
        if (queue->backlog.id == id && id > 0)
            return queue;
    }
    return NULL;
}

static void answer(command_done done, uint64_t owner, enum status status, const char *text)
{
    struct reply reply;
    reply_say(&reply, http_status(status), text);
    done(owner, &reply);
}

static void on_moved(uint64_t handle, const struct rejected_result *result)
{
    struct order *order = handles_get(handle);
    ENSURE(order);
    struct reply reply = {.status = http_status(result->status), .type = REPLY_TEXT, .owned = true};
    char *text = NULL;
    int len = result->status == STATUS_OK
                  ? asprintf(&text, "%" PRIu64 " messages\n", result->moved)
                  : asprintf(&text, "%s (%" PRIu64 " messages before that)\n", result->text,
                             result->moved);
    ENSURE(len >= 0);
    reply.text = text;
    reply.len = (size_t)len;
    order->done(order->owner, &reply);
    handles_remove(order->handle);
    free(order);
}

static uint64_t new_order(command_done done, uint64_t owner)
{
    struct order *order = calloc(1, sizeof *order);
    ENSURE(order);
    *order = (struct order){.done = done, .owner = owner};
    order->handle = handles_add(order);
    return order->handle;
}

void command_run(struct proxy *proxy, const char *path, const char *seq_text, bool all,
                 command_done done, uint64_t owner)
{
    char id[32], verb[16], rest;
    uint64_t seq = seq_text ? read_number(seq_text) : 0;
    if (sscanf(path, "/queues/%31[0-9]/%15[a-z]%c", id, verb, &rest) != 2) {
        answer(done, owner, STATUS_NOT_FOUND, "there is no such command\n");
        return;
    }
    struct queue *queue = find_queue(proxy, read_number(id));
    if (!queue) {
        answer(done, owner, STATUS_NOT_FOUND, "there is no such queue\n");
    } else if (seq_text && seq == 0) {
        answer(done, owner, STATUS_INVALID, "seq is a number from 1\n");
    } else if (strcmp(verb, "retry") == 0) {
        rejected_retry(queue, seq, on_moved, new_order(done, owner));
    } else if (strcmp(verb, "discard") == 0 && !seq && !all) {
        answer(done, owner, STATUS_INVALID, "discard which message? seq=NUMBER, or all=1\n");
    } else if (strcmp(verb, "discard") == 0) {
        rejected_discard(queue, seq, on_moved, new_order(done, owner));
    } else if (strcmp(verb, "pause") == 0 || strcmp(verb, "resume") == 0) {
        queue_pause(queue, strcmp(verb, "pause") == 0);
        answer(done, owner, STATUS_OK, queue->backlog.paused ? "paused\n" : "resumed\n");
    } else {
        answer(done, owner, STATUS_NOT_FOUND, "there is no such command\n");
    }
}
