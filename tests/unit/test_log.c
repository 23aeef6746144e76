/* Log lines: read back through a socket that keeps one write(2) one packet. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "../support/log_lines.h"
#include "base/log.h"

static void test_logfmt(void **state)
{
    (void)state;
    log_init(LOG_INFO, LOG_LOGFMT);
    LOG(LOG_INFO, "upstream_connected", LOG_T("user", "shop"), LOG_T("left_out", NULL),
        LOG_N("port", 5672), LOG_N("least", LLONG_MIN));
    assert_string_equal(log_next_line(), "level=info event=upstream_connected user=shop port=5672 "
                                         "least=-9223372036854775808\n");
    LOG(LOG_ERROR, "stopping");
    assert_string_equal(log_next_line(), "level=error event=stopping\n");
    assert_string_equal(log_next_write(), "");
}

static void test_time(void **state)
{
    (void)state;
    log_init(LOG_INFO, LOG_LOGFMT);
    time_t before = time(NULL);
    LOG(LOG_INFO, "x");
    time_t after = time(NULL);
    struct tm date = {0};
    const char *text = log_next_write();
    const char *rest = strptime(text, "ts=%Y-%m-%dT%H:%M:%S.", &date);
    assert_non_null(rest);
    assert_int_equal(strspn(rest, "0123456789"), 6);
    assert_memory_equal(rest + 6, "Z ", 2);
    time_t at = timegm(&date);
    assert_true(at >= before && at <= after);
}

static void test_levels(void **state)
{
    (void)state;
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (int least = LOG_DEBUG; least <= LOG_ERROR; least++) {
        log_init((enum log_level)least, LOG_LOGFMT);
        for (int level = LOG_DEBUG; level <= LOG_ERROR; level++) {
            LOG((enum log_level)level, "x");
            char expected[64] = "";
            if (level >= least)
                snprintf(expected, sizeof expected, "level=%s event=x\n", names[level]);
            assert_int_equal(log_enabled((enum log_level)level), level >= least);
            assert_string_equal(level >= least ? log_next_line() : log_next_write(), expected);
        }
    }
}

static void test_logfmt_quoting(void **state)
{
    (void)state;
    static const struct {
        const char *value, *written;
    } cases[] = {
        {"", "\"\""},
        {"a/b:c,d", "a/b:c,d"},
        {"caf\xc3\xa9\xf0\x9f\x90\x87", "caf\xc3\xa9\xf0\x9f\x90\x87"},
        {"a b", "\"a b\""},
        {"a=b", "\"a=b\""},
        {"a\"b\\c", "\"a\\\"b\\\\c\""},
        {"a\nb\rc\td", "\"a\\nb\\rc\\td\""},
        {"\x1b[1m\x01\x7f", "\"\\u001b[1m\\u0001\\u007f\""},
        {"\xc2\x9b", "\"\\u009b\""},
        {"a\xe2\x80\xa8level=error", "\"a\\u2028level=error\""}, /* a line's end to some */
        {"\xe2\x80\xae\xe2\x81\xa7", "\"\\u202e\\u2067\""},      /* to the left from here */
        {"\xe2\x80\xa7\xe2\x80\xaf", "\xe2\x80\xa7\xe2\x80\xaf"},
        {"\xff"
         "a",
         "\"\\ufffda\""},
        {"\xc3", "\"\\ufffd\""},
        {"\xe2\x82", "\"\\ufffd\\ufffd\""},
        {"\xc0\xaf", "\"\\ufffd\\ufffd\""},
        {"\xe0\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\""},
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},
        {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},
        {"\xf8\x88\x80\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\""},
        {"\xef\xbf\xbd x", "\"\xef\xbf\xbd x\""},
    };
    log_init(LOG_INFO, LOG_LOGFMT);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char expected[256];
        snprintf(expected, sizeof expected, "level=info event=x v=%s n=1\n", cases[i].written);
        LOG(LOG_INFO, "x", LOG_T("v", cases[i].value), LOG_N("n", 1));
        assert_string_equal(log_next_line(), expected);
    }
}

static json_t *next_object(void)
{
    const char *text = log_next_write();
    assert_int_equal(text[strlen(text) - 1], '\n');
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    json_t *object = json_loads(text, 0, NULL);
    assert_true(json_is_object(object));
    return object;
}

/* Only the journal reads "<4>" as a priority: another stream of the same process must not get it.
 */
static void test_priority_for_the_journal(void **state)
{
    (void)state;
    static const struct {
        enum log_level level;
        const char *start;
    } cases[] = {
        {LOG_DEBUG, "<7>ts="}, {LOG_INFO, "<6>ts="}, {LOG_WARN, "<4>ts="}, {LOG_ERROR, "<3>ts="}};
    struct stat stat;
    char stream[64];
    assert_int_equal(fstat(STDERR_FILENO, &stat), 0);
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)stat.st_dev,
             (unsigned long long)stat.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init(LOG_DEBUG, LOG_LOGFMT);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        LOG(cases[i].level, "x");
        assert_memory_equal(log_next_write(), cases[i].start, strlen(cases[i].start));
    }
    setenv("JOURNAL_STREAM", "1:1", 1);
    log_init(LOG_INFO, LOG_LOGFMT);
    LOG(LOG_WARN, "x");
    assert_memory_equal(log_next_write(), "ts=", 3);
    unsetenv("JOURNAL_STREAM");
    log_init(LOG_INFO, LOG_LOGFMT);
}

