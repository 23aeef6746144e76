#include "spooler/spooler.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/log.h"
#include "spool/credential.h"
#include "spool/store.h"
#include "spooler/trim.h"
#include "spooler/work.h"

/* Happy path: spooler_post gathers jobs in `outgoing`; spooler_hand_over moves them to the inbox.
 * The thread takes all of it, writes in one transaction, commits (fdatasync), then runs the reads,
 * and posts the jobs back. */

enum {
    PENDING_BYTES_MAX = 32 * 1024 * 1024,
    STEP_NS = 10 * 1000 * 1000,
    REST_MS = 200,             /* without work, after work */
    GIVE_NS = 2 * 1000 * 1000, /* of a step of giving disk space back */
    GIVE_PAUSE_MS = 2,         /* between two, without work */
    FAILURE_SHOWN_MS = 10000,  /* who stays away from a full spool would never learn of its end */
    BRAKE_MS = 100,            /* deletions gather for so long where each commit costs space */
    HOLDER_MS = 2000,          /* a reader that moves on within this is no trouble */
    HOLDER_AGAIN_MS = 60000,
    PLACE_MS = 100,          /* between two looks at the spool's files, while there is work */
    PLACE_IDLE_MS = 10000,   /* and while there is none */
    NEARLY_FULL_DIVISOR = 4, /* of spool.max_size is free */
};

struct spooler {
    uv_thread_t thread;
    uv_async_t ended; /* the thread has come to its end */
    struct inbox inbox;
    struct outbox outbox;
    struct mail_chain outgoing;
    uint64_t pending, pending_bytes;
    uint64_t heard; /* number of the last batch whose results are known */

    struct work work;          /* the thread's alone while it runs */
    uint64_t sync_interval_ms; /* 0: never by time */
    uint64_t rest_due_ms;      /* 0: nothing was done since the last rest */
    struct holder_watch {
        int pid;                    /* who reads an old state of the spool; 0: nobody */
        uint64_t since_ms, tell_ms; /* when it was seen first, when it is to be named */
        bool is_named;
    } holder;
    uint64_t place_due_ms; /* when the spool's files are to be looked at again */
    _Atomic(const char *) misplaced;
    _Atomic bool has_room;
    _Atomic bool is_nearly_full;
    _Atomic uint64_t busy_since_ms; /* 0: it waits for work */
    uint64_t failed_ms;             /* when the last write failed; 0: it did not */
    char failed_text[256];

    void (*on_closed)(void *arg);
    void *on_closed_arg;
    unsigned open_handles;
    bool is_closing;
};

/* ---- the thread ---- */

/* The login has come back behind the order to forget it: its entry was written first. */
static bool is_put_again(const struct job *drop)
{
    for (const struct mail *mail = drop->mail.next; mail; mail = mail->next) {
        const struct job *job = (const struct job *)mail;
        if (job->type == JOB_QUEUE_PUT && job->status == STATUS_OK && job->queue == drop->queue)
            return true;
    }
    return false;
}

static enum status drop_queue(struct spooler *sp, const struct job *job, struct failure *failure)
{
    if (is_put_again(job))
        return failure_set(failure, STATUS_INVALID, "its login has come back meanwhile");
    return store_queue_drop(sp->work.store, job->queue, failure);
}

/* What is not part of the batch's transaction. */
static void run_aside(struct spooler *sp, struct job *job)
{
    if (job->type == JOB_READ) {
        work_read(&sp->work, job);
        return;
    }
    struct failure failure = {0};
    enum status status;
    if (!work_open(&sp->work, &failure))
        status = failure.status;
    else if (job->type == JOB_TRIM)
        status = trim_run(&sp->work, job, &failure);
    else
        status = drop_queue(sp, job, &failure);
    if (status == STATUS_OK && job->type == JOB_QUEUE_DROP)
        gauges_forget(&sp->work.gauges, job->queue);
    work_result(job, status, &failure);
    work_close_if_fatal(&sp->work, status);
}

