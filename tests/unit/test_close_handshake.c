#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "peer/close_handshake.h"

enum { EVENTS = CLOSE_THEY_ANSWER + 1, STEPS = 6 };

/* What the handshake means, without its states: closes and their answers, counted. */
struct said {
    bool ours, ours_answered, theirs, theirs_answered;
};

static bool has_a_place(const struct said *s, enum close_event event)
{
    bool over =
        (s->ours || s->theirs) && s->ours == s->ours_answered && s->theirs == s->theirs_answered;
    switch (event) {
    case CLOSE_WE_ASK:
        return !over && !s->ours;
    case CLOSE_THEY_ASK: /* once ours has been answered they have forgotten the number */
        return !over && !s->ours_answered && s->theirs == s->theirs_answered;
    case CLOSE_WE_ANSWER:
        return s->theirs && !s->theirs_answered;
    case CLOSE_THEY_ANSWER:
        return s->ours && !s->ours_answered;
    }
    return false;
}

static void note(struct said *s, enum close_event event)
{
    switch (event) {
    case CLOSE_WE_ASK:
        s->ours = true;
        break;
    case CLOSE_THEY_ASK:
        s->theirs = true;
        s->theirs_answered = false;
        break;
    case CLOSE_WE_ANSWER:
        s->theirs_answered = true;
        break;
    case CLOSE_THEY_ANSWER:
        s->ours_answered = true;
        break;
    }
}

static void check(enum close_state state, const struct said *s)
{
    bool owed = s->theirs && !s->theirs_answered, awaited = s->ours && !s->ours_answered;
    assert_int_equal(close_is_owed(state), owed);
    assert_int_equal(close_is_awaited(state), awaited);
    assert_int_equal(state == CLOSE_NONE, !s->ours && !s->theirs);
    assert_int_equal(state == CLOSE_DONE, (s->ours || s->theirs) && !owed && !awaited);
}

/* Every sequence of so many events, those without a place among them. */
static void walk(enum close_state state, struct said said, unsigned left)
{
    check(state, &said);
    if (left == 0)
        return;
    for (unsigned event = 0; event < EVENTS; event++) {
        enum close_state to = state;
        struct said after = said;
        bool moves = has_a_place(&said, event);
        if (moves)
            note(&after, event);
        assert_int_equal(close_move(&to, event), moves);
        walk(to, after, left - 1);
    }
}

static void every_order(void **unused)
{
    (void)unused;
    walk(CLOSE_NONE, (struct said){0}, STEPS);
}

static void run(const enum close_event *events, size_t count, enum close_state end)
{
    enum close_state state = CLOSE_NONE;
    for (size_t i = 0; i < count; i++) {
        assert_int_not_equal(state, CLOSE_DONE);
        assert_true(close_move(&state, events[i]));
    }
    assert_int_equal(state, end);
}

#define RUN(end, ...)                                                                              \
    run((const enum close_event[]){__VA_ARGS__},                                                   \
        sizeof((const enum close_event[]){__VA_ARGS__}) / sizeof(enum close_event), end)

static void one_side_asks(void **unused)
{
    (void)unused;
    RUN(CLOSE_DONE, CLOSE_WE_ASK, CLOSE_THEY_ANSWER);
    RUN(CLOSE_DONE, CLOSE_THEY_ASK, CLOSE_WE_ANSWER);
}

static void closes_cross(void **unused)
{
    (void)unused;
    /* Theirs was sent before they saw ours, or we had something to say before we answered. */
    RUN(CLOSE_DONE, CLOSE_WE_ASK, CLOSE_THEY_ASK, CLOSE_WE_ANSWER, CLOSE_THEY_ANSWER);
    RUN(CLOSE_DONE, CLOSE_WE_ASK, CLOSE_THEY_ASK, CLOSE_THEY_ANSWER, CLOSE_WE_ANSWER);
    RUN(CLOSE_DONE, CLOSE_THEY_ASK, CLOSE_WE_ASK, CLOSE_WE_ANSWER, CLOSE_THEY_ANSWER);
    RUN(CLOSE_DONE, CLOSE_THEY_ASK, CLOSE_WE_ASK, CLOSE_THEY_ANSWER, CLOSE_WE_ANSWER);
    /* Half of it is not the end. */
    RUN(CLOSE_SENT, CLOSE_WE_ASK, CLOSE_THEY_ASK, CLOSE_WE_ANSWER);
    RUN(CLOSE_OWED, CLOSE_WE_ASK, CLOSE_THEY_ASK, CLOSE_THEY_ANSWER);
}

static void a_stray_answer_ends_nothing(void **unused)
{
    (void)unused;
    enum close_state state = CLOSE_NONE;
    assert_false(close_move(&state, CLOSE_THEY_ANSWER));
    assert_false(close_move(&state, CLOSE_WE_ANSWER));
    assert_int_equal(state, CLOSE_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_order),
        cmocka_unit_test(one_side_asks),
        cmocka_unit_test(closes_cross),
        cmocka_unit_test(a_stray_answer_ends_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
