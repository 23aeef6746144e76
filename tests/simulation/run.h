#pragma once

/* One run of a seed: from an empty spool to the last check. A broken promise ends the process
 * (history_fail). */

#include <stdbool.h>
#include <stdint.h>

#include "ledger.h"
#include "plan.h"

struct run_result {
    uint64_t hash; /* of its history */
    uint64_t events;
    unsigned ends; /* of RabbitMQ and the proxy */
    struct ledger_counts messages;
};

/* `spool` is a folder of its own, which is emptied first. */
struct run_result run_seed(uint64_t seed, const char *spool, const bool left_out[PLAN_MAX],
                           bool prints);
