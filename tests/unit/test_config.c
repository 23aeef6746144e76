/* The configuration: what each source may say, what wins, and what a person is told. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/word.h"
#include "config/config.h"
#include "config/hosts.h"
#include "config/table.h"

enum { SETS_MAX = 8, VARIABLES_MAX = 8, NOTES_BYTES = 256 };

/* What a case loads, and what came of it. */
struct loading {
    const char *file; /* its text; NULL: an empty one */
    size_t file_len;  /* 0: up to its NUL */
    const char *sets[SETS_MAX];
    char *variables[VARIABLES_MAX];
    struct config config;
    char *said;
    char path[32];
};

static bool load(struct loading *l)
{
    if (l->said)
        free(l->said);
    snprintf(l->path, sizeof l->path, "/tmp/amqpbuf-test-XXXXXX");
    int fd = mkstemp(l->path);
    assert_true(fd >= 0);
    size_t len = l->file_len ? l->file_len : l->file ? strlen(l->file) : 0;
    assert_int_equal(write(fd, l->file ? l->file : "", len), (ssize_t)len);
    close(fd);

    char *environment[VARIABLES_MAX + 1] = {NULL};
    for (unsigned i = 0; i < VARIABLES_MAX && l->variables[i]; i++)
        environment[i] = l->variables[i];
    struct config_sources sources = {.file = l->path, .sets = l->sets, .environment = environment};
    while (sources.set_count < SETS_MAX && l->sets[sources.set_count])
        sources.set_count++;

    size_t said_size;
    FILE *errors = open_memstream(&l->said, &said_size);
    bool loaded = config_load(&l->config, &sources, errors);
    fclose(errors);
    unlink(l->path);
    return loaded;
}

static void unload(struct loading *l)
{
    config_free(&l->config);
    free(l->said);
}

/* Loads what has to load without a word. */
static void load_fine(struct loading *l)
{
    bool loaded = load(l);
    assert_string_equal(l->said, "");
    assert_true(loaded);
}

/* Loads what must fail, with just these lines, and nothing left behind. FILE stands for the name
 * of the file. */
static void assert_refused(struct loading *l, const char *expected)
{
    static const struct config zeroed;
    assert_false(load(l));
    assert_memory_equal(&l->config, &zeroed, sizeof zeroed);
    char *want = NULL;
    size_t want_size;
    FILE *out = open_memstream(&want, &want_size);
    for (const char *mark; (mark = strstr(expected, "FILE")); expected = mark + 4)
        fprintf(out, "%.*s%s", (int)(mark - expected), expected, l->path);
    fputs(expected, out);
    fclose(out);
    assert_string_equal(l->said, want);
    free(want);
    unload(l);
}

/* The message names the option alone: its value may be anything. */
static void assert_set_refused(const char *set, const char *expected)
{
    char line[1024];
    snprintf(line, sizeof line, "--set %.*s: %s\n", (int)strcspn(set, "="), set, expected);
    assert_refused(&(struct loading){.sets = {set}}, line);
}

#define REFUSED_SET(set, expected) assert_set_refused(set, expected)
#define REFUSED_FILE(text, expected)                                                               \
    assert_refused(&(struct loading){.file = (text)}, expected "\n")

static void test_defaults(void **state)
{
    (void)state;
    struct loading l = {0};
    load_fine(&l);
    const struct config *c = &l.config;
    assert_string_equal(c->listen.address, "127.0.0.1");
    assert_int_equal(c->listen.port, 5673);
    assert_int_equal(c->listen.tls_port, 0);
    assert_string_equal(c->listen.tls_client_ca, "");
    assert_int_equal(c->listen.max_connections, 10000);
    assert_int_equal(c->listen.handshake_timeout_ms, 10000);
    assert_int_equal(c->listen.heartbeat_ms, 60000);
    assert_int_equal(c->listen.shutdown_timeout_ms, 10000);
    assert_string_equal(c->upstream.url, "amqp://127.0.0.1:5672");
    assert_int_equal(c->upstream.connect_timeout_ms, 5000);
    assert_int_equal(c->upstream.heartbeat_ms, 30000);
    assert_int_equal(c->upstream.reconnect_min_ms, 200);
    assert_int_equal(c->upstream.reconnect_max_ms, 5000);
    assert_true(c->upstream.tls_verify);
    assert_int_equal(c->pool.max_channels, 2047);
    assert_int_equal(c->pool.upstreams, 0); /* auto */
    assert_int_equal(c->pool.idle_timeout_ms, 300000);
    assert_int_equal(c->pool.cleanup_interval_ms, 30000);
    assert_int_equal(c->pool.publish_buffer_size, 0);
    assert_true(c->pool.close_waits);
    assert_int_equal(c->pool.confirm_timeout_ms, 30000);
    assert_string_equal(c->spool.path, "./spool");
    assert_int_equal(c->spool.max_size_bytes, 10ull << 30);
    assert_int_equal(c->spool.max_message_size_bytes, 128 << 20);
    assert_int_equal(c->spool.sync, CONFIG_SYNC_COMMIT);
    assert_int_equal(c->spool.sync_interval_ms, 200);
    assert_int_equal(c->spool.overflow, OVERFLOW_DISCONNECT);
    assert_int_equal(c->spool.unverified_logins, LOGINS_REJECT);
    assert_string_equal(c->spool.key_file, "");
    assert_int_equal(c->drain.confirms, CONFIRMS_AUTO);
    assert_int_equal(c->drain.window, 0); /* auto */
    assert_int_equal(c->pool.window, 0);
    assert_int_equal(c->pool.window_bytes, 8 << 20);
    assert_true(c->pool.confirm_transient);
    assert_int_equal(c->spool.mode, MODE_OUTAGE);
    assert_int_equal(c->spool.slow_after_ms, 500);
    assert_int_equal(c->drain.rate, 0);
    assert_int_equal(c->drain.expiration, EXPIRATION_SHORTEN);
    assert_string_equal(c->admin.address, "127.0.0.1");
    assert_int_equal(c->admin.port, 0);
    assert_string_equal(c->admin.hosts, "");
    assert_int_equal(c->log.level, LOG_INFO);
    assert_int_equal(c->log.format, LOG_LOGFMT);
    unload(&l);
}

