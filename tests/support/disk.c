/* Preloaded into amqpbuf: a disk under data.mdb that a test can fill, break, and cut the power of;
 * the spool's `checkpoint` is in its journal too.
 *
 * DISK_FAULT names a file whose first word says what is wrong now: `full` (nothing beyond what was
 * claimed before can be written), `sync` (EIO on fdatasync), `hang` (fdatasync does not return;
 * that one does is told by a file DISK_FAULT.hung),
 * `readonly` (EROFS), `meta` (EIO where LMDB makes a commit valid: it does nothing more then),
 * `late` (the same, and the disk has written it), or nothing.
 *
 * DISK_JOURNAL names a file to which each write and each sync is appended: a letter (W: a write, D:
 * a write that is durable when it returns, S: a sync, F: one that failed; w, s and f: the same of
 * `checkpoint`), offset and length (8 bytes each, host order), and the bytes. What the kernel would
 * still have in its cache at a power cut are the writes behind the last sync; what was there at one
 * that failed it may have forgotten. */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { META_PAGE = 4096 }; /* the first two; LMDB writes less than all of one */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static off_t claimed; /* end of what fallocate has promised */
static int journal = -1;

static int is_named(int fd, const char *name)
{
    char link[64], path[4096];
    size_t name_len = strlen(name);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < (ssize_t)name_len)
        return 0;
    path[len] = 0;
    return strcmp(path + len - (ssize_t)name_len, name) == 0;
}

static int is_data(int fd)
{
    return is_named(fd, "/data.mdb");
}

static int is_checkpoint(int fd)
{
    return is_named(fd, "/checkpoint");
}

static void tell_hung(void)
{
    char name[4096];
    snprintf(name, sizeof name, "%s.hung", getenv("DISK_FAULT"));
    int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
}

static int is_wrong(const char *what)
{
    const char *name = getenv("DISK_FAULT");
    char word[16] = "";
    FILE *file = name ? fopen(name, "r") : NULL;
    if (!file)
        return 0;
    if (fscanf(file, "%15s", word) != 1)
        word[0] = 0;
    fclose(file);
    return strcmp(word, what) == 0;
}

static void note(char kind, off_t offset, const struct iovec *iov, int count)
{
    const char *name = getenv("DISK_JOURNAL");
    if (!name)
        return;
    pthread_mutex_lock(&lock);
    if (journal < 0)
        journal = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    uint64_t head[2] = {(uint64_t)offset, 0};
    for (int i = 0; i < count; i++)
        head[1] += iov[i].iov_len;
    struct iovec all[3] = {{&kind, 1}, {head, sizeof head}};
    ssize_t written = writev(journal, all, 2);
    for (int i = 0; i < count; i++)
        written += writev(journal, iov + i, 1);
    if (written != (ssize_t)(1 + sizeof head + head[1]))
        abort();
    pthread_mutex_unlock(&lock);
}

static int is_head(off_t offset, size_t len)
{
    return len < META_PAGE && offset < (off_t)2 * META_PAGE;
}

/* 0, or the error that a write has to fail with. */
static int obstacle(off_t offset, size_t len)
{
    if (is_wrong("readonly"))
        return EROFS;
    if (is_head(offset, len) && is_wrong("meta"))
        return EIO;
    return is_wrong("full") && offset + (off_t)len > claimed ? ENOSPC : 0;
}

static char kind_of(int fd)
{
    return fcntl(fd, F_GETFL) & O_DSYNC ? 'D' : 'W';
}

#define REAL(type, name, ...)                                                                      \
    static type (*real)(__VA_ARGS__);                                                              \
    if (!real)                                                                                     \
    real = (type(*)(__VA_ARGS__))(uintptr_t)dlsym(RTLD_NEXT, name)

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t offset)
{
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    struct iovec all = {(void *)(uintptr_t)bytes, len};
    if (is_checkpoint(fd))
        note('w', offset, &all, 1);
    if (!is_data(fd))
        return real(fd, bytes, len, offset);
    int error = obstacle(offset, len);
    if (error) {
        errno = error;
        return -1;
    }
    ssize_t n = real(fd, bytes, len, offset);
    if (n > 0)
        note(kind_of(fd), offset, &(struct iovec){(void *)(uintptr_t)bytes, (size_t)n}, 1);
    if (is_head(offset, len) && is_wrong("late")) {
        errno = EIO;
        return -1;
    }
    return n;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t offset)
{
    return pwrite(fd, bytes, len, offset);
}

/* LMDB seeks before it writes several pages at once. */
ssize_t writev(int fd, const struct iovec *iov, int count)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    size_t len = 0;
    if (!is_data(fd))
        return real(fd, iov, count);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    for (int i = 0; i < count; i++)
        len += iov[i].iov_len;
    int error = obstacle(offset, len);
    if (error) {
        errno = error;
        return -1;
    }
    ssize_t n = real(fd, iov, count);
    if (n >= 0 && n != (ssize_t)len) /* it would need bookkeeping of its own; none was ever seen */
        abort();
    if (n > 0)
        note(kind_of(fd), offset, iov, count);
    return n;
}

ssize_t write(int fd, const void *bytes, size_t len)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!is_data(fd))
        return real(fd, bytes, len);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    int error = obstacle(offset, len);
    if (error) {
        errno = error;
        return -1;
    }
    ssize_t n = real(fd, bytes, len);
    if (n > 0)
        note(kind_of(fd), offset, &(struct iovec){(void *)(uintptr_t)bytes, (size_t)n}, 1);
    return n;
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    int of_checkpoint = is_checkpoint(fd);
    if (!of_checkpoint && !is_data(fd))
        return real(fd);
    if (is_wrong("hang"))
        tell_hung();
    while (is_wrong("hang"))
        usleep(1000);
    if (is_wrong("sync")) {
        note(of_checkpoint ? 'f' : 'F', 0, NULL, 0);
        errno = EIO;
        return -1;
    }
    int result = real(fd);
    if (result == 0)
        note(of_checkpoint ? 's' : 'S', 0, NULL, 0);
    return result;
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    REAL(int, "fallocate", int, int, off_t, off_t);
    if (is_data(fd) && (mode & ~1) == 0) { /* a claim, not a hole */
        int error = is_wrong("readonly") ? EROFS : is_wrong("full") ? ENOSPC : 0;
        if (error) {
            errno = error;
            return -1;
        }
        if (offset + len > claimed)
            claimed = offset + len;
    }
    return real(fd, mode, offset, len);
}

int fallocate64(int fd, int mode, off_t offset, off_t len)
{
    return fallocate(fd, mode, offset, len);
}
