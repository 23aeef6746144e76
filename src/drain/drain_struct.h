#pragma once

/* What the files of a drain share: drain.c (its channel's life), reading.c and sending.c (from the
 * spool to RabbitMQ), verdict.c (what RabbitMQ says of it), removal.c (out of the spool), apart.c
 * (destinations served apart), places.c (the window). Theirs alone. Arrows go
 *
 *     drain > reading > sending > verdict > { removal, apart } > places
 */

#include <stdbool.h>
#include <stdint.h>

#include "drain/allowance.h"
#include "drain/backlog.h"
#include "drain/batch.h"
#include "drain/in_flight.h"
#include "drain/marks.h"
#include "drain/newest.h"
#include "drain/probe.h"
#include "drain/returned.h"
#include "spooler/framing.h"
#include "upstream/upstream.h"

enum drain_state {
    DRAIN_OPENING,
    DRAIN_SELECTING,
    DRAIN_RUNNING,
    DRAIN_RENEWING, /* nothing more is sent; once all is answered, a new channel */
    DRAIN_CLOSING,
    DRAIN_DELETING, /* closed; what RabbitMQ has taken is being deleted */
    DRAIN_RESTING,  /* and then RabbitMQ is given time, after a failure of its own */
};

struct drain {
    struct link link;
    struct backlog *backlog;
    uint64_t handle;
    void (*go_on)(struct drain *); /* a job of the spool has ended: may end the drain */
    enum drain_state state;
    uint64_t deadline_ms; /* of the answer that is awaited; 0: none */
    bool confirms;
    bool is_apart; /* shares its connection with nobody, or there can be no such connection */
    bool reading;
    bool has_failed;              /* the disk, at the last read */
    bool more;                    /* came since the read that is under way was asked for */
    bool at_end;                  /* the last read saw the end of the queue */
    bool barrier;                 /* something is out, or next, that is sent alone */
    bool nacked;                  /* RabbitMQ has nacked on this channel */
    uint64_t read_after;          /* sequence number of the last record of all but those aside */
    uint64_t pass;                /* doubts.pass of its queue when it began at the first record */
    uint64_t skipped;             /* records of doubtful destinations that were read since */
    struct probe probe;           /* of a channel that seems stuck */
    struct marks marks;           /* what RabbitMQ has got to on this channel */
    uint64_t last_tag, heard_tag; /* that was sent; the highest that RabbitMQ has answered for */
    uint64_t epoch; /* which opening of the channel: what was read for an older one is stale */
    uint64_t drained, rejected, started_ms;
    uint64_t told; /* the declaration of which the log has said that it is not answered */
    struct allowance allowance; /* of drain.rate */

    struct in_flight sent;
    struct batch batch;
    struct newest newest;     /* is whole only while `at_end`, or while it holds what came since */
    struct returned returned; /* the basic.return that is arriving */
};

static inline struct stream *drain_stream(struct drain *d)
{
    return &d->link.upstream->stream;
}

static inline struct framing drain_framing(const struct drain *d)
{
    return (struct framing){
        .channel = d->link.channel,
        .frame_max = d->link.upstream->frame_max,
        .mandatory = d->confirms,
    };
}
