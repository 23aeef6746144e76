#include "pool/backoff.h"

uint64_t backoff_failed(struct backoff *b, uint64_t now_ms, uint64_t least_ms, uint64_t most_ms)
{
    uint64_t wait_ms = b->wait_ms ? b->wait_ms * 2 : least_ms;
    b->wait_ms = wait_ms < most_ms ? wait_ms : most_ms;
    b->until_ms = now_ms + b->wait_ms;
    return b->wait_ms;
}

bool backoff_is_over(const struct backoff *b, uint64_t now_ms)
{
    return now_ms >= b->until_ms;
}

void backoff_reset(struct backoff *b)
{
    *b = (struct backoff){0};
}

uint64_t backoff_jittered(uint64_t wait_ms, uint64_t most_ms, uint64_t random)
{
    uint64_t jittered = wait_ms - wait_ms / 4 + random % (wait_ms / 2 + 1);
    return jittered < most_ms ? jittered : most_ms;
}
