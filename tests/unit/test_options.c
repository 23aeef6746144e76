/* The command line. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "options.h"

enum { ARGUMENTS_MAX = 8 };

struct parsing {
    char *arguments[ARGUMENTS_MAX]; /* behind the program's name */
    struct options options;
    char *said;
};

static bool parse(struct parsing *p)
{
    char *argv[ARGUMENTS_MAX + 2] = {"amqpbuf"};
    int argc = 1;
    while (argc <= ARGUMENTS_MAX && p->arguments[argc - 1]) {
        argv[argc] = p->arguments[argc - 1];
        argc++;
    }
    size_t said_size;
    FILE *errors = open_memstream(&p->said, &said_size);
    bool understood = options_parse(&p->options, argc, argv, errors);
    fclose(errors);
    return understood;
}

static void done(struct parsing *p)
{
    options_free(&p->options);
    free(p->said);
}

static void test_none(void **state)
{
    (void)state;
    struct parsing p = {0};
    assert_true(parse(&p));
    assert_string_equal(p.said, "");
    assert_int_equal(p.options.action, OPTIONS_RUN);
    assert_null(p.options.file);
    assert_int_equal(p.options.set_count, 0);
    done(&p);
}

static void test_sources(void **state)
{
    (void)state;
    struct parsing p = {.arguments = {"--set", "a.b=1", "-c", "x.ini", "--set=c.d=--2"}};
    char *environment[] = {NULL};
    assert_true(parse(&p));
    struct config_sources sources = options_sources(&p.options, environment);
    assert_string_equal(sources.file, "x.ini");
    assert_int_equal(sources.set_count, 2);
    assert_string_equal(sources.sets[0], "a.b=1");
    assert_string_equal(sources.sets[1], "c.d=--2");
    assert_ptr_equal(sources.environment, environment);
    done(&p);
}

static void test_actions(void **state)
{
    (void)state;
    static const struct {
        char *argument;
        enum options_action action;
    } cases[] = {
        {"--check", OPTIONS_CHECK},     {"--print-config", OPTIONS_PRINT_CONFIG},
        {"--version", OPTIONS_VERSION}, {"--help", OPTIONS_HELP},
        {"-V", OPTIONS_VERSION},        {"-h", OPTIONS_HELP},
        {"--config=f", OPTIONS_RUN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parsing p = {.arguments = {cases[i].argument}};
        assert_true(parse(&p));
        assert_int_equal(p.options.action, cases[i].action);
        done(&p);
    }
}

static void test_wrong_usage(void **state)
{
    (void)state;
    static const struct {
        char *arguments[2];
        const char *said;
    } cases[] = {
        {{"-x"}, "-x: unknown option"},
        {{"-xc"}, "-x: unknown option"},
        {{"--frob"}, "--frob: unknown option"},
        {{"--frob=1"}, "--frob: unknown option"},
        {{"--check=1"}, "--check: takes no value"},
        {{"--help=1"}, "--help: takes no value"},
        {{"--version=1"}, "--version: takes no value"},
        {{"-c"}, "-c: needs a value"},
        {{"--check", "--set"}, "--set: needs a value"},
        {{"proxy.ini"}, "argument 1: is no option, and no value of one"},
        {{"--", "--check"}, "argument 2: is no option, and no value of one"},
        {{"-\x1b"}, "-...: unknown option"},
        {{"-\xc3\xa9"}, "-...: unknown option"},
        {{"--a\x1b[1m"}, "--a...: unknown option"},
        {{"amqp://u:secret@h"}, "argument 1: is no option, and no value of one"},
        {{"--url=amqp://u:secret@h"}, "--url: unknown option"},
        {{"--url:amqp://u:secret@h"}, "--url...: unknown option"},
        {{"--check=amqp://u:secret@h"}, "--check: takes no value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct parsing p = {.arguments = {cases[i].arguments[0], cases[i].arguments[1]}};
        char expected[128];
        snprintf(expected, sizeof expected, "amqpbuf: %s\nTry amqpbuf --help\n", cases[i].said);
        assert_false(parse(&p));
        assert_string_equal(p.said, expected);
        done(&p);
    }
}

static void test_version(void **state)
{
    (void)state;
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    options_print_version(out);
    fclose(out);
    assert_string_equal(text, "amqpbuf " AMQPBUF_VERSION "\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none),    cmocka_unit_test(test_sources),
        cmocka_unit_test(test_actions), cmocka_unit_test(test_wrong_usage),
        cmocka_unit_test(test_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
