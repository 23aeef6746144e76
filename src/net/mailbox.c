#include "net/mailbox.h"

#include "base/assert.h"

void mail_append(struct mail_chain *chain, struct mail *mail)
{
    mail->next = NULL;
    if (chain->last)
        chain->last->next = mail;
    else
        chain->first = mail;
    chain->last = mail;
}

struct mail *mail_take_first(struct mail_chain *chain)
{
    struct mail *mail = chain->first;
    if (mail) {
        chain->first = mail->next;
        if (!chain->first)
            chain->last = NULL;
    }
    return mail;
}

static void join(struct mail_chain *to, struct mail_chain *from)
{
    if (!from->first)
        return;
    if (to->last)
        to->last->next = from->first;
    else
        to->first = from->first;
    to->last = from->last;
    *from = (struct mail_chain){0};
}

void inbox_init(struct inbox *inbox)
{
    *inbox = (struct inbox){0};
    ENSURE(uv_mutex_init(&inbox->mutex) == 0);
    ENSURE(uv_cond_init(&inbox->filled) == 0);
}

void inbox_deinit(struct inbox *inbox)
{
    ENSURE(!inbox->chain.first);
    uv_cond_destroy(&inbox->filled);
    uv_mutex_destroy(&inbox->mutex);
}

void inbox_post(struct inbox *inbox, struct mail_chain *chain)
{
    uv_mutex_lock(&inbox->mutex);
    join(&inbox->chain, chain);
    uv_cond_signal(&inbox->filled);
    uv_mutex_unlock(&inbox->mutex);
}

bool inbox_wait(struct inbox *inbox, struct mail_chain *chain, uint64_t timeout_ms)
{
    uv_mutex_lock(&inbox->mutex);
    int status = 0;
    while (!inbox->chain.first && !inbox->closed && status == 0) {
        if (timeout_ms == 0)
            uv_cond_wait(&inbox->filled, &inbox->mutex);
        else
            status = uv_cond_timedwait(&inbox->filled, &inbox->mutex, timeout_ms * 1000000);
    }
    join(chain, &inbox->chain);
    bool closed = inbox->closed;
    uv_mutex_unlock(&inbox->mutex);
    return chain->first || !closed;
}

bool inbox_has_mail(struct inbox *inbox)
{
    uv_mutex_lock(&inbox->mutex);
    bool has_mail = inbox->chain.first;
    uv_mutex_unlock(&inbox->mutex);
    return has_mail;
}

void inbox_close(struct inbox *inbox)
{
    uv_mutex_lock(&inbox->mutex);
    inbox->closed = true;
    uv_cond_signal(&inbox->filled);
    uv_mutex_unlock(&inbox->mutex);
}

static void deliver(struct outbox *outbox)
{
    struct mail_chain chain = {0};
    uv_mutex_lock(&outbox->mutex);
    join(&chain, &outbox->chain);
    uv_mutex_unlock(&outbox->mutex);
    if (chain.first)
        outbox->on_mail(outbox, &chain);
}

static void on_async(uv_async_t *async)
{
    deliver(async->data);
}

void outbox_init(struct outbox *outbox, uv_loop_t *loop,
                 void (*on_mail)(struct outbox *, struct mail_chain *), void *owner)
{
    *outbox = (struct outbox){.on_mail = on_mail, .owner = owner};
    ENSURE(uv_mutex_init(&outbox->mutex) == 0);
    ENSURE(uv_async_init(loop, &outbox->async, on_async) == 0);
    outbox->async.data = outbox;
}

void outbox_post(struct outbox *outbox, struct mail_chain *chain)
{
    uv_mutex_lock(&outbox->mutex);
    join(&outbox->chain, chain);
    uv_mutex_unlock(&outbox->mutex);
    uv_async_send(&outbox->async);
}

void outbox_close(struct outbox *outbox, uv_close_cb on_closed)
{
    deliver(outbox);
    uv_mutex_destroy(&outbox->mutex);
    uv_close((uv_handle_t *)&outbox->async, on_closed);
}
