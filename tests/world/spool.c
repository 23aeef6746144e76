/* spooler/spooler.h in memory: jobs are done between two turns of the loop, in their order. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "amqp/destination.h"
#include "spooler/spooler.h"
#include "world.h"

struct disk disk;

struct stored {
    struct stored *next;
    uint32_t queue;
    uint64_t seq;
    enum record_kind kind;
    bool rejected;
    size_t method_len, header_len, body_len;
    uint8_t *method, *header, *body; /* the body with a NUL behind it */
};

enum { QUEUES_MAX = 16 };

struct spooler {
    struct mail_chain jobs;
    char names[QUEUES_MAX][128]; /* of queues: user and vhost */
    struct stored *first;
    uint64_t pending, seq;
    uint32_t queues;
};

static struct spooler spooler;

void world_spool_reset(void)
{
    for (struct stored *next, *s = spooler.first; s; s = next) {
        next = s->next;
        free(s->method);
        free(s->header);
        free(s->body);
        free(s);
    }
    struct mail *mail;
    while ((mail = mail_take_first(&spooler.jobs)) != NULL)
        job_free((struct job *)mail);
    spooler = (struct spooler){0};
    disk = (struct disk){.has_room = true};
    world.rt.spooler = &spooler;
}

unsigned disk_count(bool rejected)
{
    unsigned count = 0;
    for (const struct stored *s = spooler.first; s; s = s->next)
        count += s->rejected == rejected;
    return count;
}

const char *disk_body(unsigned index)
{
    for (const struct stored *s = spooler.first; s; s = s->next)
        if (!s->rejected && index-- == 0)
            return (const char *)s->body;
    return NULL;
}

static uint8_t *copy(const uint8_t *at, size_t len)
{
    uint8_t *out = calloc(1, len + 1);
    if (len > 0)
        memcpy(out, at, len);
    return out;
}

static void store(uint32_t queue, const struct job_append *a, bool rejected)
{
    const struct message *m = &a->message;
    struct stored *s = calloc(1, sizeof *s), **end = &spooler.first;
    *s = (struct stored){.queue = queue,
                         .seq = ++spooler.seq,
                         .kind = a->kind,
                         .rejected = rejected,
                         .method_len = m->method.len,
                         .header_len = m->header.len,
                         .method = copy(m->method.at, m->method.len),
                         .header = copy(m->header.at, m->header.len),
                         .body = calloc(1, m->body_size + 1)};
    for (uint32_t i = 0; i < m->body_count; i++) {
        memcpy(s->body + s->body_len, m->body[i].at, m->body[i].len);
        s->body_len += m->body[i].len;
    }
    while (*end)
        end = &(*end)->next;
    *end = s;
    disk.appended++;
}

static enum status append(struct job *job)
{
    if (disk.is_full) {
        job->append.last_seq = spooler.seq + job->append.count; /* as when the commit fails */
        return STATUS_FULL;
    }
    for (const struct job_append *a = job->append.count > 0 ? &job->append.first : NULL; a;
         a = a->next)
        store(job->queue, a, job->append.rejection_text != NULL);
    job->append.last_seq = job->append.count > 0 ? spooler.seq : 0;
    return STATUS_OK;
}

static struct stored **find(uint64_t seq)
{
    struct stored **at = &spooler.first;
    while (*at && (*at)->seq != seq)
        at = &(*at)->next;
    return at;
}

static enum status take_out(uint64_t seq)
{
    struct stored **at = find(seq), *s = *at;
    if (!s)
        return STATUS_NOT_FOUND;
    *at = s->next;
    free(s->method);
    free(s->header);
    free(s->body);
    free(s);
    return STATUS_OK;
}

void disk_lose(uint64_t seq)
{
    assert_int_equal(take_out(seq), STATUS_OK);
}

static enum status delete (struct job *job) {
    if (disk.deletes_fail) return STATUS_FULL;
    if (disk.is_damaged){job->delete.stay = job->delete.count; return STATUS_OK;}
for (uint32_t i = 0; i < job->delete.count; i++)
{
    take_out(job->delete.seqs[i]);
    disk.deleted++;
}
return STATUS_OK;
}

static enum status move_rejected(struct job *job)
{
    job->rejected.count = 0;
    if (job->rejected.last == UINT64_MAX)
        job->rejected.last = spooler.seq;
    for (uint32_t i = 0; i < job->rejected.max; i++) {
        struct stored *s = spooler.first;
        while (s && !(s->rejected && s->seq > job->rejected.after && s->seq <= job->rejected.last))
            s = s->next;
        if (!s)
            return STATUS_NOT_FOUND;
        job->rejected.after = job->rejected.reached = s->seq;
        if (s->seq == disk.damaged)
            return STATUS_INVALID;
        job->rejected.count++;
        if (job->type == JOB_RETRY)
            s->rejected = false;
        else
            take_out(s->seq);
    }
    return STATUS_OK;
}

/* All that go: the step of the real one is a matter of its disk. */
static enum status trim(struct job *job)
{
    struct stored *next;
    for (struct stored *s = spooler.first; s && job->trim.count < job->trim.excess; s = next) {
        next = s->next;
        if (!s->rejected || s->queue != job->queue)
            continue;
        take_out(s->seq);
        job->trim.count++;
    }
    job->trim.at_end = true;
    return STATUS_OK;
}