static void test_precedence(void **state)
{
    (void)state;
    struct loading l = {
        .file = "[pool]\npublish_buffer_size = 1\nupstreams = 11\nmax_channels = 21\n",
        .variables = {"HOME=/", "AMQPBUF_POOL_PUBLISH_BUFFER_SIZE=2", "AMQPBUF_POOL_UPSTREAMS=12"},
        .sets = {"pool.publish_buffer_size=3", "pool.publish_buffer_size=4"},
    };
    load_fine(&l);
    assert_int_equal(l.config.pool.publish_buffer_size, 4);
    assert_int_equal(l.config.pool.upstreams, 12);
    assert_int_equal(l.config.pool.max_channels, 21);
    unload(&l);
}

/* Each option can be set under its own name, also where another section has a key of this name. */
static void test_every_option_by_every_source(void **state)
{
    (void)state;
    for (unsigned i = 0; i < config_table_count; i++) {
        const struct config_option *option = &config_table[i];
        char file[256], set[256], variable[256];
        snprintf(file, sizeof file, "[%s]\n%s = %s\n", option->section, option->key,
                 option->fallback);
        snprintf(set, sizeof set, "%s.%s=%s", option->section, option->key, option->fallback);
        snprintf(variable, sizeof variable, "AMQPBUF_%s_%s=%s", option->section, option->key,
                 option->fallback);
        for (char *c = variable; *c != '='; c++)
            *c = (char)toupper((unsigned char)*c);
        struct loading l = {.file = file, .sets = {set}, .variables = {variable}};
        load_fine(&l);
        unload(&l);
    }
}

static void test_file_syntax(void **state)
{
    (void)state;
    struct loading l = {
        .file = "\xef\xbb\xbf# a comment\r\n; and another\r\n"
                "[ spool ] # where it waits\r\n"
                "path = /srv/a;b#c ; a path with both marks in it\r\n"
                "   sync=never\r\n"
                "\tsync_interval : 1s\r\n"
                "key_file =\r\n"
                "[log]\nlevel=debug\nformat = json",
    };
    load_fine(&l);
    assert_string_equal(l.config.spool.path, "/srv/a;b#c");
    assert_int_equal(l.config.spool.sync, CONFIG_SYNC_NEVER);
    assert_int_equal(l.config.spool.sync_interval_ms, 1000);
    assert_string_equal(l.config.spool.key_file, "");
    assert_int_equal(l.config.log.level, LOG_DEBUG);
    assert_int_equal(l.config.log.format, LOG_JSON);
    unload(&l);
}

static void test_file_mistakes(void **state)
{
    (void)state;
    REFUSED_FILE("\n[pool]\npublish_bufer_size = 1\n",
                 "FILE:3: [pool] publish_bufer_size: unknown key, did you mean "
                 "publish_buffer_size?");
    REFUSED_FILE("[pool]\nunverified_logins = accept\n",
                 "FILE:2: [pool] unverified_logins: unknown key, did you mean the one in [spool]?");
    REFUSED_FILE("[poll]\nupstreams = x\n",
                 "FILE:1: [poll]: unknown section, did you mean [pool]?");
    REFUSED_FILE("[lgo]\n", "FILE:1: [lgo]: unknown section, did you mean [log]?");
    REFUSED_FILE("windov = 3\n", "FILE:1: windov: there is no [section] before it, did you mean "
                                 "window in [pool]?");
    REFUSED_FILE("[pool\nfoo = 1\n", "FILE:1: expected ] behind the section");
    REFUSED_FILE("[pool] upstreams = 1\n", "FILE:1: expected nothing behind [section]");
    REFUSED_FILE("[pool]\nupstreams\n", "FILE:2: expected key = value");
    REFUSED_FILE("[pool]\n= 3\n", "FILE:2: expected key = value");
    REFUSED_FILE("[pool]\nupstreams # = 3\n", "FILE:2: expected key = value");
    REFUSED_FILE("[spool]\npath = \"/srv\"\n",
                 "FILE:2: [spool] path: expected a value without quotes, found \"\"/srv\"\"");
    assert_refused(&(struct loading){.file = "[log]\nlevel = \0\n", .file_len = 16},
                   "FILE:2: a NUL byte in the line\n");
}

static void test_every_mistake_is_told(void **state)
{
    (void)state;
    assert_refused(
        &(struct loading){
            .file = "[pool]\nfoo\nclose_waits = maybe\n[nothing]\n[log]\nlevel = loud\n",
            .variables = {"AMQPBUF_DRAIN_WINDOW=0", "AMQPBUF_DRAIN_WINDOWS=1"},
            .sets = {"admin.port=http"},
        },
        "FILE:2: expected key = value\n"
        "FILE:3: [pool] close_waits: expected yes or no, found \"maybe\"\n"
        "FILE:4: [nothing]: unknown section, did you mean [drain]?\n"
        "FILE:6: [log] level: expected one of: debug info warn error, found \"loud\"\n"
        "AMQPBUF_DRAIN_WINDOW: expected auto or a number from 1 to 65535, found \"0\"\n"
        "AMQPBUF_DRAIN_WINDOWS: unknown option, did you mean AMQPBUF_DRAIN_WINDOW?\n"
        "--set admin.port: expected a port from 0 to 65535, found \"http\"\n");
}

