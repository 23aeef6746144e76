#include "prng.h"

/* SplitMix64 (Steele, Lea, Flood, 2014): any state is a good one. */
uint64_t prng_next(struct prng *p)
{
    uint64_t z = p->state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

struct prng prng_of(uint64_t seed, uint64_t stream)
{
    struct prng p = {seed * 0xd1342543de82ef95 + stream};
    p.state = prng_next(&p) ^ stream;
    prng_next(&p);
    return p;
}

uint64_t prng_below(struct prng *p, uint64_t limit)
{
    return prng_next(p) % limit;
}

uint64_t prng_between(struct prng *p, uint64_t least, uint64_t most)
{
    return least + prng_below(p, most - least + 1);
}

bool prng_percent(struct prng *p, unsigned percent)
{
    return prng_below(p, 100) < percent;
}
