#include "proxy/spooler.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "amqp/expiration.h"
#include "base/assert.h"
#include "base/log.h"
#include "spool/credential.h"
#include "spool/store.h"

/* Happy path: spooler_post gathers jobs in `outgoing`; before the loop polls they go to the inbox.
 * The thread takes all of it, writes in one transaction, commits (fdatasync), then runs the reads,
 * and posts the jobs back.
 *
 * A write that fails poisons LMDB's transaction: the batch is aborted and every job tried again in
 * a transaction of its own, so that one that cannot succeed does not take the others with it. A
 * store that reports STATUS_FATAL is closed and opened again before the next batch. */

enum {
    PENDING_BYTES_MAX = 32 * 1024 * 1024,
    REST_MS = 200,              /* without work, after work */
    FAILURE_SHOWN_MS = 10000,   /* who stays away from a full spool would never learn of its end */
    SHORTENED_MAX = 128 * 1024, /* longest content header whose expiration is shortened */
};

struct spooler {
    uv_thread_t thread;
    struct inbox inbox;
    struct outbox outbox;
    uv_prepare_t hand_over;
    struct mail_chain outgoing;
    uint64_t pending, pending_bytes;

    struct store *store; /* the thread's alone while it runs */
    char *path;
    struct store_options options;
    struct credential_key key;
    uint64_t sync_interval_ms; /* 0: never by time */
    _Atomic bool shorten_expiration;
    bool worked;  /* since the last rest */
    bool failing; /* the last commit failed */
    _Atomic bool has_room;
    struct spool_gauges gauges;
    uint64_t failed_ms; /* when the last write failed; 0: it did not */
    char failed_text[256];

    void (*on_closed)(void *arg);
    void *on_closed_arg;
    unsigned open_handles;
};

/* ---- the thread: writing ---- */

static enum status run_put(struct spooler *sp, struct job *job, struct failure *failure)
{
    size_t len = strlen(job->put.password);
    uint8_t *sealed = malloc(len + CREDENTIAL_OVERHEAD_BYTES);
    ENSURE(sealed);
    enum status status = credential_seal(&sp->key, job->put.user, job->put.vhost,
                                         (const uint8_t *)job->put.password, len, sealed);
    if (status == STATUS_OK)
        status = store_queue_put(sp->store, job->put.user, job->put.vhost, sealed,
                                 len + CREDENTIAL_OVERHEAD_BYTES, &job->queue, failure);
    free(sealed);
    return status;
}

static enum status append_one(struct spooler *sp, struct job *job, struct job_append *append,
                              struct failure *failure)
{
    const struct message *m = &append->message;
    struct iovec few[8], *body = few;
    if (m->body_count > 8) {
        body = malloc(m->body_count * sizeof *body);
        if (!body)
            return failure_set(failure, STATUS_NO_MEMORY, "out of memory for a message's parts");
    }
    for (uint32_t i = 0; i < m->body_count; i++)
        body[i] = (struct iovec){m->body[i].at, m->body[i].len};
    struct store_message record = {
        .kind = append->kind,
        .received_at_us = append->received_at_us,
        .method = {m->method.at, m->method.len},
        .header = {m->header.at, m->header.len},
        .body = body,
        .body_count = m->body_count,
    };
    enum status status =
        job->append.rejection_text
            ? store_append_rejected(sp->store, job->queue, &record, &job->append.rejection,
                                    &job->append.last_seq, failure)
            : store_append(sp->store, job->queue, &record, &job->append.last_seq, failure);
    if (body != few)
        free(body);
    return status;
}

