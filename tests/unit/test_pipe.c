/* What cannot be read a second time is told apart from files. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/pipe.h"

static void test_pipes_and_terminals(void **state)
{
    (void)state;
    char folder[] = "/tmp/amqpbuf-pipe-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_true(pipe_is_at(path));
    assert_true(pipe_is_at("/dev/ptmx"));
    assert_false(pipe_is_at("/dev/null"));
    assert_false(pipe_is_at(folder));
    unlink(path);
    assert_false(pipe_is_at(path));
    rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pipes_and_terminals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
