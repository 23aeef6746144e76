#include "config/table.h"

#include <string.h>

#include "config/config_struct.h"

/* Field in struct config. */
#define AT(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)

#define KIB   UINT64_C(1024)
#define MIB   (1024 * KIB)
#define GIB   (1024 * MIB)
#define HOUR  UINT64_C(3600000)
#define MONTH (744 * HOUR)
/* A heartbeat is sixteen bits of seconds on the wire (AMQP 0-9-1, connection.tune). */
#define HEARTBEAT_MAX UINT64_C(65535000)
/* LMDB maps the whole of it, and a process has 47 bits of addresses. */
#define MAP_MAX (65536 * GIB)

enum { RESTART = false, RELOAD = true };

const struct config_option config_table[] = {
    {"listen", "address", CONFIG_ADDRESS, RESTART, "127.0.0.1", 0, 0, AT(listen.address),
     "address to listen on; 0.0.0.0 or :: for all", NULL},
    {"listen", "port", CONFIG_PORT, RESTART, "5673", 0, 65535, AT(listen.port),
     "port for plain AMQP; 0 turns it off", NULL},
    {"listen", "tls_port", CONFIG_PORT, RESTART, "0", 0, 65535, AT(listen.tls_port),
     "port for AMQP over TLS; 0 turns it off, else it needs the two below", NULL},
    {"listen", "tls_certificate", CONFIG_TEXT, RESTART, "", 0, 0, AT(listen.tls_certificate),
     "PEM file with the certificate and its chain", NULL},
    {"listen", "tls_private_key", CONFIG_TEXT, RESTART, "", 0, 0, AT(listen.tls_private_key),
     "PEM file with the private key", NULL},
    {"listen", "tls_client_ca", CONFIG_TEXT, RESTART, "", 0, 0, AT(listen.tls_client_ca),
     "PEM file; if set, clients on tls_port must show a certificate from it", NULL},
    {"listen", "max_connections", CONFIG_COUNT, RELOAD, "10000", 1, 1000000,
     AT(listen.max_connections), "most client connections at a time", NULL},
    {"listen", "max_memory", CONFIG_SIZE, RELOAD, "1GiB", 8 * MIB, MAP_MAX,
     AT(listen.max_memory_bytes),
     "most memory for messages on their way; at least twice spool.max_message_size", NULL},
    {"listen", "handshake_timeout", CONFIG_DURATION, RELOAD, "10s", 10, HOUR,
     AT(listen.handshake_timeout_ms), "most time from accept to connection.open", NULL},
    {"listen", "heartbeat", CONFIG_DURATION, RESTART, "60s", 0, HEARTBEAT_MAX,
     AT(listen.heartbeat_ms), "heartbeat offered to clients, in whole seconds; 0 offers none",
     NULL},
    {"listen", "shutdown_timeout", CONFIG_DURATION, RELOAD, "10s", 0, 24 * HOUR,
     AT(listen.shutdown_timeout_ms),
     "most time that SIGTERM waits for what was accepted to be safe", NULL},

    {"upstream", "url", CONFIG_URL, RESTART, "amqp://127.0.0.1:5672", 0, 0, AT(upstream.url),
     "amqp[s]://[user:password@]host[:port][/vhost]; several, separated by commas, are tried in "
     "turn",
     NULL},
    {"upstream", "connect_timeout", CONFIG_DURATION, RELOAD, "5s", 10, HOUR,
     AT(upstream.connect_timeout_ms), "most time for TCP, TLS and AMQP handshake together", NULL},
    {"upstream", "heartbeat", CONFIG_DURATION, RESTART, "30s", 0, HEARTBEAT_MAX,
     AT(upstream.heartbeat_ms), "heartbeat asked of RabbitMQ, in whole seconds; 0 asks for none",
     NULL},
    {"upstream", "reconnect_min", CONFIG_DURATION, RELOAD, "200ms", 1, HOUR,
     AT(upstream.reconnect_min_ms),
     "first wait between two tries to connect; it doubles, with jitter", NULL},
    {"upstream", "reconnect_max", CONFIG_DURATION, RELOAD, "5s", 1, HOUR,
     AT(upstream.reconnect_max_ms), "longest wait between two tries to connect", NULL},
    {"upstream", "tls_ca", CONFIG_TEXT, RESTART, "", 0, 0, AT(upstream.tls_ca),
     "PEM file with the CAs that amqps:// trusts; unset: the system's", NULL},
    {"upstream", "tls_certificate", CONFIG_TEXT, RESTART, "", 0, 0, AT(upstream.tls_certificate),
     "PEM file with a certificate to show to RabbitMQ", NULL},
    {"upstream", "tls_private_key", CONFIG_TEXT, RESTART, "", 0, 0, AT(upstream.tls_private_key),
     "PEM file with the key of that certificate", NULL},
    {"upstream", "tls_verify", CONFIG_BOOL, RESTART, "yes", 0, 1, AT(upstream.tls_verify),
     "check RabbitMQ's certificate and that it names the host", NULL},

    {"pool", "max_channels", CONFIG_COUNT, RESTART, "2047", 1, 65535, AT(pool.max_channels),
     "most channels on one upstream, and no more than RabbitMQ allows", NULL},
    {"pool", "upstreams", CONFIG_COUNT, RESTART, "auto", 1, 1000, AT(pool.upstreams),
     "shared upstreams that a pool's publishers are spread over when one is busy; auto: 2, and up "
     "to 8 where RabbitMQ is far away",
     "auto"},
    {"pool", "idle_timeout", CONFIG_DURATION, RELOAD, "5m", 0, MONTH, AT(pool.idle_timeout_ms),
     "an upstream without channels is closed after this", NULL},
    {"pool", "cleanup_interval", CONFIG_DURATION, RELOAD, "30s", 10, 24 * HOUR,
     AT(pool.cleanup_interval_ms), "how often idle upstreams are looked for", NULL},
    {"pool", "publish_buffer_size", CONFIG_COUNT, RELOAD, "0", 0, UINT64_C(1000000000000),
     AT(pool.publish_buffer_size),
     "most messages that one queue holds while RabbitMQ is away; 0 turns buffering off", NULL},
    {"pool", "rejected_size", CONFIG_COUNT, RELOAD, "100000", 0, UINT64_C(1000000000000),
     AT(pool.rejected_size),
     "most messages that the rejected list of a queue holds; what is beyond that leaves it, the "
     "oldest first; 0: no limit",
     NULL},
    {"pool", "rejected_age", CONFIG_DURATION, RELOAD, "0", 0, MONTH, AT(pool.rejected_age_ms),
     "how long a message stays in there; 0: no limit", NULL},
    {"pool", "rejected_overflow", CONFIG_ENUM, RELOAD, "file", 0, 0, AT(pool.rejected_overflow),
     "where it goes then: file, to rejected.jsonl in spool.path, or drop it", "file drop"},
    {"pool", "window", CONFIG_COUNT, RELOAD, "auto", 1, 65535, AT(pool.window),
     "most unconfirmed messages on one upstream, and so the most that a lost connection can "
     "duplicate; auto: as many as its distance needs",
     "auto"},
    {"pool", "window_bytes", CONFIG_SIZE, RELOAD, "8MiB", KIB, MAP_MAX, AT(pool.window_bytes),
     "and never more bytes than this, live or in a drain; one message always fits", NULL},
    {"pool", "confirm_transient", CONFIG_BOOL, RELOAD, "yes", 0, 1, AT(pool.confirm_transient),
     "transient messages of publishers without confirms are held until RabbitMQ confirms them; no: "
     "they are forgotten once they are sent",
     NULL},
    {"pool", "close_waits", CONFIG_BOOL, RELOAD, "yes", 0, 1, AT(pool.close_waits),
     "a close is answered only when all that was published before it is safe", NULL},
    {"pool", "confirm_timeout", CONFIG_DURATION, RELOAD, "30s", 10, 24 * HOUR,
     AT(pool.confirm_timeout_ms),
     "an answer that RabbitMQ owes for so long no longer holds up what does not depend on it",
     NULL},

    {"spool", "path", CONFIG_TEXT, RESTART, "./spool", 1, 0, AT(spool.path),
     "directory of the spool, made with mode 0700", NULL},
    {"spool", "max_size", CONFIG_SIZE, RESTART, "10GiB", MIB, MAP_MAX, AT(spool.max_size_bytes),
     "most bytes that the spool takes on disk", NULL},
    {"spool", "mode", CONFIG_ENUM, RELOAD, "outage", 0, 0, AT(spool.mode),
     "outage: publishes go to the spool while RabbitMQ is away; always: first of all, and on to "
     "RabbitMQ at once; slow: also while RabbitMQ confirms late",
     "outage always slow"},
    {"spool", "slow_after", CONFIG_DURATION, RELOAD, "500ms", 1, HOUR, AT(spool.slow_after_ms),
     "for mode = slow: a confirm that takes longer is late", NULL},
    {"spool", "max_message_size", CONFIG_SIZE, RESTART, "128MiB", KIB, 2 * GIB,
     AT(spool.max_message_size_bytes), "largest message that is accepted", NULL},
    {"spool", "sync", CONFIG_ENUM, RESTART, "commit", 0, 0, AT(spool.sync),
     "commit: fdatasync before answering; interval: every sync_interval; never: left to the system",
     "commit interval never"},
    {"spool", "sync_interval", CONFIG_DURATION, RESTART, "200ms", 1, HOUR,
     AT(spool.sync_interval_ms), "for sync = interval: the most that a power failure can take",
     NULL},
    {"spool", "overflow", CONFIG_ENUM, RELOAD, "disconnect", 0, 0, AT(spool.overflow),
     "when a queue is full: disconnect the publisher, block it until there is room, or reject the "
     "message",
     "disconnect block reject"},
    {"spool", "unverified_logins", CONFIG_ENUM, RELOAD, "reject", 0, 0, AT(spool.unverified_logins),
     "logins that RabbitMQ has not accepted before, while it is away: reject or accept",
     "reject accept"},
    {"spool", "forget_after", CONFIG_DURATION, RELOAD, "720h", 0, MONTH, AT(spool.forget_after_ms),
     "a login that nobody uses for so long, and whose queue is empty, is forgotten; 0: never",
     NULL},
    {"spool", "key_file", CONFIG_TEXT, RESTART, "", 0, 0, AT(spool.key_file),
     "file with the key that seals stored passwords, made with mode 0600; unset: credential.key in "
     "path",
     NULL},

    {"drain", "confirms", CONFIG_ENUM, RELOAD, "auto", 0, 0, AT(drain.confirms),
     "auto: publisher confirms if RabbitMQ offers them; off: none", "auto off"},
    {"drain", "window", CONFIG_COUNT, RELOAD, "auto", 1, 65535, AT(drain.window),
     "most unconfirmed messages of a drain, and so the most that a lost connection can duplicate; "
     "auto: as many as its distance needs",
     "auto"},
    {"drain", "rate", CONFIG_COUNT, RELOAD, "0", 0, 1000000000, AT(drain.rate),
     "most messages a second; 0: no limit", NULL},
    {"drain", "nack_limit", CONFIG_COUNT, RELOAD, "10", 1, 1000000, AT(drain.nack_limit),
     "tries of a message that RabbitMQ fails at for its own reasons, then it is rejected", NULL},
    {"drain", "unroutable_wait", CONFIG_DURATION, RELOAD, "30s", 0, 24 * HOUR,
     AT(drain.unroutable_wait_ms),
     "after RabbitMQ's return, how long a message that no queue is bound for is tried again", NULL},
    {"drain", "unroutable", CONFIG_ENUM, RELOAD, "drop", 0, 0, AT(drain.unroutable),
     "and then, if it is not mandatory: drop it as RabbitMQ would have done, or reject it",
     "drop reject"},
    {"drain", "missing", CONFIG_ENUM, RELOAD, "reject", 0, 0, AT(drain.missing),
     "a message whose exchange is not there: reject it, or wait until somebody declares it",
     "reject wait"},
    {"drain", "expiration", CONFIG_ENUM, RELOAD, "shorten", 0, 0, AT(drain.expiration),
     "expiration of a message that waited: shorten it by the time it waited, or keep it",
     "shorten keep"},

    {"admin", "address", CONFIG_ADDRESS, RESTART, "127.0.0.1", 0, 0, AT(admin.address),
     "address of the HTTP server for metrics, health and the status page", NULL},
    {"admin", "port", CONFIG_PORT, RESTART, "0", 0, 65535, AT(admin.port),
     "its port; 0 turns it off", NULL},
    {"admin", "hosts", CONFIG_HOSTS, RELOAD, "", 0, 0, AT(admin.hosts),
     "names with a dot by which it may be asked, separated by commas; .example: all below it, *: "
     "any",
     NULL},

    {"log", "level", CONFIG_ENUM, RELOAD, "info", 0, 0, AT(log.level),
     "least level that is logged: debug, info, warn or error", "debug info warn error"},
    {"log", "format", CONFIG_ENUM, RELOAD, "logfmt", 0, 0, AT(log.format), "logfmt or json",
     "logfmt json"},
};

const unsigned config_table_count = sizeof config_table / sizeof config_table[0];

const struct config_option *config_option_find(const char *section, const char *key)
{
    for (unsigned i = 0; i < config_table_count; i++)
        if (strcmp(config_table[i].section, section) == 0 && strcmp(config_table[i].key, key) == 0)
            return &config_table[i];
    return NULL;
}

bool config_section_known(const char *section)
{
    for (unsigned i = 0; i < config_table_count; i++)
        if (strcmp(config_table[i].section, section) == 0)
            return true;
    return false;
}
