#pragma once

/* The struct of config.h alone, for the files that config.c is built on. */

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"

enum config_sync { CONFIG_SYNC_COMMIT, CONFIG_SYNC_INTERVAL, CONFIG_SYNC_NEVER };
enum config_mode { MODE_OUTAGE, MODE_ALWAYS, MODE_SLOW };
enum config_overflow { OVERFLOW_DISCONNECT, OVERFLOW_BLOCK, OVERFLOW_REJECT };
enum config_rejected_overflow { REJECTED_TO_FILE, REJECTED_DROPPED };
enum config_logins { LOGINS_REJECT, LOGINS_ACCEPT };
enum config_confirms { CONFIRMS_AUTO, CONFIRMS_OFF };
enum config_unroutable { UNROUTABLE_DROP, UNROUTABLE_REJECT };
enum config_missing { MISSING_REJECT, MISSING_WAIT };
enum config_expiration { EXPIRATION_SHORTEN, EXPIRATION_KEEP };

/* Strings are owned by the configuration; an option without a value is "" and never NULL.
 * Durations are in milliseconds, sizes in bytes. */
struct config {
    bool file_sets_something;
    struct {
        char *address;
        uint16_t port, tls_port;
        char *tls_certificate, *tls_private_key, *tls_client_ca;
        uint32_t max_connections;
        uint64_t max_memory_bytes;
        uint32_t handshake_timeout_ms;
        uint32_t heartbeat_ms;
        uint32_t shutdown_timeout_ms; /* how long a SIGTERM waits for what was accepted */
    } listen;
    struct {
        char *url; /* as given; config_upstreams() takes it apart */
        uint32_t connect_timeout_ms;
        uint32_t heartbeat_ms;
        uint32_t reconnect_min_ms, reconnect_max_ms;
        char *tls_ca, *tls_certificate, *tls_private_key;
        bool tls_verify;
    } upstream;
    struct {
        uint16_t max_channels;
        uint32_t upstreams; /* 0: auto */
        uint32_t idle_timeout_ms, cleanup_interval_ms;
        uint64_t publish_buffer_size; /* messages; 0: buffering is off */
        uint64_t rejected_size;       /* 0: no limit */
        uint32_t rejected_age_ms;     /* 0: no limit */
        enum config_rejected_overflow rejected_overflow;
        uint32_t window; /* publishes; 0: auto */
        uint64_t window_bytes;
        bool confirm_transient;
        bool close_waits;
        uint32_t confirm_timeout_ms; /* then RabbitMQ's answer is not waited for any more */
    } pool;
    struct {
        char *path;
        uint64_t max_size_bytes;
        uint64_t max_message_size_bytes;
        enum config_mode mode;  /* when publishes go to the spool first */
        uint32_t slow_after_ms; /* for MODE_SLOW */
        enum config_sync sync;
        uint32_t sync_interval_ms;
        enum config_overflow overflow;
        enum config_logins unverified_logins;
        uint32_t forget_after_ms; /* 0: never */
        char *key_file;           /* "" : <path>/credential.key */
    } spool;
    struct {
        enum config_confirms confirms;
        uint32_t window; /* records; 0: auto */
        uint32_t rate;
        uint32_t nack_limit;
        uint32_t unroutable_wait_ms;
        enum config_unroutable unroutable;
        enum config_missing missing;
        enum config_expiration expiration;
    } drain;
    struct {
        char *address;
        uint16_t port;
        char *hosts; /* see config/hosts.h */
    } admin;
    struct {
        enum log_level level;
        enum log_format format;
    } log;
};
