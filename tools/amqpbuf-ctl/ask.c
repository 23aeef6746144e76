#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include <curl/curl.h>

#include "ctl.h"

enum { QUIET_S = 3 }; /* without an answer, before that is said */

struct question {
    const struct ctl *ctl;
    CURL *curl;
    bool is_answered, has_told;
};

/* libcurl writes the body to standard output, or to standard error if it is a refusal. */
static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
    struct question *question = arg;
    long code = 0;
    curl_easy_getinfo(question->curl, CURLINFO_RESPONSE_CODE, &code);
    if (code != 200 && !question->is_answered)
        fputs("amqpbuf-ctl: ", stderr);
    question->is_answered = true;
    return fwrite(data, size, count, code == 200 ? stdout : stderr);
}

/* Called about once a second while nothing happens. */
static int on_progress(void *arg, curl_off_t to_come, curl_off_t come, curl_off_t to_go,
                       curl_off_t gone)
{
    (void)to_come, (void)come, (void)to_go, (void)gone;
    struct question *question = arg;
    curl_off_t passed_us = 0;
    curl_easy_getinfo(question->curl, CURLINFO_TOTAL_TIME_T, &passed_us);
    if (question->is_answered || question->has_told || passed_us < QUIET_S * 1000000L)
        return 0;
    question->has_told = true;
    fprintf(
        stderr,
        "amqpbuf-ctl: amqpbuf does not answer: its disk hangs, it is stopped, or it has much to "
        "do; waiting for up to %ld s (-t)\n",
        question->ctl->patience_s);
    return 0;
}

static enum ctl_exit outcome(CURL *curl, CURLcode result, const struct ctl *ctl)
{
    long code = 0, error = 0;
    curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &error);
    /* Of EAGAIN, a full queue before the socket, libcurl thinks that it goes on, and gives none. */
    if (result == CURLE_COULDNT_CONNECT && (error == 0 || error == EAGAIN)) {
        fprintf(stderr,
                "amqpbuf-ctl: amqpbuf in %s takes no connection: it stands still, and others wait "
                "already\n",
                ctl->spool);
        return CTL_NO_PROXY;
    }
    if (result == CURLE_COULDNT_CONNECT) {
        fprintf(stderr,
                "amqpbuf-ctl: no amqpbuf answers in %s; give the directory of its spool with -s, "
                "and run as its user\n",
                ctl->spool);
        return CTL_NO_PROXY;
    }
    if (result == CURLE_OPERATION_TIMEDOUT) {
        fprintf(stderr,
                "amqpbuf-ctl: no answer within %ld s; amqpbuf may still do what was "
                "asked\n",
                ctl->patience_s);
        return CTL_NO_PROXY;
    }
    if (result != CURLE_OK) {
        fprintf(stderr, "amqpbuf-ctl: %s\n", curl_easy_strerror(result));
        return CTL_REFUSED;
    }
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    return code == 200 ? CTL_FINE : CTL_REFUSED;
}

enum ctl_exit ctl_ask(const struct ctl *ctl)
{
    char path[sizeof((struct sockaddr_un *)0)->sun_path], url[128];
    if ((size_t)snprintf(path, sizeof path, "%s/control.sock", ctl->spool) >= sizeof path) {
        fprintf(stderr, "amqpbuf-ctl: %s: too long for a socket's path\n", ctl->spool);
        return CTL_NO_PROXY;
    }
    CURL *curl = curl_easy_init();
    if (!curl) {
        fputs("amqpbuf-ctl: out of memory\n", stderr);
        return CTL_REFUSED;
    }
    struct question question = {.ctl = ctl, .curl = curl};
    int len = snprintf(url, sizeof url, "http://amqpbuf/queues/%" PRIu64 "/%s", ctl->queue,
                       ctl_verb_name(ctl->verb));
    if (ctl->seq)
        snprintf(url + len, sizeof url - (size_t)len, "?seq=%" PRIu64, ctl->seq);
    else if (ctl->verb == CTL_DISCARD)
        snprintf(url + len, sizeof url - (size_t)len, "?all=1");
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, path);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* whatever the environment says */
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, ctl->patience_s);
    curl_easy_setopt(curl, CURLOPT_POST, 1L);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, 0L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &question);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &question);
    enum ctl_exit status = outcome(curl, curl_easy_perform(curl), ctl);
    curl_easy_cleanup(curl);
    return status;
}
