#include "drain/batch.h"

#include <stdlib.h>

#include "base/assert.h"
#include "base/slab.h"

void batch_take(struct batch *b, struct job *read)
{
    ENSURE(!b->records);
    *b = (struct batch){
        .records = read->read.records,
        .slab = read->read.slab,
        .count = read->read.count,
        .reached = read->read.reached,
        .only = read->read.only,
        .scanned = read->read.only && read->read.at_end ? read->read.until : 0,
    };
    read->read.records = NULL;
    read->read.slab = NULL;
}

void batch_drop(struct batch *b)
{
    if (b->slab)
        slab_unref(b->slab);
    free(b->records);
    *b = (struct batch){0};
}

void batch_drop_of(struct batch *b, uint64_t destination)
{
    if (b->only == destination)
        batch_drop(b);
}
