#include "net/tls.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/assert.h"
#include "base/pipe.h"

struct tls_context {
    SSL_CTX *ssl;
    bool is_server;
};

enum { KEPT_BYTES = 4096 }; /* of a buffer that has nothing in it */

struct tls {
    SSL *ssl;
    BIO *in, *out; /* owned by ssl */
    size_t held;   /* bytes that the two have room for, and OpenSSL for the beginning of a record */
    bool failed;
    char why[160];
};

/* ---- what connections share ---- */

static bool explain(char *why, size_t size, const char *doing, const char *file)
{
    /* The first one is the cause; what follows says only which part of the library gave up. */
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_SYSTEM_ERROR(code) ? strerror(ERR_GET_REASON(code))
                         : code                 ? ERR_reason_error_string(code)
                                                : NULL;
    snprintf(why, size, "%s %s: %s", doing, file, reason ? reason : "it cannot be used");
    ERR_clear_error();
    return false;
}

/* Nobody is asked for a pass phrase: a loop cannot wait for him. */
static int no_pass_phrase(char *out, int size, int rwflag, void *arg)
{
    (void)out, (void)size, (void)rwflag;
    bool *is_asked = arg;
    if (is_asked)
        *is_asked = true;
    return -1;
}

static bool load_key(SSL_CTX *ssl, const char *file, char *why, size_t size)
{
    bool is_sealed = false;
    SSL_CTX_set_default_passwd_cb_userdata(ssl, &is_sealed);
    bool is_usable = SSL_CTX_use_PrivateKey_file(ssl, file, SSL_FILETYPE_PEM) == 1;
    SSL_CTX_set_default_passwd_cb_userdata(ssl, NULL);
    bool is_there = ERR_GET_LIB(ERR_peek_error()) != ERR_LIB_OSSL_DECODER;
    if (!is_usable)
        explain(why, size, "private key", file);
    if (!is_usable && !is_there)
        snprintf(why, size, "private key %s: there is none in it", file);
    if (is_sealed)
        snprintf(why, size, "private key %s: has a pass phrase, and has to be without one", file);
    return is_usable;
}

static bool is_no_pipe(const char *file, char *why, size_t size)
{
    bool is_pipe = pipe_is_at(file);
    if (is_pipe)
        snprintf(why, size, "%s: is a pipe or a terminal, and has to be a file", file);
    return !is_pipe;
}

static bool load_own(SSL_CTX *ssl, const struct tls_settings *s, char *why, size_t size)
{
    if (s->certificate[0] == '\0')
        return true;
    if (!is_no_pipe(s->certificate, why, size) || !is_no_pipe(s->private_key, why, size))
        return false;
    if (SSL_CTX_use_certificate_chain_file(ssl, s->certificate) != 1)
        return explain(why, size, "certificate", s->certificate);
    if (!load_key(ssl, s->private_key, why, size))
        return false;
    if (SSL_CTX_check_private_key(ssl) != 1)
        return explain(why, size, "private key of another certificate", s->private_key);
    return true;
}

static bool load_ca(SSL_CTX *ssl, const struct tls_settings *s, char *why, size_t size)
{
    if (s->ca[0] == '\0')
        return s->is_server || SSL_CTX_set_default_verify_paths(ssl) == 1 ||
               explain(why, size, "CA", "of the system");
    if (!is_no_pipe(s->ca, why, size))
        return false;
    if (SSL_CTX_load_verify_locations(ssl, s->ca, NULL) != 1)
        return explain(why, size, "CA", s->ca);
    if (!s->is_server)
        return true;
    STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(s->ca);
    if (!names)
        return explain(why, size, "CA", s->ca);
    SSL_CTX_set_client_CA_list(ssl, names);
    return true;
}

static int verify_mode(const struct tls_settings *s)
{
    if (s->is_server)
        return s->ca[0] ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE;
    return s->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE;
}

struct tls_context *tls_context_new(const struct tls_settings *s, char *why, size_t why_size)
{
    SSL_CTX *ssl = SSL_CTX_new(s->is_server ? TLS_server_method() : TLS_client_method());
    ENSURE(ssl);
    SSL_CTX_set_min_proto_version(ssl, TLS1_2_VERSION);
    SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_IGNORE_UNEXPECTED_EOF |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_verify(ssl, verify_mode(s), NULL);
    SSL_CTX_set_default_passwd_cb(ssl, no_pass_phrase);
    /* OpenSSL would keep 20,480 of them, up to 10 KB each. Who takes tickets keeps its own. */
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    /* Sessions with client certificates are resumed only within a context of their own. */
    static const unsigned char session_context[] = "amqpbuf";
    SSL_CTX_set_session_id_context(ssl, session_context, sizeof session_context - 1);
    if (!load_own(ssl, s, why, why_size) || !load_ca(ssl, s, why, why_size)) {
        SSL_CTX_free(ssl);
        return NULL;
    }
    struct tls_context *context = calloc(1, sizeof *context);
    ENSURE(context);
    *context = (struct tls_context){ssl, s->is_server};
    return context;
}

void tls_context_free(struct tls_context *context)
{
    if (!context)
        return;
    SSL_CTX_free(context->ssl);
    free(context);
}

static bool has_expired(const X509 *certificate)
{
    return X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0;
}

static bool is_to_come(const X509 *certificate)
{
    return X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0;
}