static void name_holder(struct holder_watch *watch, struct store_holder holder, uint64_t now_ms)
{
    if (holder.pid != watch->pid) {
        if (watch->is_named)
            LOG(LOG_INFO, "spool_reader_gone", LOG_N("pid", watch->pid));
        *watch = (struct holder_watch){
            .pid = holder.pid, .since_ms = now_ms, .tell_ms = now_ms + HOLDER_MS};
    }
    if (holder.pid == 0 || holder.bytes == 0 || now_ms < watch->tell_ms)
        return;
    LOG(LOG_WARN, "spool_reader_holds", LOG_N("pid", holder.pid), LOG_N("bytes", holder.bytes),
        LOG_N("seconds", (now_ms - watch->since_ms) / 1000),
        LOG_T("reason", "this process reads an old state of the spool and stands still: what is "
                        "deleted takes space until it goes on or ends"));
    watch->is_named = true;
    watch->tell_ms = now_ms + HOLDER_AGAIN_MS;
}

static bool is_nearly_full(struct store *store)
{
    uint64_t used, max;
    store_usage(store, &used, &max);
    return used > max - max / NEARLY_FULL_DIVISOR;
}

static void look_at_room(struct spooler *sp)
{
    if (sp->work.store)
        name_holder(&sp->holder, store_holder(sp->work.store), uv_hrtime() / 1000000);
    if (sp->work.store)
        gauges_update(&sp->work.gauges, sp->work.store);
    sp->is_nearly_full = sp->work.store && is_nearly_full(sp->work.store);
    sp->has_room = sp->work.store && !sp->work.failing && store_has_room(sp->work.store);
}

static void rest_later(struct spooler *sp)
{
    sp->rest_due_ms = uv_hrtime() / 1000000 + REST_MS;
}

/* Before anything is written. */
static void look_at_place(struct spooler *sp)
{
    struct failure failure = {0};
    uint64_t now_ms = uv_hrtime() / 1000000;
    if (!sp->work.store || sp->work.failing || now_ms < sp->place_due_ms)
        return;
    sp->place_due_ms = now_ms + PLACE_MS;
    const char *before = sp->misplaced;
    enum status status = store_look_at_place(sp->work.store);
    sp->misplaced = store_misplaced(sp->work.store);
    if (sp->misplaced != before) {
        look_at_room(sp); /* who is to be held is not let in first */
        rest_later(sp);
    }
    if (status != STATUS_FATAL)
        return;
    work_close_if_fatal(&sp->work, status);
    if (sp->work.store) /* data.mdb has gone meanwhile */
        return;
    if (work_open(&sp->work, &failure)) {
        LOG(LOG_WARN, "spool_in_place");
        return;
    }
    LOG(LOG_ERROR, "spool_failed", LOG_T("reason", failure.text));
    look_at_room(sp);
    rest_later(sp); /* it is tried again then */
}

/* If it fails nothing more is taken until a probe has succeeded, whatever is committed meanwhile.
 */
static void sync_spool(struct spooler *sp)
{
    struct failure failure = {0};
    bool was_failing = sp->work.failing;
    if (!sp->work.store)
        return;
    enum status status =
        was_failing ? store_probe(sp->work.store, &failure) : store_sync(sp->work.store, &failure);
    sp->work.failing = status != STATUS_OK;
    if (sp->work.failing && !was_failing)
        LOG(LOG_ERROR, "sync_failed", LOG_T("reason", failure.text));
    work_close_if_fatal(&sp->work, status);
    if (sp->work.failing == was_failing)
        return;
    rest_later(sp);
    look_at_room(sp);
}

static bool gives_back(const struct spooler *sp)
{
    return sp->work.store && !sp->work.failing &&
           store_gives_back(sp->work.store, sp->rest_due_ms > 0);
}