static void test_json(void **state)
{
    (void)state;
    static const char value[] = "a \"b\" \\ \n\x01\x7f caf\xc3\xa9 =";
    log_init(LOG_INFO, LOG_JSON);
    LOG(LOG_WARN, "queue_full", LOG_T("vhost", value), LOG_N("n", -7), LOG_T("none", NULL),
        LOG_T("bad", "\xff\xfe"), LOG_T("empty", ""));
    json_t *object = next_object();
    assert_int_equal(json_object_size(object), 7);
    assert_int_equal(strlen(json_string_value(json_object_get(object, "ts"))), 27);
    assert_string_equal(json_string_value(json_object_get(object, "level")), "warn");
    assert_string_equal(json_string_value(json_object_get(object, "event")), "queue_full");
    assert_string_equal(json_string_value(json_object_get(object, "vhost")), value);
    assert_int_equal(json_integer_value(json_object_get(object, "n")), -7);
    assert_string_equal(json_string_value(json_object_get(object, "bad")),
                        "\xef\xbf\xbd\xef\xbf\xbd");
    assert_string_equal(json_string_value(json_object_get(object, "empty")), "");
    json_decref(object);
}

/* One long value leaves room for the fields behind it, and is cut between two characters. */
static void test_a_long_value_is_cut(void **state)
{
    (void)state;
    char value[6001] = "";
    for (size_t i = 0; i + 2 < sizeof value; i += 2) {
        value[i] = '\xc3';
        value[i + 1] = '\xa9';
    }
    for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
        log_init(LOG_INFO, (enum log_format)format);
        LOG(LOG_INFO, "x", LOG_T("v", value), LOG_T("next", "here"));
        if (format == LOG_LOGFMT) {
            const char *line = log_next_line();
            assert_non_null(strstr(line, "\xc3\xa9\xe2\x80\xa6 next=here\n"));
            assert_true(strlen(line) < 1200);
            continue;
        }
        json_t *object = next_object();
        assert_string_equal(json_string_value(json_object_get(object, "next")), "here");
        json_decref(object);
    }
}

/* However the line's end is met, it is one line of at most PIPE_BUF bytes in one write. */
static void test_a_full_line(void **state)
{
    (void)state;
    char values[5][1025], key[128];
    memset(key, 'k', sizeof key);
    for (size_t cut = 0; cut < 140; cut++) {
        for (size_t i = 0; i < 5; i++) {
            memset(values[i], "a\"\x01\xc3z"[i], sizeof values[i]);
            values[i][i == 2 ? 600 + cut : 1000] = '\0';
        }
        key[cut % (sizeof key - 1) + 1] = '\0';
        const struct log_field fields[] = {
            LOG_T("a", values[0]), LOG_T("b", values[1]), LOG_T("c", values[2]),
            LOG_T("d", values[3]), LOG_N(key, 1),         LOG_T("e", values[4]),
            LOG_N("f", LLONG_MIN), LOG_T("g", ""),        LOG_N("h", 1),
        };
        for (int format = LOG_LOGFMT; format <= LOG_JSON; format++) {
            log_init(LOG_INFO, (enum log_format)format);
            log_write(LOG_INFO, "x", fields, sizeof fields / sizeof fields[0]);
            const char *line = log_next_write();
            size_t len = strlen(line);
            assert_true(len > 3000 && len <= PIPE_BUF);
            assert_ptr_equal(strchr(line, '\n'), line + len - 1);
            if (format == LOG_JSON) {
                json_t *object = json_loads(line, 0, NULL);
                assert_non_null(object);
                json_decref(object);
            }
            assert_string_equal(log_next_write(), "");
        }
        key[cut % (sizeof key - 1) + 1] = 'k';
    }
}

/* Every line is either there or counted, and a second has no more than its share. */
static void test_what_comes_often(void **state)
{
    (void)state;
    enum { LINES = 100 };
    int written = 0, suppressed = 0;
    time_t begin = time(NULL);
    log_init(LOG_INFO, LOG_LOGFMT);
    for (int i = 0; written + suppressed < LINES; i++) {
        assert_true(i < 100 * LINES);
        if (i < LINES)
            LOG_OFTEN(LOG_INFO, "flood", LOG_N("i", i));
        else
            usleep(100000);
        log_tell_suppressed();
        for (const char *text = log_next_write(); text[0]; text = log_next_write()) {
            int lines;
            const char *told = strstr(text, " event=log_suppressed of=flood lines=");
            if (told && sscanf(told, " event=log_suppressed of=flood lines=%d", &lines) == 1) {
                suppressed += lines;
            } else {
                assert_non_null(strstr(text, " event=flood i="));
                written++;
            }
        }
    }
    assert_int_equal(written + suppressed, LINES);
    /* A second of the log's may begin in any of the clock's. */
    assert_in_range(written, 1, (time(NULL) - begin + 2) * LOG_OFTEN_LINES);
}

