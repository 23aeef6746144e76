#include "spooler/rejected_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "spool/home.h"

static enum status fail(struct failure *failure, const char *directory, int error)
{
    return failure_set(failure, error == ENOSPC ? STATUS_NO_SPACE : STATUS_IO, "%s/%s: %s",
                       directory, REJECTED_FILE_NAME, strerror(error));
}

/* A process that was killed may have left the beginning of a line. */
static bool ends_a_line(int fd, off_t size)
{
    char last;
    return size == 0 || (pread(fd, &last, 1, size - 1) == 1 && last == '\n');
}

/* Its descriptor, or -errno; *made: it was not there. */
static int open_regular(const char *path, struct stat *found, bool *made)
{
    enum { FLAGS = O_RDWR | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };
    int fd = open(path, FLAGS);
    *made = fd < 0 && errno == ENOENT;
    if (*made)
        fd = open(path, FLAGS | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return -errno;
    if (fstat(fd, found) == 0 && S_ISREG(found->st_mode))
        return fd;
    close(fd);
    return -EINVAL;
}

enum status rejected_file_open(struct rejected_file *f, const char *directory,
                               struct failure *failure)
{
    char path[4096];
    struct stat found = {0};
    *f = (struct rejected_file){.directory = directory};
    snprintf(path, sizeof path, "%s/" REJECTED_FILE_NAME, directory);
    int fd = open_regular(path, &found, &f->made);
    if (fd < 0)
        return fail(failure, directory, -fd);
    f->file = fdopen(fd, "a");
    ENSURE(f->file);
    f->begin = found.st_size;
    if (!ends_a_line(fd, f->begin))
        fputc('\n', f->file);
    return STATUS_OK;
}

bool rejected_file_write(void *rejected_file, const void *bytes, size_t len)
{
    struct rejected_file *f = rejected_file;
    return fwrite(bytes, 1, len, f->file) == len;
}

enum status rejected_file_sync(struct rejected_file *f, struct failure *failure)
{
    if (ferror(f->file) || fflush(f->file) != 0 || fdatasync(fileno(f->file)) != 0)
        return fail(failure, f->directory, errno ? errno : EIO);
    if (!f->made)
        return STATUS_OK;
    char path[4096];
    snprintf(path, sizeof path, "%s/" REJECTED_FILE_NAME, f->directory);
    return home_sync_parent(path, failure);
}

void rejected_file_undo(struct rejected_file *f)
{
    fflush(f->file);
    if (ftruncate(fileno(f->file), f->begin) != 0)
        return; /* then its lines stand there, and their messages in the spool */
}

void rejected_file_close(struct rejected_file *f)
{
    if (f->file)
        fclose(f->file);
    f->file = NULL;
}
