#include "session/refusal.h"

#include <stdio.h>

#include "session/channel.h"
#include "session/client.h"

void refusal_set(struct refusal *refusal, enum refused whom, uint16_t code, const char *text,
                 amqp_method_number_t cause)
{
    refusal->whom = whom;
    refusal->code = code;
    refusal->cause = cause;
    snprintf(refusal->text, sizeof refusal->text, "%s", text);
}

void refusal_say(const struct refusal *refusal, struct channel *ch)
{
    switch (refusal->whom) {
    case REFUSED_CHANNEL:
        channel_refuse(ch, refusal->code, refusal->text, refusal->cause);
        return;
    case REFUSED_CLIENT:
        client_refuse(ch->client, refusal->code, refusal->text, refusal->cause);
        return;
    case REFUSED_LEAVING:
        client_leave(ch->client, refusal->code, refusal->text, refusal->cause);
        return;
    }
}
