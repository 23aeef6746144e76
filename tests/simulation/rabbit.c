#include "rabbit.h"

#include <string.h>

#include "base/assert.h"
#include "history.h"
#include "link.h"
#include "rabbit_inside.h"
#include "tally.h"

enum { SMALL_FRAME = 2048 };

struct rabbit rabbit;

static void choose_limits(void)
{
    static const uint16_t channels[] = {16, 64, 2047};
    static const uint32_t frames[] = {4096, 8192, 131072};
    rabbit.channel_max = channels[prng_below(&rabbit.prng, 3)];
    rabbit.frame_max = frames[prng_below(&rabbit.prng, 3)];
    if (rabbit.has_small_frames)
        rabbit.frame_max = SMALL_FRAME;
}

void rabbit_begin(uint64_t seed)
{
    rabbit =
        (struct rabbit){.prng = prng_of(seed, 4), .is_up = true, .confirm_us = 5000, .seed = seed};
    rabbit.node_count = 1;
    choose_limits();
}

static void lose_all(bool resets)
{
    while (rabbit.connections)
        rabbit_connection_lose(rabbit.connections, resets);
}

void rabbit_end(void)
{
    lose_all(false);
}

bool rabbit_is_up(void)
{
    return rabbit.is_up;
}

unsigned rabbit_ends(void)
{
    return rabbit.ends;
}

unsigned rabbit_connections(void)
{
    return rabbit.count;
}

struct end *rabbit_dial(int port, bool *silent)
{
    struct end *proxy, *own;
    unsigned node = ((unsigned)port - RABBIT_PORT) / RABBIT_PORT_STEP;
    ENSURE(node < rabbit.node_count);
    *silent = rabbit.nodes[node].is_silent;
    if (!rabbit.is_up || rabbit.nodes[node].is_down || *silent)
        return NULL;
    struct prng prng = prng_of(prng_next(&rabbit.prng), 5);
    struct link_shape shape = {
        .delay_us = (uint32_t)prng_between(&prng, 1, prng_percent(&prng, 20) ? 40000 : 1000),
        .buffer_bytes = (uint32_t)prng_between(&prng, 4096, 262144)};
    link_new(&proxy, &own, shape, prng);
    rabbit_connection_new(own, node);
    if (node > 0)
        tally_add(TALLY_SECOND_NODE);
    return proxy;
}

/* ---- what befalls all of it ---- */

void rabbit_kill(void)
{
    rabbit.ends++;
    history_note("rabbit: killed");
    rabbit.is_up = rabbit.is_frozen = rabbit.is_alarmed = false;
    lose_all(true);
}

void rabbit_stop(void)
{
    rabbit.ends++;
    history_note("rabbit: stops");
    rabbit.is_up = rabbit.is_alarmed = false;
    rabbit_freeze(false);
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        if (!c->is_closing)
            rabbit_connection_close(c, 320,
                                    "CONNECTION_FORCED - broker forced connection closure with "
                                    "reason 'shutdown'");
}

void rabbit_start(void)
{
    lose_all(true); /* who has not answered its goodbye */
    history_note("rabbit: starts");
    if (!rabbit.is_up)
        choose_limits();
    rabbit.is_up = true;
}

static void listen_all(void)
{
    struct rabbit_connection *next;
    for (struct rabbit_connection *c = rabbit.connections; c; c = next) {
        next = c->next;
        rabbit_connection_listen(c); /* may lose it */
    }
}

void rabbit_freeze(bool is_frozen)
{
    if (rabbit.is_frozen == is_frozen)
        return;
    history_note("rabbit: %s", is_frozen ? "frozen" : "goes on");
    rabbit.is_frozen = is_frozen;
    rabbit.went_on_us = agenda_now_us();
    listen_all();
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next) {
        rabbit_plan_confirms(c);
        rabbit_plan_deliveries(c);
    }
}

/* ---- its nodes ---- */

void rabbit_use_nodes(unsigned count)
{
    rabbit.node_count = count;
}

static void lose_node(unsigned node)
{
    struct rabbit_connection *next;
    for (struct rabbit_connection *c = rabbit.connections; c; c = next) {
        next = c->next;
        if (c->node == node)
            rabbit_connection_lose(c, true);
    }
}

void rabbit_node_kill(unsigned node)
{
    rabbit.ends++;
    history_note("rabbit: node %u is killed", node);
    rabbit.nodes[node].is_down = true;
    lose_node(node);
}

void rabbit_node_stop(unsigned node)
{
    rabbit.ends++;
    history_note("rabbit: node %u stops", node);
    rabbit.nodes[node].is_down = true;
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        if (c->node == node && !c->is_closing)
            rabbit_connection_close(c, 320, "CONNECTION_FORCED - node is shut down");
}

