/* Sealed passwords, and the file with the key. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "spool/credential.h"

static const struct credential_key key = {{1, 2, 3}};
static const uint8_t password[] = "s3cret";

enum {
    PASSWORD_BYTES = sizeof password - 1,
    SEALED_BYTES = PASSWORD_BYTES + CREDENTIAL_OVERHEAD_BYTES
};

static enum status try_open(const struct credential_key *with, const char *user, const char *vhost,
                            const uint8_t *sealed, size_t len)
{
    uint8_t opened[SEALED_BYTES] = {0};
    size_t opened_len = 0;
    enum status status = credential_open(with, user, vhost, sealed, len, opened, &opened_len);
    if (status == STATUS_OK) {
        assert_int_equal(opened_len, PASSWORD_BYTES);
        assert_memory_equal(opened, password, PASSWORD_BYTES);
    }
    return status;
}

static void seal(uint8_t sealed[SEALED_BYTES])
{
    assert_int_equal(credential_seal(&key, "shop", "/", password, PASSWORD_BYTES, sealed),
                     STATUS_OK);
}

/* ---- sealing ---- */

static void test_there_and_back(void **state)
{
    (void)state;
    uint8_t sealed[SEALED_BYTES];
    seal(sealed);
    assert_int_equal(sealed[0], 1); /* the form's version */
    assert_null(memmem(sealed, sizeof sealed, password, PASSWORD_BYTES));
    assert_int_equal(try_open(&key, "shop", "/", sealed, sizeof sealed), STATUS_OK);
}

/* Sealed by another program after docs/spool-format.md: what is in a spool must open for ever. */
static void test_golden(void **state)
{
    (void)state;
    static const uint8_t golden[SEALED_BYTES] = {
        0x01, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2A,
        0x2B, 0xC8, 0xAB, 0xC7, 0xF6, 0x2E, 0xC0, 0x75, 0x15, 0x02, 0x12, 0xD2,
        0x05, 0x49, 0x22, 0x69, 0xFE, 0x86, 0x23, 0x22, 0x89, 0x2F, 0xB3};
    assert_int_equal(try_open(&key, "shop", "/", golden, sizeof golden), STATUS_OK);
}

static void test_empty_password(void **state)
{
    (void)state;
    uint8_t sealed[CREDENTIAL_OVERHEAD_BYTES], opened[1];
    size_t len = 1;
    assert_int_equal(credential_seal(&key, "shop", "/", (const uint8_t *)"", 0, sealed), STATUS_OK);
    assert_int_equal(credential_open(&key, "shop", "/", sealed, sizeof sealed, opened, &len),
                     STATUS_OK);
    assert_int_equal(len, 0);
}

static void test_a_nonce_each(void **state)
{
    (void)state;
    uint8_t one[SEALED_BYTES], other[SEALED_BYTES];
    seal(one);
    seal(other);
    assert_memory_not_equal(one + 1, other + 1, 12);
    assert_memory_not_equal(one + 13, other + 13, PASSWORD_BYTES);
}

static void test_wrong_key(void **state)
{
    (void)state;
    struct credential_key other = key;
    uint8_t sealed[SEALED_BYTES];
    seal(sealed);
    other.bytes[31] ^= 1;
    assert_int_equal(try_open(&other, "shop", "/", sealed, sizeof sealed), STATUS_DAMAGED);
}

static void test_other_place(void **state)
{
    (void)state;
    uint8_t sealed[SEALED_BYTES];
    seal(sealed);
    assert_int_equal(try_open(&key, "shop2", "/", sealed, sizeof sealed), STATUS_DAMAGED);
    assert_int_equal(try_open(&key, "shop", "/2", sealed, sizeof sealed), STATUS_DAMAGED);
    assert_int_equal(try_open(&key, "", "shop/", sealed, sizeof sealed), STATUS_DAMAGED);
    assert_int_equal(try_open(&key, "shop/", "", sealed, sizeof sealed), STATUS_DAMAGED);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    uint8_t sealed[SEALED_BYTES];
    seal(sealed);
    for (size_t bit = 0; bit < 8 * sizeof sealed; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(try_open(&key, "shop", "/", sealed, sizeof sealed), STATUS_DAMAGED);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t len = 0; len < sizeof sealed; len++)
        assert_int_equal(try_open(&key, "shop", "/", sealed, len), STATUS_DAMAGED);
}

/* ---- comparing and wiping ---- */

static void test_equal(void **state)
{
    (void)state;
    const uint8_t a[] = "abc", b[] = "abd";
    assert_true(credential_equal(a, 3, a, 3));
    assert_true(credential_equal(a, 2, b, 2));
    assert_false(credential_equal(a, 3, b, 3));
    assert_false(credential_equal(a, 2, a, 3));
    assert_true(credential_equal(a, 0, b, 0));
}

static void test_wipe(void **state)
{
    (void)state;
    char secret[] = "secret";
    static const char zeros[sizeof secret];
    credential_wipe(secret, sizeof secret);
    assert_memory_equal(secret, zeros, sizeof secret);
}

