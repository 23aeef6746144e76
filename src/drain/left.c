#include "drain/left.h"

#include <stdlib.h>

#include "amqp/method.h"
#include "base/assert.h"
#include "base/handles.h"
#include "drain/backlog.h"
#include "peer/send.h"
#include "upstream/upstream.h"

struct left {
    struct link link;
    uint64_t backlog; /* handle */
};

static void end(struct left *l)
{
    struct backlog *backlog = handles_get(l->backlog);
    if (backlog)
        backlog->left--;
    l->link.upstream->stuck--;
    upstream_detach(&l->link);
    free(l);
}

static void on_frame(struct link *link, struct slab *slab, const struct frame *frame)
{
    (void)slab;
    if (frame->type != FRAME_METHOD)
        return;
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (method == AMQP_CHANNEL_CLOSE_METHOD) /* they crossed: its close-ok is still to come */
        wire_send_plain(&link->upstream->stream, link->channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
    else if (method == AMQP_CHANNEL_CLOSE_OK_METHOD)
        end(LIST_ENTRY(link, struct left, link));
}

static void on_lost(struct link *link)
{
    end(LIST_ENTRY(link, struct left, link));
}

static const struct link_handler handler = {.on_frame = on_frame, .on_lost = on_lost};

void left_take(struct backlog *backlog, struct link *link)
{
    struct left *l = calloc(1, sizeof *l);
    ENSURE(l);
    l->link.handler = &handler;
    l->backlog = backlog->handle;
    backlog->left++;
    upstream_hand_over(link, &l->link);
    l->link.upstream->stuck++;
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("left")};
    wire_send(&l->link.upstream->stream, l->link.channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
}
