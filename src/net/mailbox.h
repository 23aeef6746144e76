#pragma once

/* The only door between the loop thread and another thread: chains of mails, handed over whole,
 * so that a burst costs one lock and one wake-up. A mail is embedded in what it carries and
 * belongs to whoever holds it. */

#include <stdbool.h>

#include <uv.h>

struct mail {
    struct mail *next;
};

struct mail_chain {
    struct mail *first, *last;
};

void mail_append(struct mail_chain *, struct mail *);
struct mail *mail_take_first(struct mail_chain *);

/* From the loop thread to the other. */
struct inbox {
    uv_mutex_t mutex;
    uv_cond_t filled;
    struct mail_chain chain;
    bool closed;
};

void inbox_init(struct inbox *);
void inbox_deinit(struct inbox *);
/* Hands over the whole chain, which is empty afterwards. */
void inbox_post(struct inbox *, struct mail_chain *);
/* Waits for mail, at most timeout_ms (0: for ever), and takes all of it. False once the inbox is
 * closed and empty; true with an empty chain when the time is over. */
bool inbox_wait(struct inbox *, struct mail_chain *, uint64_t timeout_ms);
/* True if somebody has posted what was not taken yet. */
bool inbox_has_mail(struct inbox *);
void inbox_close(struct inbox *);

/* From the other thread to the loop thread. */
struct outbox {
    uv_async_t async;
    uv_mutex_t mutex;
    struct mail_chain chain;
    void (*on_mail)(struct outbox *, struct mail_chain *); /* loop thread */
    void *owner;
};

void outbox_init(struct outbox *, uv_loop_t *,
                 void (*on_mail)(struct outbox *, struct mail_chain *), void *owner);
void outbox_post(struct outbox *, struct mail_chain *);
/* Delivers what is left, then closes; the loop has to run once more. */
void outbox_close(struct outbox *, uv_close_cb);