const char *tls_context_is_untimely(const struct tls_context *context)
{
    const X509 *own = SSL_CTX_get0_certificate(context->ssl);
    STACK_OF(X509) *chain = NULL; /* behind it in its file */
    if (own && has_expired(own))
        return "it has expired";
    if (own && is_to_come(own))
        return "it is not valid yet";
    SSL_CTX_get0_chain_certs(context->ssl, &chain);
    for (int i = 0; i < sk_X509_num(chain); i++) {
        if (has_expired(sk_X509_value(chain, i)))
            return "one of its chain has expired";
        if (is_to_come(sk_X509_value(chain, i)))
            return "one of its chain is not valid yet";
    }
    return NULL;
}

/* ---- a session ---- */

static size_t held_bytes; /* by all sessions; the loop's thread alone */

static size_t capacity_of(BIO *bio)
{
    BUF_MEM *memory;
    return BIO_get_mem_ptr(bio, &memory) == 1 ? memory->max : 0;
}

static void count_held(struct tls *t)
{
    held_bytes -= t->held;
    t->held = capacity_of(t->in) + capacity_of(t->out);
    if (SSL_has_pending(t->ssl))
        t->held += SSL3_RT_MAX_PACKET_SIZE;
    held_bytes += t->held;
}

size_t tls_held_bytes(const struct tls *t)
{
    return t ? t->held : held_bytes;
}

/* The certificate has to be this host's; a name is also told to the server (RFC 6066, 3). */
static void expect_host(SSL *ssl, const char *host)
{
    struct in6_addr address;
    bool is_address =
        inet_pton(AF_INET, host, &address) == 1 || inet_pton(AF_INET6, host, &address) == 1;
    X509_VERIFY_PARAM *rules = SSL_get0_param(ssl);
    if (is_address) {
        ENSURE(X509_VERIFY_PARAM_set1_ip_asc(rules, host) == 1);
        return;
    }
    X509_VERIFY_PARAM_set_hostflags(rules, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    ENSURE(X509_VERIFY_PARAM_set1_host(rules, host, 0) == 1);
    ENSURE(SSL_set_tlsext_host_name(ssl, host) == 1);
}

struct tls *tls_new(struct tls_context *context, const char *host)
{
    struct tls *t = calloc(1, sizeof *t);
    ENSURE(t);
    t->ssl = SSL_new(context->ssl);
    t->in = BIO_new(BIO_s_mem());
    t->out = BIO_new(BIO_s_mem());
    ENSURE(t->ssl && t->in && t->out);
    SSL_set_bio(t->ssl, t->in, t->out);
    if (context->is_server) {
        SSL_set_accept_state(t->ssl);
    } else {
        SSL_set_connect_state(t->ssl);
        expect_host(t->ssl, host);
    }
    return t;
}

void tls_free(struct tls *t)
{
    if (!t)
        return;
    held_bytes -= t->held;
    SSL_free(t->ssl);
    free(t);
}

static int fail(struct tls *t)
{
    long verdict = SSL_get_verify_result(t->ssl);
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    if (verdict != X509_V_OK)
        reason = X509_verify_cert_error_string(verdict);
    if (t->why[0] == '\0')
        snprintf(t->why, sizeof t->why, "TLS: %s", reason ? reason : "the handshake failed");
    t->failed = true;
    ERR_clear_error();
    return TLS_FAILED;
}

static int result_of(struct tls *t, int n)
{
    if (n > 0)
        return n;
    switch (SSL_get_error(t->ssl, n)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        return TLS_LATER;
    case SSL_ERROR_ZERO_RETURN:
        return TLS_ENDED;
    default:
        return fail(t);
    }
}

void tls_begin(struct tls *t)
{
    ERR_clear_error();
    result_of(t, SSL_do_handshake(t->ssl));
}

void tls_feed(struct tls *t, const void *bytes, size_t len)
{
    ENSURE(BIO_write(t->in, bytes, (int)len) == (int)len);
    count_held(t);
}

int tls_read(struct tls *t, void *out, size_t size)
{
    if (t->failed)
        return TLS_FAILED;
    ERR_clear_error();
    int n = result_of(t, SSL_read(t->ssl, out, size < INT32_MAX ? (int)size : INT32_MAX));
    count_held(t);
    return n;
}

int tls_write(struct tls *t, const void *bytes, size_t len)
{
    if (t->failed)
        return TLS_FAILED;
    ERR_clear_error();
    int n = result_of(t, SSL_write(t->ssl, bytes, (int)len));
    count_held(t);
    return n;
}

void tls_shutdown(struct tls *t)
{
    if (t->failed || SSL_in_init(t->ssl))
        return;
    ERR_clear_error();
    SSL_shutdown(t->ssl);
}

const uint8_t *tls_output(struct tls *t, size_t *len)
{
    char *bytes;
    long pending = BIO_get_mem_data(t->out, &bytes);
    *len = pending > 0 ? (size_t)pending : 0;
    return (const uint8_t *)bytes;
}

void tls_sent(struct tls *t, size_t len)
{
    char scratch[4096];
    while (len > 0) {
        int n = BIO_read(t->out, scratch, len < sizeof scratch ? (int)len : (int)sizeof scratch);
        ENSURE(n > 0);
        len -= (size_t)n;
    }
}

/* A memory BIO keeps the largest size that it ever had. */
static BIO *smaller(BIO *bio)
{
    BUF_MEM *memory;
    bool idle = BIO_get_mem_ptr(bio, &memory) == 1 && memory->length == 0;
    return idle && memory->max > KEPT_BYTES ? BIO_new(BIO_s_mem()) : NULL;
}

void tls_trim(struct tls *t)
{
    BIO *in = smaller(t->in), *out = smaller(t->out);
    if (in)
        SSL_set0_rbio(t->ssl, t->in = in);
    if (out)
        SSL_set0_wbio(t->ssl, t->out = out);
    count_held(t);
}

const char *tls_why(const struct tls *t)
{
    return t->why;
}
