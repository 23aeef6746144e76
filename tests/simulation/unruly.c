#include "unruly.h"

#include <string.h>

#include "amqp/frame.h"
#include "amqp/method.h"
#include "amqp/wire.h"

enum { CONTENT_HEADER_BYTES = 14, CLASS_BASIC = 60, UNKNOWN_CLASS = 99, STRANGE_CHANNEL = 77 };

static void say_frame(struct talker *t, uint8_t type, uint16_t channel, const void *payload,
                      uint32_t len, uint8_t end)
{
    uint8_t head[FRAME_HEAD_BYTES];
    frame_put_head(head, type, channel, len);
    talker_say_bytes(t, head, sizeof head);
    talker_say_bytes(t, payload, len);
    talker_say_bytes(t, &end, 1);
}

static void say_publish(struct talker *t, uint16_t channel, bool immediate)
{
    amqp_basic_publish_t m = {
        .exchange = bytes_of(""), .routing_key = bytes_of("q0"), .immediate = immediate};
    talker_say(t, channel, AMQP_BASIC_PUBLISH_METHOD, &m);
}

static void say_header(struct talker *t, uint16_t channel, uint64_t size, uint16_t flags)
{
    uint8_t header[CONTENT_HEADER_BYTES] = {0};
    wire_put16(header, CLASS_BASIC);
    wire_put64(header + 4, size);
    wire_put16(header + 12, flags);
    say_frame(t, FRAME_HEADER, channel, header, sizeof header, FRAME_END);
}

static const char *say_bytes(struct talker *t, struct prng *p, uint16_t channel, uint32_t frame_max)
{
    static const uint8_t zeros[128];
    uint8_t head[FRAME_HEAD_BYTES];
    switch (prng_below(p, 4)) {
    case 0:
        for (uint64_t n = prng_between(p, 1, 40); n > 0; n--)
            talker_say_bytes(t, &(uint8_t){(uint8_t)prng_next(p)}, 1);
        return "any bytes";
    case 1:
        say_frame(t, FRAME_METHOD, channel, zeros, 8, 0);
        return "a frame without an end";
    case 2:
        frame_put_head(head, FRAME_BODY, channel, frame_max + (uint32_t)prng_below(p, 1000000));
        talker_say_bytes(t, head, sizeof head);
        return "a frame that is too large";
    default:
        frame_put_head(head, FRAME_METHOD, channel, 1000);
        talker_say_bytes(t, head, sizeof head);
        talker_say_bytes(t, zeros, sizeof zeros);
        return "a piece of a frame";
    }
}

static const char *say_content(struct talker *t, struct prng *p, uint16_t channel)
{
    static const uint8_t body[64];
    enum { HAS_HEADERS = 0x2000 };
    switch (prng_below(p, 6)) {
    case 0:
        say_header(t, channel, 10, 0);
        return "a header of nothing";
    case 1:
        say_frame(t, FRAME_BODY, channel, body, sizeof body, FRAME_END);
        return "a body of nothing";
    case 2:
        say_publish(t, channel, false);
        talker_say_plain(t, channel, AMQP_CONFIRM_SELECT_METHOD);
        return "a method inside of a message";
    case 3:
        say_publish(t, channel, false);
        say_header(t, channel, 10, 0);
        say_frame(t, FRAME_BODY, channel, body, sizeof body, FRAME_END);
        return "a body that is too long";
    case 4:
        say_publish(t, channel, false);
        say_header(t, channel, 10, HAS_HEADERS);
        say_frame(t, FRAME_BODY, channel, body, 10, FRAME_END);
        return "a header that is cut";
    default:
        say_publish(t, channel, false);
        say_header(t, channel, UINT64_C(1) << (10 + prng_below(p, 50)), 0);
        say_frame(t, FRAME_BODY, channel, body, sizeof body, FRAME_END);
        return "a message that never ends";
    }
}

static const char *say_method(struct talker *t, struct prng *p, uint16_t channel)
{
    uint8_t unknown[8] = {0};
    amqp_connection_open_t open = {.virtual_host = bytes_of("/")};
    amqp_channel_close_t close = {.reply_code = 200, .reply_text = bytes_of("bye")};
    switch (prng_below(p, 6)) {
    case 0:
        say_publish(t, STRANGE_CHANNEL, false);
        return "a publish on a channel that is not open";
    case 1:
        talker_say_plain(t, channel, AMQP_CHANNEL_OPEN_METHOD);
        return "a channel opened twice";
    case 2:
        say_publish(t, channel, true);
        say_header(t, channel, sizeof unknown, 0);
        say_frame(t, FRAME_BODY, channel, unknown, sizeof unknown, FRAME_END);
        return "an immediate publish";
    case 3:
        wire_put16(unknown, UNKNOWN_CLASS);
        say_frame(t, FRAME_METHOD, channel, unknown, sizeof unknown, FRAME_END);
        return "an unknown method";
    case 4:
        talker_say(t, 0, AMQP_CONNECTION_OPEN_METHOD, &open);
        return "a second connection.open";
    default:
        talker_say(t, channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
        talker_say_plain(t, channel, AMQP_CHANNEL_CLOSE_OK_METHOD);
        talker_say(t, channel, AMQP_CHANNEL_CLOSE_METHOD, &close);
        say_publish(t, channel, false);
        return "closes that cross, and a publish";
    }
}

const char *unruly_say(struct talker *t, struct prng *p, uint16_t channel, uint32_t frame_max)
{
    switch (prng_below(p, 3)) {
    case 0:
        return say_bytes(t, p, channel, frame_max);
    case 1:
        return say_content(t, p, channel);
    default:
        return say_method(t, p, channel);
    }
}