/* The limit is on the line with its end; one byte more is an error and no value that was cut. */
static void test_long_lines(void **state)
{
    (void)state;
    char text[8192], expected[4096 + 8];
    int head = snprintf(text, sizeof text, "[spool]\npath = ");
    size_t fits = 4096 - strlen("path = ");
    memset(text + head, 'x', fits);
    snprintf(text + head + fits, 2, "\n");
    memset(expected, 'x', fits);
    expected[fits] = '\0';
    struct loading l = {.file = text};
    load_fine(&l);
    assert_string_equal(l.config.spool.path, expected);
    unload(&l);

    memset(text + head, 'x', fits + 64);
    snprintf(text + head + fits + 64, 32, "\n[log]\nlevel = high\n");
    REFUSED_FILE(text,
                 "FILE:2: the line is too long\n"
                 "FILE:4: [log] level: expected one of: debug info warn error, found \"high\"");
    memset(text + head - strlen("path = "), '#', 1);
    snprintf(text + head + fits + 64, 32, "\n[log]\nlevel = warn\n");
    l = (struct loading){.file = text};
    load_fine(&l);
    assert_int_equal(l.config.log.level, LOG_WARN);
    unload(&l);
}

static void test_a_key_set_twice_is_a_warning(void **state)
{
    (void)state;
    struct loading l = {.file = "[pool]\nupstreams = 3\n[log]\n[pool]\nupstreams = 4\n"};
    assert_true(load(&l));
    char expected[128];
    snprintf(expected, sizeof expected,
             "warning: %s:5: [pool] upstreams: was set in line 2, this one counts\n", l.path);
    assert_string_equal(l.said, expected);
    assert_int_equal(l.config.pool.upstreams, 4);
    unload(&l);
}

static void test_missing_files(void **state)
{
    (void)state;
    char *said;
    size_t size;
    struct config config;
    FILE *errors = open_memstream(&said, &size);
    assert_false(config_load(&config, &(struct config_sources){.file = "/nowhere/x.ini"}, errors));
    assert_false(config_load(&config, &(struct config_sources){.file = "/"}, errors));
    fclose(errors);
    assert_string_equal(said, "/nowhere/x.ini: cannot be opened: No such file or directory\n"
                              "/: Is a directory\n");
    free(said);
}

/* What Kubernetes sets for services whose names begin with ours. */
static void test_services(void)
{
    struct loading l = {
        .variables = {"AMQPBUF_ADMIN_SERVICE_HOST=10.0.0.1", "AMQPBUF_HEADLESS_SERVICE_PORT=80",
                      "AMQPBUF_ADMIN_SERVICE_PORT_HTTP=80", "AMQPBUF_SHOP_PORT=udp://10.0.0.1:53",
                      "AMQPBUF_ADMIN_PORT_80_TCP=tcp://10.0.0.1:80",
                      "AMQPBUF_ADMIN_PORT_80_TCP_PORT=80"},
    };
    load_fine(&l);
    unload(&l);
    l = (struct loading){.sets = {"admin.port=9419"},
                         .variables = {"AMQPBUF_LISTEN_PORT=tcp://10.0.0.1:80"}};
    assert_true(load(&l));
    assert_string_equal(l.said,
                        "warning: AMQPBUF_LISTEN_PORT: is left out: Kubernetes sets it for a "
                        "service of this name\n");
    assert_int_equal(l.config.listen.port, 5673);
    unload(&l);
    assert_refused(&(struct loading){.variables = {"AMQPBUF_LISTEN_PORT=tcp", "AMQPBUF_PORT=1",
                                                   "AMQPBUF_SHOP_PORT_HTTP=1"}},
                   "AMQPBUF_LISTEN_PORT: expected a port from 0 to 65535, found \"tcp\"\n"
                   "AMQPBUF_PORT: unknown option, did you mean AMQPBUF_SPOOL_PATH?\n"
                   "AMQPBUF_SHOP_PORT_HTTP: unknown option, did you mean AMQPBUF_SPOOL_PATH?\n");
}

static void test_environment(void **state)
{
    (void)state;
    struct loading l = {
        .variables = {"AMQPBUF_TEST_SOMETHING=1", "AMQPBUF_SERVICE_HOST=10.0.0.1",
                      "AMQPBUF_PORT=tcp://10.0.0.1:5673", "AMQPBUF_PORT_5673_TCP_ADDR=10.0.0.1",
                      "AMQPBUFX=1", "AMQPBUF_SPOOL_PATH=/a=b", "AMQPBUF_SPOOL_KEY_FILE="},
    };
    load_fine(&l);
    assert_string_equal(l.config.spool.path, "/a=b");
    unload(&l);
    test_services();
    assert_refused(
        &(struct loading){.variables = {"AMQPBUF_POOL_FOO=1", "AMQPBUF_POOL=2",
                                        "AMQPBUF_SPOOL_SINK=commit", "AMQPBUF_pool_upstreams=3",
                                        "AMQPBUF_LOG_LEVEL="}},
        "AMQPBUF_POOL_FOO: unknown option, did you mean AMQPBUF_POOL_WINDOW?\n"
        "AMQPBUF_POOL: unknown option, did you mean AMQPBUF_POOL_WINDOW?\n"
        "AMQPBUF_SPOOL_SINK: unknown option, did you mean AMQPBUF_SPOOL_SYNC?\n"
        "AMQPBUF_pool_upstreams: unknown option, did you mean AMQPBUF_POOL_UPSTREAMS?\n"
        "AMQPBUF_LOG_LEVEL: expected one of: debug info warn error, found nothing\n");
}

