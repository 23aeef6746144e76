/* A publisher of the ledger on librabbitmq: PORT QUEUE NAME CONFIRMS STOP_FILE; see ledger.py. */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "amqp/librabbitmq.h"

enum { CHANNEL = 1, PAUSE_US = 100000 };

static void require(bool fine, const char *what)
{
    if (fine)
        return;
    fprintf(stderr, "%s failed\n", what);
    exit(1);
}

static bool is_normal(amqp_rpc_reply_t reply)
{
    return reply.reply_type == AMQP_RESPONSE_NORMAL;
}

static amqp_connection_state_t open_connection(int port, bool confirms)
{
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    require(socket && amqp_socket_open(socket, "127.0.0.1", port) == 0, "connect");
    require(is_normal(amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest",
                                 "guest")),
            "login");
    amqp_channel_open(connection, CHANNEL);
    require(is_normal(amqp_get_rpc_reply(connection)), "channel.open");
    if (confirms) {
        amqp_confirm_select(connection, CHANNEL);
        require(is_normal(amqp_get_rpc_reply(connection)), "confirm.select");
    }
    return connection;
}

static void wait_for_ack(amqp_connection_state_t connection)
{
    amqp_frame_t frame;
    require(amqp_simple_wait_frame(connection, &frame) == AMQP_STATUS_OK, "waiting for an ack");
    require(frame.frame_type == AMQP_FRAME_METHOD &&
                frame.payload.method.id == AMQP_BASIC_ACK_METHOD,
            "basic.ack");
    amqp_maybe_release_buffers(connection);
}

int main(int argc, char **argv)
{
    require(argc == 6, "usage");
    bool confirms = strcmp(argv[4], "1") == 0;
    amqp_connection_state_t connection = open_connection(atoi(argv[1]), confirms);
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG,
                                          .delivery_mode = 2};
    int sent = 0;
    for (; access(argv[5], F_OK) != 0; sent++) {
        char body[64];
        snprintf(body, sizeof body, "%s:%d", argv[3], sent);
        require(amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes,
                                   amqp_cstring_bytes(argv[2]), 0, 0, &properties,
                                   amqp_cstring_bytes(body)) == AMQP_STATUS_OK,
                "basic.publish");
        if (confirms)
            wait_for_ack(connection);
        usleep(PAUSE_US);
    }
    require(is_normal(amqp_channel_close(connection, CHANNEL, 200)), "channel.close");
    require(is_normal(amqp_connection_close(connection, 200)), "connection.close");
    require(amqp_destroy_connection(connection) == AMQP_STATUS_OK, "the end");
    printf("%d\n", sent);
    return 0;
}
