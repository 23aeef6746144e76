#include "drain/allowance.h"

enum { RECORD = 1000 };

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void allowance_refill(struct allowance *a, uint32_t per_second, uint64_t now_ms)
{
    uint64_t passed_ms = a->refilled_ms ? smaller(now_ms - a->refilled_ms, 1000) : 0;
    a->thousandths =
        smaller(a->thousandths + per_second * passed_ms, (uint64_t)per_second * RECORD);
    a->refilled_ms = now_ms;
}

uint32_t allowance_left(const struct allowance *a)
{
    return (uint32_t)(a->thousandths / RECORD);
}

void allowance_spend(struct allowance *a, uint32_t records)
{
    a->thousandths -= smaller(a->thousandths, (uint64_t)records * RECORD);
}