static void test_set_mistakes(void **state)
{
    (void)state;
    REFUSED_SET("pool.close_waits=maybe", "expected yes or no, found \"maybe\"");
    REFUSED_SET("pool.close_waits=", "expected yes or no, found nothing");
    REFUSED_SET("upstreams", "expected SECTION.KEY=VALUE");
    REFUSED_SET("pool.upstreams", "expected SECTION.KEY=VALUE");
    assert_refused(&(struct loading){.sets = {"upstreams=a.b", "poll.upstreams=1", "pool.sync=1"}},
                   "--set upstreams: expected SECTION.KEY=VALUE\n"
                   "--set poll.upstreams: unknown key, did you mean pool.upstreams?\n"
                   "--set pool.sync: unknown key, did you mean spool.sync?\n");
}

#define URL "amqp://u:secret@h"

/* A URL that has come to a wrong place: no message has its password. */
static void test_no_message_has_a_password(void **state)
{
    (void)state;
    assert_refused(&(struct loading){.sets = {"upstream.url " URL, "upstream.url:" URL "=1", URL,
                                              "amqp://u:secret@h.x=1", "poll.url=" URL}},
                   "--set upstream.url...: expected SECTION.KEY=VALUE\n"
                   "--set upstream.url...: unknown key, did you mean upstream.tls_private_key?\n"
                   "--set amqp...: expected SECTION.KEY=VALUE\n"
                   "--set amqp...: unknown key, did you mean pool.upstreams?\n"
                   "--set poll.url: unknown key, did you mean spool.path?\n");
    REFUSED_SET("listen.address=" URL, "expected an IPv4 or IPv6 address, found \"(a URL)\"");
    REFUSED_SET("listen.address=u:secret@h", "expected an IPv4 or IPv6 address, found \"(a URL)\"");
    REFUSED_SET("spool.path=" URL, "expected a file's name, found \"(a URL)\"");
    REFUSED_FILE("[upstream url=" URL "]\n[upstream]\nu//u@secret@h = 1\nurl" URL "\n",
                 "FILE:1: [upstream...]: unknown section, did you mean [upstream]?\n"
                 "FILE:3: [upstream] u...: unknown key, did you mean url?\n"
                 "FILE:4: [upstream] urlamqp: unknown key, did you mean url?");
    assert_refused(
        &(struct loading){.variables = {"AMQPBUF_UPSTREAM_" URL "=1"}},
        "AMQPBUF_UPSTREAM_amqp...: unknown option, did you mean AMQPBUF_UPSTREAM_URL?\n");
    struct config config;
    char *said;
    size_t size;
    FILE *errors = open_memstream(&said, &size);
    assert_false(config_load(&config, &(struct config_sources){.file = URL}, errors));
    fclose(errors);
    assert_string_equal(said, "(a URL): cannot be opened: No such file or directory\n");
    free(said);
}

/* C0, C1 and a byte that is not UTF-8, wherever a name is told. */
static void test_no_message_steers_a_terminal(void **state)
{
    (void)state;
    REFUSED_FILE("[\x1b[2Jpool]\n[pool]\nwin\x1b"
                 "dow = 1\nwin\xc2\x9bm = 1\n",
                 "FILE:1: [...]: unknown section, did you mean [pool]?\n"
                 "FILE:3: [pool] win...: unknown key, did you mean window?\n"
                 "FILE:4: [pool] win...: unknown key, did you mean window?");
    assert_refused(&(struct loading){.variables = {"AMQPBUF_LOG\x1b[1m=1"}},
                   "AMQPBUF_LOG...: unknown option, did you mean AMQPBUF_LOG_LEVEL?\n");
    REFUSED_SET("spool.path=/a\x1b[1m", "expected a value without control characters, found "
                                        "\"/a?[1m\"");
    REFUSED_SET("log.level=\xc2\x9b\xff\xc3\xa9",
                "expected one of: debug info warn error, found \"??\xc3\xa9\"");
    struct config config;
    char *said;
    size_t size;
    FILE *errors = open_memstream(&said, &size);
    struct config_sources sources = {.file = "/nowhere/\x1b[1m\n"};
    assert_false(config_load(&config, &sources, errors));
    fclose(errors);
    assert_string_equal(said, "/nowhere/?[1m?: cannot be opened: No such file or directory\n");
    free(said);
}

static void test_values(void **state)
{
    (void)state;
    struct loading l = {.sets = {"pool.idle_timeout=90m", "pool.cleanup_interval=250ms",
                                 "listen.heartbeat=0", "spool.max_size=2097152",
                                 "spool.max_message_size=64KiB", "listen.address=::1",
                                 "pool.close_waits=no", "upstream.reconnect_max=1h"}};
    load_fine(&l);
    assert_int_equal(l.config.pool.idle_timeout_ms, 5400000);
    assert_int_equal(l.config.pool.cleanup_interval_ms, 250);
    assert_int_equal(l.config.listen.heartbeat_ms, 0);
    assert_int_equal(l.config.spool.max_size_bytes, 2097152);
    assert_int_equal(l.config.spool.max_message_size_bytes, 65536);
    assert_string_equal(l.config.listen.address, "::1");
    assert_false(l.config.pool.close_waits);
    assert_int_equal(l.config.upstream.reconnect_max_ms, 3600000);
    unload(&l);
}

