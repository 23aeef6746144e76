#include "tally.h"

#include <stddef.h>

static uint64_t *counts;

void tally_into(uint64_t *into)
{
    counts = into;
}

void tally_add(enum tally what)
{
    if (counts)
        counts[what]++;
}

const char *tally_name(enum tally what)
{
    static const char *const names[TALLIES] = {
        [TALLY_DELIVERED] = "delivered",
        [TALLY_TAKEN] = "taken",
        [TALLY_SETTLED] = "settled",
        [TALLY_GOT] = "got",
        [TALLY_CANCELLED] = "cancelled",
        [TALLY_SECOND_NODE] = "connections to the second node",
        [TALLY_NODE_LOST] = "nodes lost for good",
        [TALLY_LOGIN_REFUSED] = "logins over a limit",
        [TALLY_CHANNEL_REFUSED] = "channels over a limit",
        [TALLY_OFFENCE] = "offences",
        [TALLY_OFFENDER_REFUSED] = "offenders told to go",
        [TALLY_ODD_WORDS] = "odd words",
        [TALLY_SLOW_OPEN] = "slow channels",
        [TALLY_SMALL_FRAMES] = "offers of small frames",
        [TALLY_BROKEN_OVER] = "connections broken over a message",
    };
    return names[what];
}