/* ---- the key file ---- */

struct key_file {
    char directory[64], path[80];
    struct failure failure;
};

static int make_directory(void **state)
{
    struct key_file *file = calloc(1, sizeof *file);
    if (!file)
        return 1;
    snprintf(file->directory, sizeof file->directory, "%s/amqpbuf-test-XXXXXX", P_tmpdir);
    snprintf(file->path, sizeof file->path, "%s/key", mkdtemp(file->directory));
    *state = file;
    return 0;
}

static int remove_directory(void **state)
{
    struct key_file *file = *state;
    unlink(file->path);
    int failed = rmdir(file->directory);
    free(file);
    return failed;
}

static void write_key(const struct key_file *file, size_t len, mode_t mode)
{
    static const uint8_t bytes[CREDENTIAL_KEY_BYTES + 1] = {7};
    int fd = open(file->path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void test_key_is_made(void **state)
{
    struct key_file *file = *state;
    struct credential_key made, again;
    static const struct credential_key zeros;
    struct stat st;
    mode_t mask = umask(0);
    assert_int_equal(credential_key_load(&made, file->path, &file->failure), STATUS_OK);
    umask(mask);
    assert_int_equal(stat(file->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, CREDENTIAL_KEY_BYTES);
    assert_memory_not_equal(&made, &zeros, sizeof made);
    assert_int_equal(credential_key_load(&again, file->path, &file->failure), STATUS_OK);
    assert_memory_equal(&made, &again, sizeof made);
}

static void test_keys_differ(void **state)
{
    struct key_file *file = *state;
    struct credential_key one, other;
    assert_int_equal(credential_key_load(&one, file->path, &file->failure), STATUS_OK);
    assert_int_equal(unlink(file->path), 0);
    assert_int_equal(credential_key_load(&other, file->path, &file->failure), STATUS_OK);
    assert_memory_not_equal(&one, &other, sizeof one);
}

static void test_key_that_others_may_read(void **state)
{
    struct key_file *file = *state;
    static const mode_t modes[] = {0644, 0640, 0604, 0620, 0601};
    struct credential_key loaded;
    char mends[128];
    snprintf(mends, sizeof mends, "chmod 600 %s", file->path);
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        write_key(file, CREDENTIAL_KEY_BYTES, modes[i]);
        assert_int_equal(credential_key_load(&loaded, file->path, &file->failure),
                         STATUS_PERMISSION);
        assert_int_equal(file->failure.status, STATUS_PERMISSION);
        assert_non_null(strstr(file->failure.text, mends));
    }
    write_key(file, CREDENTIAL_KEY_BYTES, 0400);
    assert_int_equal(credential_key_load(&loaded, file->path, &file->failure), STATUS_OK);
    assert_int_equal(loaded.bytes[0], 7);
}

static void test_key_of_another_length(void **state)
{
    struct key_file *file = *state;
    static const size_t lengths[] = {0, 1, CREDENTIAL_KEY_BYTES - 1, CREDENTIAL_KEY_BYTES + 1};
    struct credential_key loaded;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        write_key(file, lengths[i], 0600);
        assert_int_equal(credential_key_load(&loaded, file->path, &file->failure), STATUS_DAMAGED);
        assert_non_null(strstr(file->failure.text, file->path));
        if (lengths[i] < CREDENTIAL_KEY_BYTES)
            assert_non_null(strstr(file->failure.text, "cut off"));
    }
}

static void test_key_in_no_directory(void **state)
{
    struct key_file *file = *state;
    struct credential_key loaded;
    char path[128];
    snprintf(path, sizeof path, "%s/none/key", file->directory);
    assert_int_equal(credential_key_load(&loaded, path, &file->failure), STATUS_IO);
    assert_non_null(strstr(file->failure.text, path));
}

/* On what is not mounted, perhaps: a new one would be in the place of that which is to come back.
 */
static void test_key_behind_a_broken_link(void **state)
{
    struct key_file *file = *state;
    struct credential_key loaded;
    char target[80];
    snprintf(target, sizeof target, "%s/none", file->directory);
    assert_int_equal(symlink(target, file->path), 0);
    assert_int_equal(credential_key_load(&loaded, file->path, &file->failure), STATUS_IO);
    assert_non_null(strstr(file->failure.text, "link"));
    struct stat st;
    assert_int_equal(lstat(file->path, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_empty_password),
        cmocka_unit_test(test_a_nonce_each),
        cmocka_unit_test(test_wrong_key),
        cmocka_unit_test(test_other_place),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_wipe),
        WITH_FILE(test_key_is_made),
        WITH_FILE(test_keys_differ),
        WITH_FILE(test_key_that_others_may_read),
        WITH_FILE(test_key_of_another_length),
        WITH_FILE(test_key_in_no_directory),
        WITH_FILE(test_key_behind_a_broken_link),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