static void test_values_refused(void **state)
{
    (void)state;
    REFUSED_SET("listen.port=65536", "expected a port from 0 to 65535, found \"65536\"");
    REFUSED_SET("listen.port=-1", "expected a port from 0 to 65535, found \"-1\"");
    REFUSED_SET("listen.port=5673x", "expected a port from 0 to 65535, found \"5673x\"");
    REFUSED_SET("pool.max_channels=0", "expected a number from 1 to 65535, found \"0\"");
    REFUSED_SET("drain.rate=18446744073709551617",
                "expected a number from 0 to 1000000000, found \"18446744073709551617\"");
    REFUSED_SET("pool.idle_timeout=5",
                "expected a duration in ms, s, m or h from 0s to 744h, found \"5\"");
    REFUSED_SET("pool.idle_timeout=99999999999999999h",
                "expected a duration in ms, s, m or h from 0s to 744h, found "
                "\"99999999999999999h\"");
    /* 2^57 hours are 0 ms, 2^54 + 2 KiB are 2 KiB, modulo 2^64 */
    REFUSED_SET("pool.idle_timeout=144115188075855872h",
                "expected a duration in ms, s, m or h from 0s to 744h, found "
                "\"144115188075855872h\"");
    REFUSED_SET("spool.max_message_size=18014398509481986KiB",
                "expected a size in KiB, MiB or GiB from 1KiB to 2GiB, found "
                "\"18014398509481986KiB\"");
    REFUSED_SET("spool.max_size=10GB",
                "expected a size in KiB, MiB or GiB from 1MiB to 65536GiB, found \"10GB\"");
    REFUSED_SET("spool.max_message_size=0",
                "expected a size in KiB, MiB or GiB from 1KiB to 2GiB, found \"0\"");
    REFUSED_SET("listen.address=localhost",
                "expected an IPv4 or IPv6 address, found \"localhost\"");
    REFUSED_SET("spool.path=", "expected a value, found nothing");
    REFUSED_SET("spool.sync=comm", "expected one of: commit interval never, found \"comm\"");
    assert_refused(&(struct loading){.variables = {"AMQPBUF_LOG_FORMAT=a\x1b[1mb"}},
                   "AMQPBUF_LOG_FORMAT: expected one of: logfmt json, found \"a?[1mb\"\n");
}

/* Does a listener at this address lead to itself through that host? */
static void assert_loops(bool loops, const char *address, const char *host)
{
    char listen[64], url[64];
    snprintf(listen, sizeof listen, "listen.address=%s", address);
    snprintf(url, sizeof url, "upstream.url=amqp://%s:5673", host);
    struct loading l = {.sets = {listen, url}};
    if (loops) {
        assert_refused(
            &l, "--set upstream.url: leads to amqpbuf itself (listen.address and its port)\n");
    } else {
        load_fine(&l);
        unload(&l);
    }
}

