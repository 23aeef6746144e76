#pragma once

/* What a client does, one thing after the other. */

#include <stdint.h>

#include "client.h"
#include "consumer.h"
#include "ledger.h"
#include "prng.h"

enum act_kind {
    ACT_OPEN,    /* channel.open */
    ACT_CONFIRM, /* confirm.select */
    ACT_TX,      /* tx.select */
    ACT_DECLARE,
    ACT_CONSUME,
    ACT_QOS,
    ACT_BIND_TO_NOTHING, /* with no-wait: what comes of it, comes later */
    ACT_READ,            /* consume, with a tag of its own */
    ACT_TAKE,            /* wait for `count` deliveries, of all that its consumers have had */
    ACT_GET,
    ACT_SETTLE, /* all deliveries */
    ACT_CANCEL, /* the newest consumer */
    ACT_OFFEND, /* see unruly.h */
    ACT_PUBLISH,
    ACT_COMMIT,
    ACT_ROLLBACK,
    ACT_AWAIT, /* all confirms of the channel */
    ACT_PAUSE,
    ACT_CLOSE_CHANNEL,
    ACT_CLOSE,
    ACT_VANISH, /* without a close */
};

struct act {
    enum act_kind kind;
    uint16_t channel;
    enum destination destination;
    bool persistent, mandatory, no_ack, is_global;
    unsigned count;
    uint32_t size;     /* of the body, bytes */
    uint64_t pause_us; /* before it */
};

enum { SCRIPT_MAX = 160 };
/* A hasty client's limits of unsettled messages: for each consumer at least so many, and for the
 * channel so many more. */
enum { HASTY_LIMIT = 1000, HASTY_LIMITS_APART = 1000 };

struct script {
    struct act acts[SCRIPT_MAX];
    unsigned count;
    unsigned login;
    enum settling settling;
    bool is_stranger, pipelines, is_deaf_first, reads;
    bool guesses;
    bool is_hasty; /* waits for the answer to its closes alone */
    uint64_t dies_at, hears_after_us;
};

void script_write(struct script *, enum client_kind, struct prng *);
