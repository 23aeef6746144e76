<?php
/* A publisher of the ledger on php-amqplib: PORT QUEUE NAME CONFIRMS STOP_FILE; see ledger.py. */

declare(strict_types=1);

require __DIR__ . '/options.php';
require '/usr/share/php/PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

[, $port, $queue, $name, $confirms, $stopFile] = $argv;
$connection = new AMQPStreamConnection('127.0.0.1', (int) $port, 'guest', 'guest', '/', false,
    'AMQPLAIN', null, 'en_US', 60.0, 120.0);
$channel = $connection->channel();
if ($confirms === '1') {
    $channel->set_nack_handler(function () {
        throw new RuntimeException('nacked');
    });
    $channel->confirm_select();
}
for ($sent = 0; !file_exists($stopFile); $sent++) {
    $message = new AMQPMessage("$name:$sent", ['delivery_mode' => 2]);
    $channel->basic_publish($message, '', $queue);
    if ($confirms === '1') {
        $channel->wait_for_pending_acks(120);
    }
    usleep(100000);
}
$channel->close();
$connection->close();
echo $sent, "\n";
