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
static uint64_t read_number(const char *text, size_t len)
{
    enum { DIGITS_MAX = 19 }; /* always fit */
    uint64_t number = 0;
    if (len == 0 || len > DIGITS_MAX || text[0] == '0')
        return 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return 0;
        number = number * 10 + (uint64_t)(text[i] - '0');
    }
    return number;
}

static bool is_text(const char *text, const char *bytes, size_t len)
{
    return strlen(text) == len && memcmp(text, bytes, len) == 0;
}

void command_take(struct command_parameters *parameters, const char *key, size_t key_len,
                  const char *value, size_t value_len)
{
    bool is_taken = parameters->seq || parameters->all;
    if (is_text("seq", key, key_len) && !is_taken) {
        parameters->seq = value ? read_number(value, value_len) : 0;
        if (!parameters->seq)
            parameters->mistake = "seq is a number from 1\n";
    } else if (is_text("all", key, key_len) && !is_taken) {
        parameters->all = value && is_text("1", value, value_len);
        if (!parameters->all)
            parameters->mistake = "all is 1\n";
    } else {
        parameters->mistake = "expected seq=NUMBER or all=1, once, and nothing else\n";
    }
}

/* What this command does not want of them; NULL: they are as it wants them. */
static const char *mistake_of(const char *verb, const struct command_parameters *parameters)
{
    bool is_discard = strcmp(verb, "discard") == 0, is_retry = strcmp(verb, "retry") == 0;
    if (parameters->mistake)
        return parameters->mistake;
    if (is_discard && !parameters->seq && !parameters->all)
        return "discard which message? seq=NUMBER, or all=1\n";
    if (!is_discard && parameters->all)
        return "all=1 is for discard\n";
    if (!is_discard && !is_retry && parameters->seq)
        return "seq is for retry and discard\n";
    return NULL;
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

static void answer(command_done done, uint64_t owner, unsigned status, const char *text)
{
    struct reply reply;
    reply_say(&reply, status, text);
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

void command_run(struct proxy *proxy, const char *path, const struct command_parameters *parameters,
                 command_done done, uint64_t owner)
{
    char id[32], verb[16], rest;
    if (sscanf(path, "/queues/%31[0-9]/%15[a-z]%c", id, verb, &rest) != 2) {
        answer(done, owner, 404, "there is no such command\n");
        return;
    }
    struct queue *queue = find_queue(proxy, read_number(id, strlen(id)));
    const char *mistake = mistake_of(verb, parameters);
    if (mistake) {
        answer(done, owner, 400, mistake);
    } else if (!queue) {
        answer(done, owner, 404, "there is no such queue\n");
    } else if (strcmp(verb, "retry") == 0) {
        rejected_retry(queue, parameters->seq, on_moved, new_order(done, owner));
    } else if (strcmp(verb, "discard") == 0) {
        rejected_discard(queue, parameters->seq, on_moved, new_order(done, owner));
    } else if (strcmp(verb, "pause") == 0 || strcmp(verb, "resume") == 0) {
        queue_pause(queue, strcmp(verb, "pause") == 0);
        answer(done, owner, 200, queue->backlog.paused ? "paused\n" : "resumed\n");
    } else {
        answer(done, owner, 404, "there is no such command\n");
    }
}