static bool is_wanted(const struct job *job, uint64_t destination)
{
    if (job->read.only)
        return destination == job->read.only;
    for (uint32_t i = 0; i < job->read.except_count; i++)
        if (destination == job->read.except[i])
            return false;
    return true;
}

static bool is_looked_at(const struct job *job, const struct stored *s)
{
    return s->queue == job->queue && !s->rejected && s->seq > job->read.after &&
           s->seq <= job->read.until;
}

static void frame_record(struct job *job, const struct stored *s, uint64_t destination)
{
    struct slab *slab = job->read.slab;
    uint8_t *at = slab->data + slab->used;
    struct job_record *out = &job->read.records[job->read.count++];
    struct iovec method = {s->method, s->method_len}, header = {s->header, s->header_len};
    struct iovec body = {s->body, s->body_len};
    *out = (struct job_record){.seq = s->seq,
                               .kind = s->kind,
                               .frames = at,
                               .method_len = (uint32_t)s->method_len,
                               .header_len = (uint32_t)s->header_len,
                               .body_size = s->body_len,
                               .destination = destination};
    if (s->kind == RECORD_DECLARE) {
        memcpy(at + FRAME_HEAD_BYTES, s->method, s->method_len);
        out->frames_len = frame_wrap(at, FRAME_METHOD, job->read.framing.channel, out->method_len);
    } else {
        out->frames_len = message_write(at, job->read.framing.channel, job->read.framing.frame_max,
                                        &method, &header, &body, 1);
        uint8_t *bits = at + FRAME_HEAD_BYTES + s->method_len - 1;
        out->mandatory = *bits & 1;
        if (s->seq == disk.frames_too_large)
            out->frames_len = 0;
        if (job->read.framing.mandatory)
            *bits |= 1;
    }
    slab->used += out->frames_len;
}

static enum status read_records(struct job *job)
{
    job->read.records = calloc(job->read.records_max, sizeof *job->read.records);
    job->read.slab = slab_new(4 * 1024 * 1024);
    job->read.at_end = true;
    job->read.reached = job->read.after;
    for (const struct stored *s = spooler.first; s; s = s->next) {
        uint64_t destination =
            s->kind == RECORD_PUBLISH ? destination_of(s->method, s->method_len) : 0;
        if (!is_looked_at(job, s))
            continue;
        bool wanted = is_wanted(job, destination);
        if (wanted && job->read.count == job->read.records_max) {
            job->read.at_end = false;
            break;
        }
        if (wanted)
            frame_record(job, s, destination);
        job->read.reached = s->seq;
    }
    return STATUS_OK;
}

/* The same login has the same queue, whatever its password. */
static enum status put(struct job *job)
{
    char name[128];
    snprintf(name, sizeof name, "%s@%s", job->put.user, job->put.vhost);
    uint32_t i = 0;
    while (i < spooler.queues && strcmp(spooler.names[i], name) != 0)
        i++;
    assert_true(i < QUEUES_MAX);
    strcpy(spooler.names[i], name);
    if (i == spooler.queues)
        spooler.queues++;
    job->queue = i + 1;
    return STATUS_OK;
}

static enum status run(struct job *job)
{
    struct stored *s;
    switch (job->type) {
    case JOB_QUEUE_PUT:
        return disk.is_full ? STATUS_FULL : put(job);
    case JOB_QUEUE_DROP:
        return STATUS_OK;
    case JOB_APPEND:
        return append(job);
    case JOB_DELETE:
        return delete (job);
    case JOB_REJECT:
        if (disk.rejects_fail)
            return STATUS_NO_SPACE;
        if (disk.is_damaged) {
            job->reject.stays = true;
            return STATUS_OK;
        }
        s = *find(job->reject.seq);
        assert_non_null(s);
        s->rejected = true;
        disk.rejected++;
        return STATUS_OK;
    case JOB_RETRY:
    case JOB_DISCARD:
        return move_rejected(job);
    case JOB_TRIM:
        return trim(job);
    case JOB_READ:
        return disk.reads_fail ? STATUS_IO : read_records(job);
    }
    return STATUS_INVALID;
}

bool world_spool_run(void)
{
    struct mail *mail = disk.hangs ? NULL : mail_take_first(&spooler.jobs);
    if (!mail)
        return false;
    struct job *job = (struct job *)mail;
    job->status = run(job);
    if (job->status != STATUS_OK)
        strcpy(job->error, "the disk is full");
    spooler.pending--;
    job->done(job);
    job_free(job);
    return true;
}

/* ---- spooler.h ---- */

void spooler_post(struct spooler *sp, struct job *job)
{
    sp->pending++;
    mail_append(&sp->jobs, &job->mail);
}

bool spooler_has_room(const struct spooler *sp)
{
    (void)sp;
    return disk.has_room;
}

bool spooler_is_nearly_full(const struct spooler *sp)
{
    (void)sp;
    return disk.is_nearly_full;
}

bool spooler_is_full(const struct spooler *sp)
{
    (void)sp;
    return false;
}

uint64_t spooler_pending(const struct spooler *sp)
{
    return sp->pending;
}