static enum status run_append(struct spooler *sp, struct job *job, struct failure *failure)
{
    for (struct job_append *a = &job->append.first; a; a = a->next) {
        enum status status = append_one(sp, job, a, failure);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

static enum status run_delete(struct spooler *sp, struct job *job, struct failure *failure)
{
    for (uint32_t i = 0; i < job->delete.count; i++) {
        enum status status = store_delete(sp->store, job->queue, job->delete.seqs[i], failure);
        if (status != STATUS_OK && status != STATUS_NOT_FOUND)
            return status;
    }
    return STATUS_OK;
}

/* What was moved before an obstacle stays moved. */
static enum status run_rejected(struct spooler *sp, struct job *job, struct failure *failure)
{
    uint64_t after = job->rejected.after;
    job->rejected.count = 0;
    for (uint32_t i = 0; i < job->rejected.max; i++) {
        enum status status =
            job->type == JOB_RETRY
                ? store_retry(sp->store, job->queue, after, job->rejected.last, &after, failure)
                : store_discard(sp->store, job->queue, after, job->rejected.last, &after, failure);
        job->rejected.reached = after;
        if (status != STATUS_OK)
            return status;
        job->rejected.count++;
    }
    return STATUS_OK;
}

static enum status run_write(struct spooler *sp, struct job *job, struct failure *failure)
{
    switch (job->type) {
    case JOB_QUEUE_PUT:
        return run_put(sp, job, failure);
    case JOB_APPEND:
        return run_append(sp, job, failure);
    case JOB_DELETE:
        return run_delete(sp, job, failure);
    case JOB_REJECT: {
        struct rejection rejection = {
            .code = job->reject.code,
            .text = job->reject.text,
            .text_len = (uint16_t)strlen(job->reject.text),
            .at_us = job_clock_us(),
        };
        return store_reject(sp->store, job->queue, job->reject.seq, &rejection, failure);
    }
    case JOB_RETRY:
    case JOB_DISCARD:
        return run_rejected(sp, job, failure);
    case JOB_QUEUE_DROP:
    case JOB_READ:
        break;
    }
    return STATUS_OK;
}

/* True if the transaction cannot go on after this result. A list of appends is all or nothing:
 * what it has put in already must come out again. */
static bool poisons(const struct job *job, enum status status)
{
    if (status == STATUS_OK)
        return false;
    if (job->type == JOB_APPEND && job->append.count > 1)
        return true;
    return status != STATUS_FULL && status != STATUS_NOT_FOUND && status != STATUS_INVALID;
}

static void set_result(struct job *job, enum status status, const struct failure *failure)
{
    job->status = status;
    if (status != STATUS_OK)
        snprintf(job->error, sizeof job->error, "%s",
                 failure->text[0] ? failure->text : status_text(status));
}

/* Opens the store again after an error that LMDB cannot recover from. */
static bool ensure_store(struct spooler *sp, struct failure *failure)
{
    if (sp->store)
        return true;
    return store_open(&sp->store, &sp->options, failure) == STATUS_OK;
}

static enum status begin(struct spooler *sp, struct failure *failure)
{
    if (!ensure_store(sp, failure))
        return failure->status;
    return store_begin(sp->store, failure);
}

static void reopen_if_fatal(struct spooler *sp, enum status status)
{
    if (status == STATUS_FATAL && sp->store) {
        store_close(sp->store);
        sp->store = NULL;
    }
}

static enum status commit(struct spooler *sp, struct failure *failure)
{
    uint64_t started_ns = uv_hrtime();
    enum status status = store_commit(sp->store, failure);
    if (status == STATUS_OK)
        spool_gauges_add_commit(&sp->gauges, uv_hrtime() - started_ns);
    sp->failing = status != STATUS_OK;
    return status;
}

static void write_alone(struct spooler *sp, struct job *job)
{
    struct failure failure = {0};
    enum status status = begin(sp, &failure);
    if (status == STATUS_OK) {
        status = run_write(sp, job, &failure);
        bool moved = (job->type == JOB_RETRY || job->type == JOB_DISCARD) &&
                     job->rejected.count > 0 && !poisons(job, status);
        if (moved) { /* what stopped it is told, what was moved before that stays */
            struct failure of_commit = {0};
            enum status committed = commit(sp, &of_commit);
            if (committed != STATUS_OK) {
                status = committed;
                failure = of_commit;
            }
        } else if (status == STATUS_OK) {
            status = commit(sp, &failure);
        } else {
            store_abort(sp->store);
        }
    }
    set_result(job, status, &failure);
    reopen_if_fatal(sp, status);
}

/* All writes of the batch in one transaction; false if it had to be given up. */
static bool write_together(struct spooler *sp, struct mail_chain *batch)
{
    struct failure failure = {0};
    enum status status = begin(sp, &failure);
    if (status != STATUS_OK) {
        reopen_if_fatal(sp, status);
        return false;
    }
    for (struct mail *mail = batch->first; mail; mail = mail->next) {
        struct job *job = (struct job *)mail;
        failure.text[0] = 0;
        status = run_write(sp, job, &failure);
        if (poisons(job, status)) {
            store_abort(sp->store);
            reopen_if_fatal(sp, status);
            return false;
        }
        set_result(job, status, &failure);
    }
    status = commit(sp, &failure);
    reopen_if_fatal(sp, status);
    return status == STATUS_OK;
}

static bool is_write(const struct job *job)
{
    return job->type != JOB_READ && job->type != JOB_QUEUE_DROP;
}

static void run_writes(struct spooler *sp, struct mail_chain *batch)
{
    bool any = false;
    for (struct mail *mail = batch->first; mail; mail = mail->next)
        any = any || is_write((struct job *)mail);
    if (!any)
        return;
    if (!write_together(sp, batch))
        for (struct mail *mail = batch->first; mail; mail = mail->next)
            if (is_write((struct job *)mail))
                write_alone(sp, (struct job *)mail);
}

/* ---- the thread: reading ---- */

struct read_state {
    struct spooler *spooler;
    struct job *job;
    size_t used, capacity; /* of the slab under construction, which starts on the heap */
    bool stopped;
};

/* The header of a message whose time to live went on while it waited (drain.expiration). */
static struct iovec shorten_expiration(const struct spooler *sp, const struct store_record *record,
                                       uint8_t shortened[SHORTENED_MAX])
{
    if (!sp->shorten_expiration || record->kind != RECORD_PUBLISH ||
        record->header.iov_len > SHORTENED_MAX)
        return record->header;
    uint64_t now_us = job_clock_us();
    uint64_t waited_ms =
        now_us > record->received_at_us ? (now_us - record->received_at_us) / 1000 : 0;
    size_t len =
        expiration_shorten(record->header.iov_base, record->header.iov_len, waited_ms, shortened);
    return len ? (struct iovec){shortened, len} : record->header;
}

static bool visit_record(void *arg, const struct store_record *record)
{
    struct read_state *state = arg;
    struct job *job = state->job;
    uint32_t frame_max = job->read.frame_max;
    uint8_t shortened[SHORTENED_MAX];
    struct iovec header = shorten_expiration(state->spooler, record, shortened);
    size_t size = record->kind == RECORD_DECLARE
                      ? record->method.iov_len + FRAME_OVERHEAD_BYTES
                      : message_framed_size(record->method.iov_len, header.iov_len,
                                            record->body_size, frame_max);
    if (job->read.count == job->read.records_max ||
        (job->read.count > 0 && state->used + size > job->read.bytes_max)) {
        state->stopped = true;
        return false;
    }
    if (size > state->capacity - state->used) {
        /* A slab cannot grow: only the first record may ask for more than was planned. */
        ENSURE(job->read.count == 0);
        state->capacity = size;
    }
    if (!job->read.slab) {
        struct slab *slab = malloc(sizeof *slab + state->capacity);
        if (!slab) {
            state->stopped = true;
            return false;
        }
        *slab = (struct slab){.refs = 1, .capacity = state->capacity};
        job->read.slab = slab;
    }
    uint8_t *at = job->read.slab->data + state->used;
    struct job_record *out = &job->read.records[job->read.count++];
    *out = (struct job_record){
        .seq = record->seq,
        .kind = record->kind,
        .received_at_us = record->received_at_us,
        .frames = at,
        .method_len = (uint32_t)record->method.iov_len,
        .header_len = (uint32_t)header.iov_len,
        .body_size = record->body_size,
    };
    if (record->kind == RECORD_DECLARE) {
        memcpy(at + FRAME_HEAD_BYTES, record->method.iov_base, record->method.iov_len);
        out->frames_len = frame_wrap(at, FRAME_METHOD, job->read.channel, out->method_len);
    } else {
        out->frames_len = message_write(at, job->read.channel, frame_max, &record->method, &header,
                                        record->body, record->body_count);
    }
    state->used += out->frames_len;
    job->read.slab->used = state->used;
    return true;
}

static void on_damaged(void *arg, uint64_t seq)
{
    struct read_state *state = arg;
    LOG(LOG_ERROR, "record_damaged", LOG_N("queue", state->job->queue), LOG_N("seq", seq));
}

static void run_read(struct spooler *sp, struct job *job)
{
    struct failure failure = {0};
    struct read_state state = {.spooler = sp, .job = job, .capacity = job->read.bytes_max};
    if (!ensure_store(sp, &failure)) {
        set_result(job, failure.status, &failure);
        return;
    }
    job->read.records = calloc(job->read.records_max, sizeof *job->read.records);
    ENSURE(job->read.records);
    enum status status = store_read(sp->store, job->queue, job->read.after, visit_record,
                                    on_damaged, &state, &failure);
    job->read.at_end = !state.stopped;
    set_result(job, status, &failure);
    reopen_if_fatal(sp, status);
}

/* What is not part of the batch's transaction. */
static void run_aside(struct spooler *sp, struct job *job)
{
    if (job->type == JOB_READ) {
        run_read(sp, job);
        return;
    }
    struct failure failure = {0};
    enum status status = ensure_store(sp, &failure)
                             ? store_queue_drop(sp->store, job->queue, &failure)
                             : failure.status;
    set_result(job, status, &failure);
    reopen_if_fatal(sp, status);
}

static void look_at_room(struct spooler *sp)
{
    if (sp->store)
        spool_gauges_update(&sp->gauges, sp->store);
    sp->has_room = sp->store && !sp->failing && store_has_room(sp->store);
}

/* If it fails nothing more is taken until a probe has succeeded. */
static void sync_spool(struct spooler *sp)
{
    struct failure failure = {0};
    if (!sp->store || sp->failing || store_sync(sp->store, &failure) == STATUS_OK)
        return;
    LOG(LOG_ERROR, "sync_failed", LOG_T("reason", failure.text));
    sp->failing = sp->worked = true;
    look_at_room(sp);
}

static uint64_t wait_ms(const struct spooler *sp)
{
    bool soon = sp->worked && (sp->sync_interval_ms == 0 || sp->sync_interval_ms > REST_MS);
    return soon ? REST_MS : sp->sync_interval_ms;
}

/* Nothing has come for a moment: time for what can wait. While there is no room, it is looked for
 * again and again: it may have been made by somebody else. */
static void rest(struct spooler *sp)
{
    struct failure failure = {0};
    if (!sp->worked)
        return;
    enum status status = ensure_store(sp, &failure) ? STATUS_OK : failure.status;
    if (status == STATUS_OK && sp->failing)
        status = store_probe(sp->store, &failure);
    if (status == STATUS_OK) {
        sp->failing = false;
        status = store_rest(sp->store, &failure);
    }
    reopen_if_fatal(sp, status);
    look_at_room(sp);
    sp->worked = !sp->has_room;
}

static void thread_main(void *arg)
{
    struct spooler *sp = arg;
    uint64_t last_sync_ns = uv_hrtime();
    for (;;) {
        struct mail_chain batch = {0};
        if (!inbox_wait(&sp->inbox, &batch, wait_ms(sp)))
            break;
        if (!batch.first)
            rest(sp);
        if (batch.first) {
            sp->worked = true;
            run_writes(sp, &batch);
            for (struct mail *mail = batch.first; mail; mail = mail->next)
                if (!is_write((struct job *)mail))
                    run_aside(sp, (struct job *)mail);
            look_at_room(sp);
            outbox_post(&sp->outbox, &batch);
        }
        if (sp->sync_interval_ms && uv_hrtime() - last_sync_ns >= sp->sync_interval_ms * 1000000) {
            sync_spool(sp);
            last_sync_ns = uv_hrtime();
        }
    }
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
    while ((mail = mail_take_first(chain)) != NULL) {
        struct job *job = (struct job *)mail;
        sp->pending--;
        sp->pending_bytes -= job_append_bytes(job);
        note_failure(sp, job, uv_now(outbox->async.loop));
        job->done(job);
        job_free(job);
    }
}

static void on_prepare(uv_prepare_t *handle)
{
    struct spooler *sp = handle->data;
    if (sp->outgoing.first)
        inbox_post(&sp->inbox, &sp->outgoing);
}

void spooler_configure(struct spooler *sp, const struct config *config)
{
    sp->shorten_expiration = config->drain.expiration == EXPIRATION_SHORTEN;
}

bool spooler_is_full(const struct spooler *sp)
{
    return sp->pending_bytes >= PENDING_BYTES_MAX;
}

void spooler_post(struct spooler *sp, struct job *job)
{
    sp->pending++;
    sp->pending_bytes += job_append_bytes(job);
    mail_append(&sp->outgoing, &job->mail);
}

bool spooler_has_room(const struct spooler *sp)
{
    return sp->has_room;
}

uint64_t spooler_pending(const struct spooler *sp)
{
    return sp->pending;
}

void spooler_view(struct spooler *sp, struct spool_view *view)
{
    spool_gauges_copy(&sp->gauges, view);
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
    if (credential_open(&state->sp->key, queue->user, queue->vhost, queue->sealed,
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
    sp->path = strdup(config->spool.path);
    ENSURE(sp->path);
    sp->options = (struct store_options){
        .path = sp->path,
        .max_size_bytes = config->spool.max_size_bytes,
        .sync = config->spool.sync == CONFIG_SYNC_COMMIT     ? STORE_SYNC_COMMIT
                : config->spool.sync == CONFIG_SYNC_INTERVAL ? STORE_SYNC_INTERVAL
                                                             : STORE_SYNC_NEVER,
    };
    sp->shorten_expiration = config->drain.expiration == EXPIRATION_SHORTEN;
    if (config->spool.sync == CONFIG_SYNC_INTERVAL)
        sp->sync_interval_ms = config->spool.sync_interval_ms;
    if (store_open(&sp->store, &sp->options, failure) != STATUS_OK)
        return false;
    if (store_was_restored(sp->store))
        LOG(LOG_WARN, "spool_restored",
            LOG_T("reason", "the machine went down: what came after the last sync is gone"));
    char key_path[4096];
    if (config->spool.key_file[0])
        snprintf(key_path, sizeof key_path, "%s", config->spool.key_file);
    else
        snprintf(key_path, sizeof key_path, "%s/credential.key", config->spool.path);
    return credential_key_load(&sp->key, key_path, failure) == STATUS_OK;
}

static void free_spooler(struct spooler *sp)
{
    if (sp->store)
        store_close(sp->store);
    credential_wipe(&sp->key, sizeof sp->key);
    free(sp->path);
    free(sp);
}

struct spooler *spooler_open(uv_loop_t *loop, const struct config *config,
                             void (*visit)(void *arg, const struct spooler_queue *), void *arg,
                             struct failure *failure)
{
    struct spooler *sp = calloc(1, sizeof *sp);
    ENSURE(sp);
    struct visit_state state = {sp, visit, arg};
    if (!open_store(sp, config, failure) ||
        store_queues(sp->store, visit_queue, &state, failure) != STATUS_OK) {
        free_spooler(sp);
        return NULL;
    }
    spool_gauges_init(&sp->gauges);
    look_at_room(sp);
    sp->worked = true;
    inbox_init(&sp->inbox);
    outbox_init(&sp->outbox, loop, on_mail, sp);
    ENSURE(uv_prepare_init(loop, &sp->hand_over) == 0);
    sp->hand_over.data = sp;
    ENSURE(uv_prepare_start(&sp->hand_over, on_prepare) == 0);
    ENSURE(uv_thread_create(&sp->thread, thread_main, sp) == 0);
    return sp;
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct spooler *sp =
        handle->type == UV_ASYNC ? ((struct outbox *)handle->data)->owner : handle->data;
    if (--sp->open_handles > 0)
        return;
    sp->on_closed(sp->on_closed_arg);
    spool_gauges_deinit(&sp->gauges);
    free_spooler(sp);
}

void spooler_close(struct spooler *sp, void (*on_closed)(void *arg), void *arg)
{
    sp->on_closed = on_closed;
    sp->on_closed_arg = arg;
    if (sp->outgoing.first)
        inbox_post(&sp->inbox, &sp->outgoing);
    inbox_close(&sp->inbox);
    uv_thread_join(&sp->thread);
    sp->open_handles = 2;
    outbox_close(&sp->outbox, on_handle_closed);
    inbox_deinit(&sp->inbox);
    uv_close((uv_handle_t *)&sp->hand_over, on_handle_closed);
}