static void test_hosts(void **state)
{
    (void)state;
    static const char *const valid[] = {"",  "*", "a.b", " a.b , .c_d ,*", "xn--e1afmkfd.example",
                                        "a,"},
                             *const wrong[] = {"a,,b", ".",   "http://a.b", "a.b:80",
                                               "a b",  "*.b", ",a"};
    for (size_t i = 0; i < sizeof valid / sizeof valid[0]; i++)
        assert_true(hosts_are_valid(valid[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(hosts_are_valid(wrong[i]));
    REFUSED_SET("admin.hosts=a.b:80",
                "expected names, .example or *, separated by commas, found \"a.b:80\"");
    static const char hosts[] = "One.example, .two.example";
    assert_true(hosts_have(hosts, "one.EXAMPLE:80", strlen("one.example")));
    assert_true(hosts_have(hosts, "two.example", strlen("two.example")));
    assert_true(hosts_have(hosts, "a.two.example", strlen("a.two.example")));
    assert_false(hosts_have(hosts, "a.one.example", strlen("a.one.example")));
    assert_false(hosts_have(hosts, "xtwo.example", strlen("xtwo.example")));
    assert_false(hosts_have(hosts, ".example", strlen(".example")));
    assert_false(hosts_have(hosts, "", 0));
    assert_false(hosts_have("", "one.example", strlen("one.example")));
    assert_true(hosts_have("one.example,*", "any", strlen("any")));
}

/* Can the admin port be the same number? */
static void assert_beside(bool can, const char *address, const char *admin)
{
    char listen[64], beside[64];
    snprintf(listen, sizeof listen, "listen.address=%s", address);
    snprintf(beside, sizeof beside, "admin.address=%s", admin);
    struct loading l = {.sets = {listen, beside, "admin.port=5673"}};
    if (can) {
        load_fine(&l);
        unload(&l);
    } else {
        assert_refused(&l, "--set admin.port: is the same port as listen.port\n");
    }
}

static void test_options_that_need_each_other(void **state)
{
    (void)state;
    REFUSED_SET("listen.port=0", "0 needs a listen.tls_port, or there is nothing to listen on");
    REFUSED_SET("upstream.reconnect_min=6s",
                "upstream.reconnect_min is larger than upstream.reconnect_max");
    REFUSED_SET("upstream.reconnect_max=100ms",
                "upstream.reconnect_min is larger than upstream.reconnect_max");
    REFUSED_SET("spool.mode=always", "needs pool.publish_buffer_size above 0");
    REFUSED_SET("spool.mode=slow", "needs pool.publish_buffer_size above 0");
    REFUSED_SET("upstream.tls_certificate=c.pem", "needs upstream.tls_private_key");
    REFUSED_SET("upstream.tls_private_key=k.pem", "needs upstream.tls_certificate");
    REFUSED_FILE("[listen]\ntls_port = 5671\n",
                 "FILE:2: [listen] tls_port: needs listen.tls_certificate\n"
                 "FILE:2: [listen] tls_port: needs listen.tls_private_key");
    REFUSED_FILE("[listen]\ntls_port = 5673\ntls_certificate = c\ntls_private_key = k\n",
                 "FILE:2: [listen] tls_port: is the same port as listen.port");
    REFUSED_FILE("[admin]\nport = 5673\n", "FILE:2: [admin] port: is the same port as listen.port");
    REFUSED_FILE(
        "[admin]\naddress = 0.0.0.0\nport = 5671\n[listen]\ntls_port = 5671\ntls_certificate = c\n"
        "tls_private_key = k\n",
        "FILE:3: [admin] port: is the same port as listen.tls_port");
    assert_refused(
        &(struct loading){.sets = {"upstream.url=amqp://rabbit:1,amqp://localhost:5673"}},
        "--set upstream.url: leads to amqpbuf itself (listen.address and its port)\n");
    assert_refused(
        &(struct loading){.sets = {"listen.address=10.0.0.1", "upstream.url=amqp://10.0.0.1:5673"}},
        "--set upstream.url: leads to amqpbuf itself (listen.address and its port)\n");
    assert_loops(true, "127.0.0.1", "LOCALHOST");
    assert_loops(true, "127.0.0.1", "127.1");
    assert_loops(true, "127.0.0.1", "0.0.0.0");
    assert_loops(true, "127.0.0.1", "[::ffff:127.0.0.1]");
    assert_loops(false, "127.0.0.1", "127.0.0.2");
    assert_loops(false, "127.0.0.1", "[::1]");
    assert_loops(false, "127.0.0.1", "rabbit");
    assert_loops(false, "127.0.0.2", "127.0.0.1");
    assert_loops(true, "127.0.0.2", "127.0.0.2");
    assert_loops(true, "0.0.0.0", "127.0.0.2");
    assert_loops(false, "0.0.0.0", "[::1]");
    assert_loops(false, "0.0.0.0", "10.0.0.1");
    assert_loops(true, "::", "127.0.0.1");
    assert_loops(true, "::", "[::1]");
    assert_loops(true, "::", "localhost");
    assert_loops(true, "::", "[::]");
    assert_loops(true, "::1", "[0:0:0:0:0:0:0:1]");
    assert_loops(true, "::1", "localhost");
    assert_loops(false, "::1", "127.0.0.1");
    assert_beside(false, "127.0.0.1", "0.0.0.0");
    assert_beside(false, "0::0", "127.0.0.1");
    assert_beside(true, "127.0.0.1", "127.0.0.2");
    assert_beside(true, "0.0.0.0", "::1");
    /* What could not be read is not held against others. */
    assert_refused(&(struct loading){.sets = {"listen.port=0", "listen.tls_port=x"}},
                   "--set listen.tls_port: expected a port from 0 to 65535, found \"x\"\n");
    struct loading l = {.sets = {"listen.port=0", "listen.tls_port=5671",
                                 "listen.tls_certificate=c", "listen.tls_private_key=k"}};
    load_fine(&l);
    unload(&l);
}

static void test_urls(void **state)
{
    (void)state;
    struct loading l = {.sets = {"upstream.url=amqp://a, AMQPS://[::1] ,amqp://h.x:1/,"
                                 "amqps://u%40x:p%2C%2f%3A@[fe80::2]:65535,amqp://u:@h/,"
                                 "amqp://u:p@h/%2F,amqp://u:p@10.0.0.1/shop%20x"}};
    load_fine(&l);
    static const struct config_upstream expected[] = {
        {false, 5672, "a", NULL, NULL, NULL},
        {true, 5671, "::1", NULL, NULL, NULL},
        {false, 1, "h.x", NULL, NULL, NULL},
        {true, 65535, "fe80::2", "u@x", "p,/:", "/"},
        {false, 5672, "h", "u", "", ""},
        {false, 5672, "h", "u", "p", "/"},
        {false, 5672, "10.0.0.1", "u", "p", "shop x"},
    };
    unsigned count;
    struct config_upstream *u = config_upstreams(&l.config, &count);
    assert_int_equal(count, sizeof expected / sizeof expected[0]);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(u[i].tls, expected[i].tls);
        assert_int_equal(u[i].port, expected[i].port);
        assert_string_equal(u[i].host, expected[i].host);
        assert_int_equal(!u[i].user, !expected[i].user);
        assert_int_equal(!u[i].password, !expected[i].password);
        assert_int_equal(!u[i].vhost, !expected[i].vhost);
        if (u[i].user) {
            assert_string_equal(u[i].user, expected[i].user);
            assert_string_equal(u[i].password, expected[i].password);
            assert_string_equal(u[i].vhost, expected[i].vhost);
        }
    }
    config_upstreams_free(u, count);
    unload(&l);
}

/* What is said of a URL has nothing of it in it, for it may have a password. */
static void test_urls_refused(void **state)
{
    (void)state;
    static const struct {
        const char *set, *why;
    } cases[] = {
        {"", "URL 1: it does not begin with amqp:// or amqps://"},
        {"http://h", "URL 1: it does not begin with amqp:// or amqps://"},
        {"amqp:/h", "URL 1: it does not begin with amqp:// or amqps://"},
        {"amqp://a,", "URL 2: it does not begin with amqp:// or amqps://"},
        {"amqp://", "URL 1: it has no host"},
        {"amqp://:5672", "URL 1: it has no host"},
        {"amqp://u@h", "URL 1: expected user:password before the @"},
        {"amqp://:p@h", "URL 1: expected user:password before the @"},
        {"amqp://u:p:q@h", "URL 1: write each reserved character in the password percent-encoded"},
        {"amqp://u:p q@h", "URL 1: write each space in the password percent-encoded"},
        {"amqp://u%4:p@h", "URL 1: a % in the user needs two hex digits, and not 00"},
        {"amqp://u:p%@h", "URL 1: a % in the password needs two hex digits, and not 00"},
        {"amqp://u:p%g0@h", "URL 1: a % in the password needs two hex digits, and not 00"},
        {"amqp://u:p@h/%00", "URL 1: a % in the vhost needs two hex digits, and not 00"},
        {"amqp://u:p@h/a/b", "URL 1: write each reserved character in the vhost percent-encoded"},
        {"amqp://h/shop", "URL 1: a vhost needs user:password@ before the host"},
        {"amqp://h?heartbeat=5",
         "URL 1: parameters behind a ? are not taken, see the keys of [upstream]"},
        {"amqp://::1", "URL 1: it has no host"},
        {"amqp://[::1", "URL 1: expected an IPv6 address in [brackets]"},
        {"amqp://[::1]x", "URL 1: expected an IPv6 address in [brackets]"},
        {"amqp://[1.2.3.4]", "URL 1: expected an IPv6 address in [brackets]"},
        {"amqp://h_%41", "URL 1: the host is neither a name nor an address (IPv6: in brackets)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char set[128], expected[256];
        snprintf(set, sizeof set, "upstream.url=%s", cases[i].set);
        snprintf(expected, sizeof expected, "--set upstream.url: %s\n", cases[i].why);
        assert_refused(&(struct loading){.sets = {set}}, expected);
    }
    static const char *const ports[] = {"0", "65536", "", "5672x", "99999999999999999999"};
    for (size_t i = 0; i < sizeof ports / sizeof ports[0]; i++) {
        char set[64];
        snprintf(set, sizeof set, "upstream.url=amqp://h:%s", ports[i]);
        assert_refused(&(struct loading){.sets = {set}},
                       "--set upstream.url: URL 1: expected a port from 1 to 65535 behind the "
                       "host (in a password, each of / ? , @ : is percent-encoded)\n");
    }
}

static void test_url_limits(void **state)
{
    (void)state;
    char long_vhost[256 + 1], set[512];
    memset(long_vhost, 'v', sizeof long_vhost - 1);
    long_vhost[sizeof long_vhost - 1] = '\0';
    snprintf(set, sizeof set, "upstream.url=amqp://u:p@h/%s", long_vhost + 1);
    struct loading l = {.sets = {set}};
    load_fine(&l);
    unload(&l);
    snprintf(set, sizeof set, "upstream.url=amqp://u:p@h/%s", long_vhost);
    assert_refused(&(struct loading){.sets = {set}},
                   "--set upstream.url: URL 1: the vhost is longer than 255 bytes\n");
    snprintf(set, sizeof set, "upstream.url=amqp://%s", long_vhost);
    assert_refused(&(struct loading){.sets = {set}},
                   "--set upstream.url: URL 1: the host is longer than 253 bytes\n");
}

/* What a reload says when the file was `first` and is `next`; "%s" in it stands for its name. */
static void assert_again(const char *first, const char *next, const char *format)
{
    static const struct config zeroed;
    char *said, expected[256];
    size_t size;
    struct config again;
    struct loading l = {.file = first};
    load_fine(&l);
    FILE *errors = open_memstream(&said, &size), *file = fopen(l.path, "we");
    assert_non_null(file);
    fputs(next, file);
    fclose(file);
    bool is_taken =
        config_load_again(&again, &l.config, &(struct config_sources){.file = l.path}, errors);
    fclose(errors);
    unlink(l.path);
    snprintf(expected, sizeof expected, "%s%s", format[0] == ':' ? l.path : "", format);
    assert_string_equal(said, expected);
    assert_int_equal(is_taken, format[0] == 0);
    if (!is_taken)
        assert_memory_equal(&again, &zeroed, sizeof zeroed);
    config_free(&again);
    free(said);
    unload(&l);
}

static void test_load_again(void **state)
{
    (void)state;
    static const char nothing[] = ": sets nothing any more: it is gone, or not written yet\n";
    assert_again("[log]\nlevel=warn\n", "[log]\nlevel=error\n", "");
    assert_again("", "[log]\nlevel=error\n", "");
    assert_again("# nothing\n", "", "");
    assert_again("[log]\nlevel=warn\n", "", nothing);
    assert_again("[log]\nlevel=warn\n", "[log]\n# level=warn\n", nothing);
    assert_again("[log]\nlevel=warn\n", "[log\n", ":1: expected ] behind the section\n");
    /* What is in force then is of two files. */
    assert_again("[listen]\nmax_memory=64MiB\n[spool]\nmax_message_size=32MiB\n",
                 "[listen]\nmax_memory=8MiB\n[spool]\nmax_message_size=4MiB\n",
                 "listen.max_memory is less than twice the spool.max_message_size in use, which "
                 "only a restart changes\n");
}

static void test_load_again_from_a_pipe(void **state)
{
    (void)state;
    struct config again, current = {0};
    char folder[] = "/tmp/amqpbuf-test-XXXXXX", path[64], expected[128], *said;
    size_t size;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    FILE *errors = open_memstream(&said, &size);
    alarm(60); /* nobody writes: to open it would wait for ever */
    assert_false(
        config_load_again(&again, &current, &(struct config_sources){.file = path}, errors));
    alarm(0);
    fclose(errors);
    snprintf(expected, sizeof expected, "%s: is a pipe or a terminal, which cannot be read again\n",
             path);
    assert_string_equal(said, expected);
    free(said);
    unlink(path);
    rmdir(folder);
}

static char *printed(const struct config *config)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    config_print(config, out);
    fclose(out);
    return text;
}

/* What is printed can be loaded again, and is the same. */
static void test_print(void **state)
{
    (void)state;
    struct loading l = {.sets = {"listen.address=::", "spool.overflow=reject",
                                 "spool.max_size=1536KiB", "pool.idle_timeout=1001ms",
                                 "upstream.url=amqp://h:1,amqps://[::1]/", "log.level=error",
                                 "upstream.tls_verify=no", "spool.key_file=/k"}};
    load_fine(&l);
    char *first = printed(&l.config);
    assert_non_null(strstr(first, "\n[spool]\npath = ./spool\nmax_size = 1536KiB\n"));
    struct loading again = {.file = first};
    load_fine(&again);
    char *second = printed(&again.config);
    assert_string_equal(first, second);
    free(first);
    free(second);
    unload(&l);
    unload(&again);
}

static void test_print_hides_passwords(void **state)
{
    (void)state;
    struct loading l = {
        .sets = {"upstream.url=amqp://u:secret@h,amqp://x,amqps://v:secret@[::1]/a"}};
    load_fine(&l);
    char *text = printed(&l.config);
    assert_null(strstr(text, "secret"));
    assert_non_null(strstr(text, "url = amqp://u:***@h,amqp://x,amqps://v:***@[::1]/a\n"));
    free(text);
    unload(&l);
}

static char *file_text(const char *path)
{
    char *text = calloc(1, 65536);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    assert_true(fread(text, 1, 65535, file) > 0);
    fclose(file);
    return text;
}

/* With AMQPBUF_TEST_WRITE_EXAMPLE in the environment the file is written anew. */
static void test_example(void **state)
{
    (void)state;
    static const char path[] = AMQPBUF_SOURCE_DIR "/proxy.ini.example";
    if (getenv("AMQPBUF_TEST_WRITE_EXAMPLE")) {
        FILE *out = fopen(path, "we");
        assert_non_null(out);
        config_print_example(out);
        fclose(out);
    }
    char *expected, *text = file_text(path);
    size_t size;
    FILE *out = open_memstream(&expected, &size);
    config_print_example(out);
    fclose(out);
    assert_string_equal(text, expected);

    /* It is the defaults, but that it turns buffering on. */
    struct loading example = {.file = text},
                   defaults = {.sets = {"pool.publish_buffer_size=100000"}};
    load_fine(&example);
    load_fine(&defaults);
    char *a = printed(&example.config), *b = printed(&defaults.config);
    assert_string_equal(a, b);
    free(a);
    free(b);
    free(text);
    free(expected);
    unload(&example);
    unload(&defaults);
}

static void note(void *arg, const char *section_key)
{
    char *notes = arg;
    size_t len = strlen(notes);
    snprintf(notes + len, NOTES_BYTES - len, "%s ", section_key);
}

static void test_adopt(void **state)
{
    (void)state;
    struct loading now = {0};
    struct loading next = {.sets = {"log.level=debug", "pool.publish_buffer_size=5",
                                    "pool.close_waits=no", "spool.path=/other", "listen.port=1",
                                    "drain.expiration=keep"}};
    char notes[NOTES_BYTES] = "";
    load_fine(&now);
    load_fine(&next);
    assert_true(config_adopt(&now.config, &next.config, note, notes));
    assert_string_equal(notes, "listen.port spool.path ");
    assert_int_equal(now.config.log.level, LOG_DEBUG);
    assert_int_equal(now.config.pool.publish_buffer_size, 5);
    assert_false(now.config.pool.close_waits);
    assert_int_equal(now.config.drain.expiration, EXPIRATION_KEEP);
    assert_string_equal(now.config.spool.path, "./spool");
    assert_int_equal(now.config.listen.port, 5673);
    unload(&next);

    notes[0] = '\0';
    struct loading same = {.sets = {"log.level=debug", "pool.publish_buffer_size=5",
                                    "pool.close_waits=no", "drain.expiration=keep"}};
    load_fine(&same);
    assert_false(config_adopt(&now.config, &same.config, note, notes));
    assert_string_equal(notes, "");
    unload(&same);
    unload(&now);
}

static void test_distance(void **state)
{
    (void)state;
    assert_int_equal(word_distance("", ""), 0);
    assert_int_equal(word_distance("abc", ""), 3);
    assert_int_equal(word_distance("abc", "acb"), 1);
    assert_int_equal(word_distance("kitten", "sitting"), 3);
    char longest[200];
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(word_distance(longest, "x"), 62);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_every_option_by_every_source),
        cmocka_unit_test(test_file_syntax),
        cmocka_unit_test(test_file_mistakes),
        cmocka_unit_test(test_every_mistake_is_told),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_a_key_set_twice_is_a_warning),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_set_mistakes),
        cmocka_unit_test(test_no_message_has_a_password),
        cmocka_unit_test(test_no_message_steers_a_terminal),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_values_refused),
        cmocka_unit_test(test_options_that_need_each_other),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_urls_refused),
        cmocka_unit_test(test_url_limits),
        cmocka_unit_test(test_load_again),
        cmocka_unit_test(test_hosts),
        cmocka_unit_test(test_load_again_from_a_pipe),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_print_hides_passwords),
        cmocka_unit_test(test_example),
        cmocka_unit_test(test_adopt),
        cmocka_unit_test(test_distance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
