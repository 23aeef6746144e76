"""A publisher of the ledger on pika: PORT QUEUE NAME CONFIRMS STOP_FILE; see ledger.py."""

import os
import sys
import time

import pika

PAUSE_S = 0.1


def main():
    port, queue, name, confirms, stop_file = sys.argv[1:]
    connection = pika.BlockingConnection(pika.ConnectionParameters(
        "127.0.0.1", int(port), "/", pika.PlainCredentials("guest", "guest"),
        heartbeat=0, socket_timeout=60, stack_timeout=60, blocked_connection_timeout=120))
    channel = connection.channel()
    if confirms == "1":
        channel.confirm_delivery()
    sent = 0
    while not os.path.exists(stop_file):
        channel.basic_publish("", queue, f"{name}:{sent}".encode(),
                              pika.BasicProperties(delivery_mode=2))
        sent += 1
        time.sleep(PAUSE_S)  # the pace of its traffic, not a wait
    connection.close()
    print(sent)


main()
