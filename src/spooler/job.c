#include "spooler/job.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/assert.h"
#include "spool/credential.h"

uint64_t job_clock_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

struct job *job_new(enum job_type type, uint32_t queue, void (*done)(struct job *), uint64_t owner)
{
    struct job *job = calloc(1, sizeof *job);
    ENSURE(job);
    job->type = type;
    job->queue = queue;
    job->done = done;
    job->owner = owner;
    return job;
}

void job_add_message(struct job *job, enum record_kind kind, struct message *message)
{
    struct job_append *append = &job->append.first;
    if (job->append.count++ > 0) {
        append = calloc(1, sizeof *append);
        ENSURE(append);
        job->append.last->next = append;
    }
    job->append.last = append;
    append->kind = kind;
    append->received_at_us = job_clock_us();
    message_init(&append->message);
    message_move(&append->message, message);
}

static void free_append(struct job *job)
{
    if (job->append.count == 0)
        return;
    message_clear(&job->append.first.message);
    for (struct job_append *next, *a = job->append.first.next; a; a = next) {
        next = a->next;
        message_clear(&a->message);
        free(a);
    }
    free(job->append.rejection_text);
}

void job_free(struct job *job)
{
    switch (job->type) {
    case JOB_TRIM:
        free(job->trim.user);
        free(job->trim.vhost);
        break;
    case JOB_QUEUE_PUT:
        free(job->put.user);
        free(job->put.vhost);
        if (job->put.password)
            credential_wipe(job->put.password, strlen(job->put.password));
        free(job->put.password);
        break;
    case JOB_APPEND:
        free_append(job);
        break;
    case JOB_DELETE:
        free(job->delete.seqs);
        break;
    case JOB_REJECT:
        free(job->reject.text);
        break;
    case JOB_QUEUE_DROP:
    case JOB_RETRY:
    case JOB_DISCARD:
        break;
    case JOB_READ:
        if (job->read.slab)
            slab_unref(job->read.slab);
        free(job->read.records);
        free(job->read.except);
        break;
    }
    free(job);
}

size_t job_held_bytes(const struct job *job)
{
    size_t bytes = 0;
    if (job->type == JOB_APPEND && job->append.count > 0)
        for (const struct job_append *a = &job->append.first; a; a = a->next)
            bytes += message_held_bytes(&a->message);
    return bytes;
}

uint64_t job_memory(const struct job *job)
{
    uint64_t bytes = sizeof *job;
    if (job->type == JOB_APPEND)
        for (const struct job_append *a = &job->append.first; a; a = a->next)
            bytes += sizeof *a + message_bytes(&a->message);
    return bytes;
}