/* A pipe that nobody reads. */
static void test_who_does_not_read_is_not_waited_for(void **state)
{
    (void)state;
    enum { LINES = 1000, MOST_MS = 5000 };
    static char text[1 << 20];
    int ends[2], kept = dup(STDERR_FILENO);
    struct timespec begun, ended;
    log_init(LOG_INFO, LOG_LOGFMT);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    dup2(ends[1], STDERR_FILENO);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    alarm(60); /* it would wait for ever */
    for (int i = 0; i < LINES; i++)
        LOG(LOG_INFO, "line", LOG_N("i", i),
            LOG_T("text", "a value that makes the line longer, "
                          "so that the pipe is full soon"));
    alarm(0);
    clock_gettime(CLOCK_MONOTONIC, &ended);
    log_tell_suppressed(); /* not while nobody reads */
    ssize_t len = read(ends[0], text, sizeof text - 1);
    log_tell_suppressed();
    ssize_t more = read(ends[0], text + len, sizeof text - 1 - (size_t)len);
    log_tell_suppressed(); /* once */
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(ends[1]);
    char over;
    assert_int_equal(read(ends[0], &over, 1), 0);
    close(ends[0]);
    assert_true(len > 0 && more > 0);
    assert_in_range((ended.tv_sec - begun.tv_sec) * 1000, 0, MOST_MS);
    int whole = 0, lost = 0;
    const char *told = strstr(text + len, " event=log_lost lines=");
    for (const char *at = text; at < text + len; at = strchr(at, '\n') + 1) {
        assert_non_null(strstr(at, " event=line i="));
        whole++;
    }
    assert_non_null(told);
    assert_int_equal(sscanf(told, " event=log_lost lines=%d", &lost), 1);
    assert_int_equal(whole + lost, LINES);
}

/* As a full disk does, but for the signal. */
static void limit_files_to(rlim_t bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_lines_that_a_full_disk_cuts_off_are_told(void **state)
{
    (void)state;
    enum { ROOM = 1000 };
    static char text[1 << 16];
    char path[] = "/tmp/test_log.XXXXXX";
    int file = mkstemp(path), kept = dup(STDERR_FILENO);
    int more = open(path, O_WRONLY | O_APPEND), lost = 0, before = 0;
    assert_true(file >= 0 && kept >= 0 && more >= 0);
    unlink(path);
    log_init(LOG_INFO, LOG_LOGFMT);
    signal(SIGXFSZ, SIG_IGN);
    dup2(more, STDERR_FILENO);
    limit_files_to(ROOM);
    for (int i = 0; i < 30; i++) {
        LOG(LOG_INFO, "line", LOG_N("i", i));
        log_tell_suppressed(); /* not while there is no room */
    }
    limit_files_to(RLIM_INFINITY);
    LOG(LOG_INFO, "line", LOG_N("i", 30));
    log_tell_suppressed();
    log_tell_suppressed(); /* once */
    dup2(kept, STDERR_FILENO);
    ssize_t len = pread(file, text, sizeof text - 1, 0);
    close(kept);
    close(more);
    close(file);
    assert_in_range(len, ROOM, sizeof text - 1);
    for (const char *at = text; at < text + ROOM; at = strchr(at, '\n') + 1)
        before++; /* the last of them is the one that was cut off */
    const char *last = strstr(text + ROOM, " event=line i=30\n");
    const char *told = strstr(text + ROOM, " event=log_lost lines=");
    assert_non_null(last);
    assert_non_null(told);
    assert_memory_equal(text + ROOM, "\nts=", 4);
    assert_int_equal(sscanf(told, " event=log_lost lines=%d", &lost), 1);
    assert_int_equal(lost, 30 - (before - 1));
    assert_null(strstr(strchr(told, '\n'), "log_lost"));
}

static void test_errno_is_kept(void **state)
{
    (void)state;
    log_init(LOG_INFO, LOG_LOGFMT);
    int end = dup(STDERR_FILENO);
    close(STDERR_FILENO);
    errno = ENOTTY;
    LOG(LOG_INFO, "lost");
    int kept = errno;
    dup2(end, STDERR_FILENO);
    close(end);
    assert_int_equal(kept, ENOTTY);
    assert_string_equal(log_next_write(), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_logfmt, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_time, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_levels, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_logfmt_quoting, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_json, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_priority_for_the_journal, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_a_long_value_is_cut, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_a_full_line, log_redirect, log_restore),
        cmocka_unit_test_setup_teardown(test_what_comes_often, log_redirect, log_restore),
        cmocka_unit_test(test_who_does_not_read_is_not_waited_for),
        cmocka_unit_test(test_lines_that_a_full_disk_cuts_off_are_told),
        cmocka_unit_test_setup_teardown(test_errno_is_kept, log_redirect, log_restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
