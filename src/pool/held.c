#include "pool/held.h"

#include "pool/member.h"
#include "pool/pool_struct.h"

void held_wait(struct member *m)
{
    if (m->held || !m->pool)
        return;
    m->held = true;
    list_remove(&m->node);
    list_append(&m->pool->held, &m->node);
}

void held_let_go(struct member *m)
{
    m->held = false;
    list_remove(&m->node);
}

void held_wake(struct pool *pool)
{
    if (!list_empty(&pool->held) && list_empty(&pool->wake_node))
        list_append(&pool->pools->waking, &pool->wake_node);
}

/* One turn for each that is held now and may go on; those that must wait again queue up behind,
 * the others keep their place. */
static void wake(struct pool *pool)
{
    struct list end, here;
    list_append(&pool->held, &end);
    for (struct list *n = pool->held.next; n != &end; n = here.next, list_remove(&here)) {
        list_append(n->next, &here); /* before the one behind it */
        struct member *m = LIST_ENTRY(n, struct member, node);
        m->events->on_wake(m);
    }
    list_remove(&end);
}

void held_run(struct pools *pools)
{
    struct list *node;
    while ((node = list_first(&pools->waking)) != NULL) {
        struct pool *pool = LIST_ENTRY(node, struct pool, wake_node);
        list_remove(&pool->wake_node);
        wake(pool);
    }
}
