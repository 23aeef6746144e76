#include "pool/member.h"

#include <stdlib.h>

#include "pool/secrets.h"

void member_init(struct member *m, struct logins *logins, const struct member_events *events,
                 uint64_t id, const char *peer)
{
    *m = (struct member){.logins = logins, .events = events, .id = id, .peer = peer};
    list_init(&m->node);
    list_init(&m->pool_node);
}

void member_deinit(struct member *m)
{
    member_forget_password(m);
    member_forget_secret(m);
    identity_clear(&m->identity);
    free(m->user);
    free(m->vhost);
}

void member_forget_password(struct member *m)
{
    secret_wipe(&m->password);
}

void member_forget_secret(struct member *m)
{
    secret_wipe(&m->new_secret);
}
