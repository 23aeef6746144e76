#include "drain/doubts.h"

bool doubts_hold(const struct doubts *doubts, uint64_t destination)
{
    return window_share(&doubts->owed, destination) > 0;
}

bool doubts_any(const struct doubts *doubts)
{
    return doubts->owed.under_way > 0;
}

void doubts_add(struct doubts *doubts, uint64_t destination)
{
    window_take(&doubts->owed, destination, 1);
}

bool doubts_remove(struct doubts *doubts, uint64_t destination)
{
    window_give_back(&doubts->owed, destination, 1);
    if (doubts_hold(doubts, destination))
        return false;
    doubts->pass++;
    doubts->records = doubts->appending = 0;
    return true;
}

void doubts_clear(struct doubts *doubts)
{
    window_clear(&doubts->owed);
}
