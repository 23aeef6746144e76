/* Who may do what: passwords, vhosts, permissions and limits, which change. */

#include <stdio.h>
#include <string.h>

#include "agenda.h"
#include "client.h"
#include "history.h"
#include "rabbit_inside.h"
#include "tally.h"

enum { PASSWORD_BYTES = 32, SECOND_US = 1000000, REFUSALS_MAX = 6 };

const char *rabbit_password(unsigned login)
{
    static char password[PASSWORD_BYTES];
    const struct rabbit_rights *r = &rabbit.rights[login];
    if (r->password == 0)
        return logins[login].password;
    snprintf(password, sizeof password, "%s-%u", logins[login].password, r->password);
    return password;
}

/* The response of PLAIN is NUL user NUL password. */
unsigned rabbit_find_login(amqp_bytes_t response)
{
    unsigned i = 0;
    for (; i < LOGINS; i++) {
        const char *at = response.bytes, *expected = rabbit_password(i);
        size_t user = strlen(logins[i].user), password = strlen(expected);
        if (response.len == 2 + user + password && memcmp(at + 1, logins[i].user, user) == 0 &&
            memcmp(at + 2 + user, expected, password) == 0)
            break;
    }
    return i;
}

static unsigned connections_of(unsigned login)
{
    unsigned count = 0;
    for (const struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        count += c->login == login && c->is_open;
    return count;
}

static unsigned channels_of(unsigned login)
{
    unsigned count = 0;
    for (const struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        for (uint16_t n = 1; n <= c->highest && c->login == login; n++)
            count += c->channels[n] != NULL;
    return count;
}

/* P5: who is refused comes back with patience; each client may ask for itself. A RabbitMQ that was
 * frozen refuses at once all that came meanwhile. */
void rabbit_note_refusal(const struct rabbit_connection *c)
{
    if (c->came_us < rabbit.went_on_us)
        return;
    uint64_t second = agenda_now_us() / SECOND_US;
    if (second != rabbit.refusals.second) {
        rabbit.refusals.second = second;
        rabbit.refusals.count = 0;
        rabbit.refusals.clients = client_started() - client_count();
    }
    unsigned clients = client_started() - rabbit.refusals.clients;
    CHECK(++rabbit.refusals.count <= REFUSALS_MAX + clients,
          "P5: %u logins are refused within a second, with %u clients", rabbit.refusals.count,
          clients);
}

const char *rabbit_refuses_open(const struct rabbit_connection *c)
{
    const struct rabbit_rights *r = &rabbit.rights[c->login];
    const char *why = NULL;
    if (r->is_without_vhost)
        why = "NOT_ALLOWED - vhost not found";
    else if (r->connections_max > 0 && connections_of(c->login) >= r->connections_max)
        why = "NOT_ALLOWED - connection refused for user: user connection limit is reached";
    if (why)
        rabbit_note_refusal(c);
    if (why)
        tally_add(TALLY_LOGIN_REFUSED);
    return why;
}

const char *rabbit_refuses_channel(const struct rabbit_connection *c)
{
    static char text[192];
    const struct rabbit_rights *r = &rabbit.rights[c->login];
    if (r->channels_max == 0 || channels_of(c->login) < r->channels_max)
        return NULL;
    tally_add(TALLY_CHANNEL_REFUSED);
    snprintf(text, sizeof text,
             "NOT_ALLOWED - number of channels opened for user '%s' has reached the maximum "
             "allowed user limit of (%u)",
             logins[c->login].user, r->channels_max);
    return text;
}

/* ---- what changes ---- */

void rabbit_change_password(unsigned login)
{
    rabbit.rights[login].password++;
    history_note("rabbit: %s has the password %s", logins[login].user, rabbit_password(login));
}

bool rabbit_has_new_password(unsigned login)
{
    return rabbit.rights[login].password > 0;
}

void rabbit_delete_vhost(unsigned login)
{
    history_note("rabbit: the vhost of %s is deleted", logins[login].user);
    rabbit.rights[login].is_without_vhost = true;
    for (struct rabbit_connection *c = rabbit.connections; c; c = c->next)
        if (c->login == login && c->is_open && !c->is_closing)
            rabbit_connection_close(c, 320, "CONNECTION_FORCED - vhost is down");
}

void rabbit_limit(unsigned login, unsigned connections, unsigned channels)
{
    history_note("rabbit: %s may have %u connections and %u channels", logins[login].user,
                 connections, channels);
    rabbit.rights[login].connections_max = connections;
    rabbit.rights[login].channels_max = channels;
}

void rabbit_restore_rights(unsigned login)
{
    history_note("rabbit: %s may do all again", logins[login].user);
    rabbit.rights[login] = (struct rabbit_rights){.password = rabbit.rights[login].password};
}

void rabbit_forbid(enum destination d, bool is_forbidden)
{
    history_note("rabbit: \"%s\" is %s", destination_key(d),
                 is_forbidden ? "forbidden" : "allowed");
    rabbit.is_forbidden[d] = is_forbidden;
    if (is_forbidden)
        ledger_may_refuse(d);
}
