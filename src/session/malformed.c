#include "session/malformed.h"

#include <stdio.h>

#include "amqp/method.h"
#include "session/client.h"

/* What rabbit_command_assembler takes apart before anything else. */
enum { METHOD_HEAD_BYTES = 4, CONTENT_HEAD_BYTES = 12 };

static bool is_short(const struct frame *frame)
{
    return (frame->type == FRAME_METHOD && frame->payload_len < METHOD_HEAD_BYTES) ||
           (frame->type == FRAME_HEADER && frame->payload_len < CONTENT_HEAD_BYTES);
}

static void refuse(struct client *c, enum method_fault fault, amqp_method_number_t method)
{
    bool cut = fault == METHOD_CUT;
    if (fault == METHOD_BAD_TEXT) {
        client_refuse(c, 501, "FRAME_ERROR - malformed UTF-8 in a short string", 0);
        return;
    }
    char text[128];
    snprintf(text, sizeof text, "%s %s",
             cut ? "FRAME_ERROR - cannot decode" : "SYNTAX_ERROR - malformed table in",
             method_name(method));
    client_refuse(c, cut ? 501 : 502, text, method);
}

bool malformed_refuse(struct client *c, const struct frame *frame)
{
    if (is_short(frame)) {
        client_refuse(c, 501, "FRAME_ERROR - a payload too short for what it begins with", 0);
        return true;
    }
    amqp_method_number_t method = method_number(frame->payload, frame->payload_len);
    if (frame->type != FRAME_METHOD || method == AMQP_BASIC_PUBLISH_METHOD)
        return false;
    enum method_fault fault = method_find_fault(frame->payload, frame->payload_len);
    if (fault != METHOD_FINE)
        refuse(c, fault, method);
    return fault != METHOD_FINE;
}
