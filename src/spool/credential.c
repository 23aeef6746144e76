#include "spool/credential.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/crash_point.h"
#include "spool/home.h"

enum { FORM_VERSION = 1, NONCE_BYTES = 12, TAG_BYTES = 16 };

/* ---- the key ---- */

/* Under another name first: a crash leaves no key at its place, or a whole one that is on disk. */
static enum status make_key(struct credential_key *key, const char *path, struct failure *failure)
{
    char draft[4096];
    if (RAND_bytes(key->bytes, sizeof key->bytes) != 1)
        return failure_set(failure, STATUS_IO, "no random bytes for %s", path);
    if (snprintf(draft, sizeof draft, "%s.XXXXXX", path) >= (int)sizeof draft)
        return failure_set(failure, STATUS_INVALID, "%s: the name is too long", path);
    int fd = mkostemp(draft, O_CLOEXEC); /* with mode 0600 */
    if (fd < 0)
        return failure_set(failure, STATUS_IO, "cannot make %s: %s", path, strerror(errno));
    bool written =
        write(fd, key->bytes, sizeof key->bytes) == (ssize_t)sizeof key->bytes && fsync(fd) == 0;
    CRASH_POINT("in_make_key");
    int error = written && rename(draft, path) == 0 ? 0 : errno;
    close(fd);
    if (!error)
        return home_sync_parent(path, failure);
    unlink(draft);
    return failure_set(failure, STATUS_IO, "cannot write %s: %s", path, strerror(error));
}

/* As PostgreSQL has it for its keys: nobody else, or, for a file of root's, no more than a group
 * that may read; so do systemd's credentials and Kubernetes' secrets look. */
static bool others_may_read(const struct stat *st)
{
    bool is_roots = st->st_uid == 0 && geteuid() != 0;
    return st->st_mode & (is_roots ? 037 : 077);
}

static enum status read_key(int fd, struct credential_key *key, const char *path,
                            struct failure *failure)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return failure_set(failure, STATUS_IO, "%s: %s", path, strerror(errno));
    if (others_may_read(&st))
        return failure_set(failure, STATUS_PERMISSION,
                           "%s can be read by others; mend it with: chmod 600 %s", path, path);
    uint8_t extra;
    if (st.st_size < CREDENTIAL_KEY_BYTES)
        return failure_set(failure, STATUS_DAMAGED,
                           "%s has %lld bytes, a key has %d: it was cut off, and no password can "
                           "have been sealed with it; bring the right one back, or remove it for a "
                           "new one",
                           path, (long long)st.st_size, CREDENTIAL_KEY_BYTES);
    if (read(fd, key->bytes, sizeof key->bytes) != (ssize_t)sizeof key->bytes ||
        read(fd, &extra, 1) != 0)
        return failure_set(failure, STATUS_DAMAGED, "%s is not a key of %d bytes", path,
                           CREDENTIAL_KEY_BYTES);
    return STATUS_OK;
}

enum status credential_key_load(struct credential_key *key, const char *path,
                                struct failure *failure)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a pipe would wait for a writer */
    struct stat link;
    if (fd < 0 && errno == ENOENT && lstat(path, &link) == 0) /* on what is not mounted, perhaps */
        return failure_set(failure, STATUS_IO, "%s is a link to what is not there", path);
    if (fd < 0 && errno == ENOENT)
        return make_key(key, path, failure);
    if (fd < 0 && errno == EACCES)
        return failure_set(failure, STATUS_PERMISSION,
                           "%s may not be read; mend it with: chown %u:%u %s", path, geteuid(),
                           getegid(), path);
    if (fd < 0)
        return failure_set(failure, STATUS_IO, "cannot read %s: %s", path, strerror(errno));
    enum status status = read_key(fd, key, path, failure);
    close(fd);
    return status;
}

/* ---- sealing ---- */

/* User and vhost as additional data, each with its terminator, so that the border is fixed. */
static bool add_place(EVP_CIPHER_CTX *ctx, bool seal, const char *user, const char *vhost)
{
    int len;
    int (*update)(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int) =
        seal ? EVP_EncryptUpdate : EVP_DecryptUpdate;
    return update(ctx, NULL, &len, (const uint8_t *)user, (int)strlen(user) + 1) == 1 &&
           update(ctx, NULL, &len, (const uint8_t *)vhost, (int)strlen(vhost) + 1) == 1;
}

enum status credential_seal(const struct credential_key *key, const char *user, const char *vhost,
                            const uint8_t *password, size_t password_len, uint8_t *sealed)
{
    uint8_t *nonce = sealed + 1, *text = nonce + NONCE_BYTES, *tag = text + password_len;
    int len;
    sealed[0] = FORM_VERSION;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx && RAND_bytes(nonce, NONCE_BYTES) == 1 &&
              EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes, nonce) == 1 &&
              add_place(ctx, true, user, vhost) &&
              EVP_EncryptUpdate(ctx, text, &len, password, (int)password_len) == 1 &&
              EVP_EncryptFinal_ex(ctx, text + len, &len) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_BYTES, tag) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return ok ? STATUS_OK : STATUS_IO;
}

enum status credential_open(const struct credential_key *key, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t sealed_len, uint8_t *password,
                            size_t *password_len)
{
    if (sealed_len < CREDENTIAL_OVERHEAD_BYTES || sealed[0] != FORM_VERSION)
        return STATUS_DAMAGED;
    size_t text_len = sealed_len - CREDENTIAL_OVERHEAD_BYTES;
    const uint8_t *nonce = sealed + 1, *text = nonce + NONCE_BYTES, *tag = text + text_len;
    int len;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key->bytes, nonce) == 1 &&
              add_place(ctx, false, user, vhost) &&
              EVP_DecryptUpdate(ctx, password, &len, text, (int)text_len) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_BYTES, (void *)tag) == 1 &&
              EVP_DecryptFinal_ex(ctx, password + len, &len) == 1;
    EVP_CIPHER_CTX_free(ctx);
    *password_len = text_len;
    return ok ? STATUS_OK : STATUS_DAMAGED;
}

bool credential_equal(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len)
{
    return a_len == b_len && CRYPTO_memcmp(a, b, a_len) == 0;
}

void credential_wipe(void *memory, size_t len)
{
    OPENSSL_cleanse(memory, len);
}