/* 0: never by time. After a failure sooner, so that it does not last for an interval. */
static uint64_t sync_every_ms(const struct spooler *sp)
{
    return sp->work.failing && sp->sync_interval_ms > REST_MS ? REST_MS : sp->sync_interval_ms;
}

/* Whatever comes meanwhile: a sync is not put off. */
static uint64_t wait_ms(const struct spooler *sp, uint64_t last_sync_ns)
{
    uint64_t rest = sp->rest_due_ms > 0 ? REST_MS : PLACE_IDLE_MS, every = sync_every_ms(sp);
    if (gives_back(sp))
        return GIVE_PAUSE_MS;
    if (every == 0)
        return rest;
    uint64_t passed = (uv_hrtime() - last_sync_ns) / 1000000;
    uint64_t left = passed < every ? every - passed : 1;
    return rest < left ? rest : left;
}

/* Nothing has come for a moment: time for what can wait. While there is no room, it is looked for
 * again and again: it may have been made by somebody else. */
static void rest(struct spooler *sp)
{
    struct failure failure = {0};
    if (sp->rest_due_ms == 0 || uv_hrtime() / 1000000 < sp->rest_due_ms)
        return;
    sp->rest_due_ms = 0;
    if (work_open(&sp->work, &failure))
        sync_spool(sp);
    if (sp->work.store && !sp->work.failing)
        work_close_if_fatal(&sp->work, store_rest(sp->work.store, &failure));
    look_at_room(sp);
    if (!sp->has_room || sp->holder.pid != 0)
        rest_later(sp);
    if (sp->rest_due_ms == 0)
        malloc_trim(0); /* a burst's jobs were freed on this thread's and the loop's heaps */
}

static bool has_mail(void *arg)
{
    return inbox_has_mail(arg);
}

/* Who publishes waits for no more of it than has begun. */
static void give_back(struct spooler *sp)
{
    struct failure failure = {0};
    if (gives_back(sp))
        work_close_if_fatal(
            &sp->work, store_give_back(sp->work.store, GIVE_NS, has_mail, &sp->inbox, &failure));
}

/* What it does from now on may hang with the disk. */
static void begin_work(struct spooler *sp)
{
    sp->busy_since_ms = uv_hrtime() / 1000000;
}

static bool is_sync_due(const struct spooler *sp, uint64_t last_sync_ns)
{
    uint64_t every_ms = sync_every_ms(sp);
    return every_ms && uv_hrtime() - last_sync_ns >= every_ms * 1000000;
}

static void thread_main(void *arg)
{
    struct spooler *sp = arg;
    uint64_t last_sync_ns = uv_hrtime();
    for (;;) {
        struct mail_chain batch = {0};
        sp->busy_since_ms = 0;
        if (!inbox_wait(&sp->inbox, &batch, wait_ms(sp, last_sync_ns)))
            break;
        begin_work(sp);
        look_at_place(sp);
        if (!batch.first)
            rest(sp);
        if (batch.first) {
            rest_later(sp);
            work_write(&sp->work, &batch);
            for (struct mail *mail = batch.first; mail; mail = mail->next)
                if (!job_writes((struct job *)mail))
                    run_aside(sp, (struct job *)mail);
            look_at_room(sp);
            outbox_post(&sp->outbox, &batch);
            if (sp->work.store && store_is_beyond(sp->work.store))
                uv_sleep(BRAKE_MS);
        }
        give_back(sp);
        begin_work(sp);
        if (is_sync_due(sp, last_sync_ns)) {
            sync_spool(sp);
            last_sync_ns = uv_hrtime();
        }
    }
    begin_work(sp);
    if (sp->work.store)
        store_close(sp->work.store);
    sp->work.store = NULL;
    uv_async_send(&sp->ended);
}

/* ---- the loop's side ---- */

static void note_failure(struct spooler *sp, const struct job *job, uint64_t now_ms)
{
    if (job->type != JOB_APPEND)
        return;
    sp->failed_ms = job->status == STATUS_OK ? 0 : now_ms;
    memcpy(sp->failed_text, job->error, sizeof sp->failed_text);
}

