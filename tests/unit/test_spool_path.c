/* Where amqpbuf-inspect and amqpbuf-ctl look for the spool. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/spool_path.h"

/* `text` is the file's; NULL: there is none. */
struct place {
    const char *text, *variable, *expected;
};

static void look(const struct place *place)
{
    char name[] = "/tmp/amqpbuf-test-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    if (place->text)
        assert_int_equal(write(fd, place->text, strlen(place->text)), strlen(place->text));
    else
        unlink(name);
    close(fd);
    if (place->variable)
        setenv("AMQPBUF_SPOOL_PATH", place->variable, 1);
    else
        unsetenv("AMQPBUF_SPOOL_PATH");
    char *found = spool_path_find(name, stderr);
    assert_string_equal(found, place->expected);
    free(found);
    unlink(name);
}

static void test_order(void **state)
{
    (void)state;
    static const char packaged[] = "[listen]\nport = 1\n[spool]\npath = /var/lib/x # here\n";
    static const struct place places[] = {
        {NULL, NULL, "./spool"},
        {NULL, "", "./spool"},
        {NULL, "/by/variable", "/by/variable"},
        {packaged, "/by/variable", "/by/variable"},
        {packaged, NULL, "/var/lib/x"},
        {packaged, "", "/var/lib/x"},
        {"[spool]\n#path = /x\n", NULL, "./spool"},
        {"[spool]\npath =\n", NULL, "./spool"},
        {"[listen]\npath = /x\n", NULL, "./spool"},
        {"[spool]\npath = /x\npath = /y\n[pool]\npath = /z\n", NULL, "/y"},
        {"nonsense\n[spool\npath = /z\n[spool]\nunknown = 1\npath = /x\n", NULL, "/x"},
    };
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        look(&places[i]);
}

static void test_file_that_may_not_be_read_is_told(void **state)
{
    (void)state;
    unsetenv("AMQPBUF_SPOOL_PATH");
    char link[] = "/tmp/amqpbuf-test-XXXXXX", *said = NULL;
    size_t said_size;
    int fd = mkstemp(link);
    assert_true(fd >= 0);
    close(fd);
    unlink(link);
    assert_int_equal(symlink(link, link), 0); /* root may read everything else */
    FILE *errors = open_memstream(&said, &said_size);
    char *found = spool_path_find(link, errors);
    fclose(errors);
    assert_string_equal(found, "./spool");
    assert_non_null(strstr(said, link));
    free(found);
    free(said);
    unlink(link);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_file_that_may_not_be_read_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
