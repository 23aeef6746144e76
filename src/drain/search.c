#include "drain/search.h"

/* The root of the usual window: two small steps find one of 256. */
enum { CAREFUL_WINDOW = 16, ACCUSED_MAX = 3 };

void search_begin(struct search *s, uint32_t window)
{
    s->window = window;
    s->fine = 0;
}

uint32_t search_window(const struct search *s, uint32_t most)
{
    uint32_t window = s->careful > 0 ? s->careful_window : s->window;
    return window < most ? window : most;
}

void search_passed(struct search *s, uint32_t count, uint32_t most)
{
    s->fine += count;
    if (s->fine < s->window || s->window >= most)
        return;
    s->window *= 2;
    s->fine = 0;
}

void search_settled(struct search *s, uint32_t count)
{
    s->careful -= count < s->careful ? count : s->careful;
}

void search_found(struct search *s)
{
    s->careful = 0;
}

void search_narrow(struct search *s, uint32_t count, uint64_t accused)
{
    if (accused && accused != s->suspect && s->accused < ACCUSED_MAX) {
        s->suspect = accused;
        s->accused++;
        return;
    }
    s->careful = count;
    s->careful_window = count > CAREFUL_WINDOW ? CAREFUL_WINDOW : 1;
}

uint32_t search_failed(struct search *s, uint64_t seq)
{
    if (s->failing != seq)
        s->tries = 0;
    s->failing = seq;
    s->accused = 0;
    uint32_t fine = s->fine < CAREFUL_WINDOW ? s->fine : CAREFUL_WINDOW;
    s->window = fine > 0 ? fine : 1;
    s->fine = 0;
    return ++s->tries;
}

void search_again(struct search *s, uint64_t seq)
{
    s->suspect = seq;
}

void search_given_up(struct search *s)
{
    s->failing = 0;
}
