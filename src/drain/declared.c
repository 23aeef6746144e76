#include "drain/declared.h"

#include <xxhash.h>

uint64_t declared_hash(const uint8_t *method, size_t len)
{
    uint64_t hash = XXH3_64bits(method, len);
    return hash ? hash : 1;
}

bool declared_has(const struct declared *d, uint64_t hash)
{
    return number_map_find(&d->hashes, hash) != NULL;
}

void declared_add(struct declared *d, uint64_t hash)
{
    number_map_put(&d->hashes, hash);
}

void declared_remove(struct declared *d, uint64_t hash)
{
    if (!declared_has(d, hash))
        return;
    number_map_remove(&d->hashes, hash);
    if (d->hashes.used == 0)
        declared_clear(d);
}

void declared_clear(struct declared *d)
{
    number_map_clear(&d->hashes);
}