static void go_on(unsigned node)
{
    rabbit.nodes[node].is_frozen = rabbit.nodes[node].is_silent = false;
    rabbit.went_on_us = agenda_now_us();
    listen_all();
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next) {
        rabbit_plan_confirms(c);
        rabbit_plan_deliveries(c);
    }
}

void rabbit_node_start(unsigned node)
{
    if (rabbit.nodes[node].is_lost)
        return;
    history_note("rabbit: node %u is there", node);
    if (rabbit.nodes[node].is_down)
        lose_node(node); /* who has not answered its goodbye */
    rabbit.nodes[node].is_down = false;
    go_on(node);
}

void rabbit_node_freeze(unsigned node, bool silent)
{
    if (rabbit.nodes[node].is_down)
        return;
    history_note("rabbit: node %u is frozen%s", node, silent ? ", and nobody connects to it" : "");
    rabbit.nodes[node].is_frozen = true;
    rabbit.nodes[node].is_silent = silent;
    listen_all();
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next) {
        rabbit_plan_confirms(c);
        rabbit_plan_deliveries(c);
    }
}

static void forget_deliveries(unsigned node)
{
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        for (uint16_t n = 1; n <= c->highest && c->node == node; n++)
            if (c->channels[n])
                rabbit_lose_deliveries(c->channels[n], false);
}

void rabbit_node_lose(unsigned node, bool freezes)
{
    if (rabbit.node_count == 1 || rabbit.nodes[0].is_lost || rabbit.nodes[1].is_lost)
        return;
    if (freezes) {
        rabbit_node_freeze(node, true);
        forget_deliveries(node);
    } else {
        rabbit_node_kill(node);
    }
    rabbit.nodes[node].is_lost = true;
    tally_add(TALLY_NODE_LOST);
}

/* ---- its queues, and single connections ---- */

void rabbit_tell_blocked(struct rabbit_connection *c)
{
    amqp_connection_blocked_t blocked = {.reason = bytes_of("low on memory")};
    if (rabbit.is_alarmed && !c->is_told_blocked)
        talker_say(&c->talker, 0, AMQP_CONNECTION_BLOCKED_METHOD, &blocked);
    c->is_told_blocked = rabbit.is_alarmed;
}

void rabbit_alarm(bool is_on)
{
    if (rabbit.is_alarmed == is_on)
        return;
    history_note("rabbit: alarm %s", is_on ? "on" : "off");
    rabbit.is_alarmed = is_on;
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next) {
        if (!c->is_open || c->is_closing)
            continue;
        if (is_on) {
            rabbit_tell_blocked(c);
        } else {
            talker_say_plain(&c->talker, 0, AMQP_CONNECTION_UNBLOCKED_METHOD);
            c->is_told_blocked = false;
        }
    }
    listen_all();
}

void rabbit_queue(enum destination d, enum queue_mode mode)
{
    static const char *const names[] = {"confirms", "is silent", "is full"};
    ENSURE(d < DEST_QUEUES);
    if (rabbit.modes[d] == mode)
        return;
    history_note("rabbit: queue %u %s", d, names[mode]);
    rabbit.modes[d] = mode;
    for (struct rabbit_connection *c = rabbit.connections; c && mode == QUEUE_CONFIRMS; c = c->next)
        rabbit_speak_again(c, d);
}

void rabbit_cut(bool all)
{
    uint64_t which = rabbit.count ? prng_below(&rabbit.prng, rabbit.count) : 0;
    history_note("network: cuts %s", all ? "all connections to rabbit" : "a connection to rabbit");
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        if (all || which-- == 0)
            link_cut(c->talker.end);
}

void rabbit_fault(uint16_t code)
{
    uint64_t which = rabbit.count ? prng_below(&rabbit.prng, rabbit.count) : 0;
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        if (which-- == 0 && c->is_open && !c->is_closing)
            rabbit_connection_close(c, code, "INTERNAL_ERROR - \xff\xfe of its own");
}

void rabbit_speak_oddly(bool is_on)
{
    rabbit.speaks_oddly = is_on;
}

void rabbit_open_slowly(uint64_t us)
{
    history_note("rabbit: channels open in %llu us", (unsigned long long)us);
    rabbit.opens_us = us;
}

uint64_t rabbit_opens_us(void)
{
    return rabbit.opens_us;
}

void rabbit_allow_small_frames(bool is_on)
{
    history_note("rabbit: frames are %s", is_on ? "small" : "as usual");
    rabbit.has_small_frames = is_on;
    if (!rabbit.is_up)
        return; /* from its start on */
    rabbit_kill();
    rabbit_start();
}

void rabbit_break_over(enum destination d, bool is_on)
{
    ENSURE(d < DEST_QUEUES);
    history_note("rabbit: queue %u %s", d, is_on ? "breaks connections" : "breaks nothing");
    rabbit.breaks_over[d] = is_on;
}

void rabbit_delay(uint64_t us)
{
    rabbit.confirm_us = us;
}