static void on_mail(struct outbox *outbox, struct mail_chain *chain)
{
    struct spooler *sp = outbox->owner;
    struct mail *mail;
    uint64_t heard = sp->heard;
    while ((mail = mail_take_first(chain)) != NULL) {
        struct job *job = (struct job *)mail;
        heard = job->batch;
        sp->pending--;
        sp->pending_bytes -= job_memory(job);
        note_failure(sp, job, uv_now(outbox->async.loop));
        job->done(job);
        job_free(job);
    }
    sp->heard = heard; /* of all of it */
}

void spooler_hand_over(struct spooler *sp)
{
    if (sp->outgoing.first && !sp->is_closing)
        inbox_post(&sp->inbox, &sp->outgoing);
}

bool spooler_gathers(const struct spooler *sp)
{
    return sp->outgoing.first && !sp->is_closing;
}

void spooler_configure(struct spooler *sp, const struct config *config)
{
    sp->work.shorten_expiration = config->drain.expiration == EXPIRATION_SHORTEN;
    sp->work.refuses_one_by_one = config->spool.overflow == OVERFLOW_REJECT;
}

bool spooler_is_full(const struct spooler *sp)
{
    return sp->pending_bytes >= PENDING_BYTES_MAX;
}

void spooler_post(struct spooler *sp, struct job *job)
{
    sp->pending++;
    sp->pending_bytes += job_memory(job);
    job->heard = sp->heard;
    mail_append(&sp->outgoing, &job->mail);
}

bool spooler_has_room(const struct spooler *sp)
{
    return sp->has_room;
}

const char *spooler_misplaced(const struct spooler *sp)
{
    return sp->misplaced;
}

bool spooler_is_nearly_full(const struct spooler *sp)
{
    return sp->is_nearly_full;
}

uint64_t spooler_busy_ms(const struct spooler *sp)
{
    uint64_t since_ms = sp->busy_since_ms, now_ms = uv_hrtime() / 1000000;
    return since_ms && now_ms > since_ms ? now_ms - since_ms : 0;
}

uint64_t spooler_pending(const struct spooler *sp)
{
    return sp->pending;
}

uint64_t spooler_pending_bytes(const struct spooler *sp)
{
    return sp->pending_bytes;
}

void spooler_view(struct spooler *sp, struct spool_view *view)
{
    gauges_copy(&sp->work.gauges, view);
}

const char *spooler_failure(const struct spooler *sp, uint64_t now_ms)
{
    return sp->failed_ms && now_ms - sp->failed_ms < FAILURE_SHOWN_MS ? sp->failed_text : NULL;
}

struct visit_state {
    struct spooler *sp;
    void (*visit)(void *arg, const struct spooler_queue *);
    void *arg;
};

static bool visit_queue(void *arg, const struct store_queue *queue)
{
    struct visit_state *state = arg;
    struct spooler_queue out = {
        .id = queue->id,
        .user = queue->user,
        .vhost = queue->vhost,
        .messages = queue->messages,
        .bytes = queue->bytes,
        .rejected = queue->rejected,
    };
    char *password = calloc(1, queue->sealed_len + 1);
    ENSURE(password);
    size_t len = 0;
    if (credential_open(&state->sp->work.key, queue->user, queue->vhost, queue->sealed,
                        queue->sealed_len, (uint8_t *)password, &len) == STATUS_OK)
        out.password = password;
    state->visit(state->arg, &out);
    credential_wipe(password, queue->sealed_len + 1);
    free(password);
    return true;
}

bool spooler_exists(const struct config *config)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/data.mdb", config->spool.path);
    return access(path, F_OK) == 0;
}

static bool open_store(struct spooler *sp, const struct config *config, struct failure *failure)
{
    sp->work.path = strdup(config->spool.path);
    ENSURE(sp->work.path);
    sp->work.step_ns = STEP_NS;
    sp->work.options = (struct store_options){
        .path = sp->work.path,
        .max_size_bytes = config->spool.max_size_bytes,
        .sync = config->spool.sync == CONFIG_SYNC_COMMIT     ? STORE_SYNC_COMMIT
                : config->spool.sync == CONFIG_SYNC_INTERVAL ? STORE_SYNC_INTERVAL
                                                             : STORE_SYNC_NEVER,
    };
    sp->work.shorten_expiration = config->drain.expiration == EXPIRATION_SHORTEN;
    sp->work.refuses_one_by_one = config->spool.overflow == OVERFLOW_REJECT;
    if (config->spool.sync == CONFIG_SYNC_INTERVAL)
        sp->sync_interval_ms = config->spool.sync_interval_ms;
    if (!work_open(&sp->work, failure))
        return false;
    if (store_was_restored(sp->work.store))
        LOG(LOG_WARN, "spool_restored",
            LOG_T("reason", "the machine went down: what came after the last sync is gone"));
    char key_path[4096];
    if (config->spool.key_file[0])
        snprintf(key_path, sizeof key_path, "%s", config->spool.key_file);
    else
        snprintf(key_path, sizeof key_path, "%s/credential.key", config->spool.path);
    return credential_key_load(&sp->work.key, key_path, failure) == STATUS_OK;
}

static void free_spooler(struct spooler *sp)
{
    struct mail *mail;
    while ((mail = mail_take_first(&sp->outgoing)) != NULL)
        job_free((struct job *)mail);
    if (sp->work.store)
        store_close(sp->work.store);
    credential_wipe(&sp->work.key, sizeof sp->work.key);
    work_clear(&sp->work);
    free(sp->work.path);
    free(sp);
}

static void on_part_closed(struct spooler *sp)
{
    if (--sp->open_handles > 0)
        return;
    sp->on_closed(sp->on_closed_arg);
    gauges_deinit(&sp->work.gauges);
    free_spooler(sp);
}

static void on_outbox_closed(uv_handle_t *handle)
{
    on_part_closed(((struct outbox *)handle->data)->owner);
}

static void on_ended_closed(uv_handle_t *handle)
{
    on_part_closed(handle->data);
}

static void on_ended(uv_async_t *ended)
{
    struct spooler *sp = ended->data;
    uv_thread_join(&sp->thread);
    sp->open_handles = 2;
    outbox_close(&sp->outbox, on_outbox_closed);
    inbox_deinit(&sp->inbox);
    uv_close((uv_handle_t *)&sp->ended, on_ended_closed);
}

struct spooler *spooler_open(uv_loop_t *loop, const struct config *config,
                             void (*visit)(void *arg, const struct spooler_queue *), void *arg,
                             struct failure *failure)
{
    struct spooler *sp = calloc(1, sizeof *sp);
    ENSURE(sp);
    struct visit_state state = {sp, visit, arg};
    if (!open_store(sp, config, failure)) {
        free_spooler(sp);
        return NULL;
    }
    store_queues(sp->work.store, visit_queue, &state);
    gauges_init(&sp->work.gauges);
    look_at_room(sp);
    rest_later(sp);
    inbox_init(&sp->inbox);
    outbox_init(&sp->outbox, loop, on_mail, sp);
    ENSURE(uv_async_init(loop, &sp->ended, on_ended) == 0);
    sp->ended.data = sp;
    ENSURE(uv_thread_create(&sp->thread, thread_main, sp) == 0);
    return sp;
}

void spooler_close(struct spooler *sp, void (*on_closed)(void *arg), void *arg)
{
    sp->on_closed = on_closed;
    sp->on_closed_arg = arg;
    if (sp->outgoing.first)
        inbox_post(&sp->inbox, &sp->outgoing);
    sp->is_closing = true; /* nothing more comes in */
    inbox_close(&sp->inbox);
}
