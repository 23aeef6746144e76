<?php
/* A batch job with php-amqplib: connect, publish, close, exit. Exit status 0 only if all went well. */

declare(strict_types=1);

require __DIR__ . '/options.php';
require '/usr/share/php/PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

$options = job_options();
$connection = new AMQPStreamConnection($options['host'], (int) $options['port'], $options['user'],
    $options['password'], $options['vhost'], false, 'AMQPLAIN', null, 'en_US', 30.0, 60.0);
$channel = $connection->channel();
if (isset($options['confirm'])) {
    $channel->set_nack_handler(function () {
        throw new RuntimeException('nacked');
    });
    $channel->confirm_select();
}
for ($number = 1; $number <= (int) $options['count']; $number++) {
    $message = new AMQPMessage(job_body($options, $number), [
        'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
        'content_type' => 'text/plain',
        'message_id' => $options['prefix'] . '-' . $number,
    ]);
    $channel->basic_publish($message, $options['exchange'], $options['routing-key']);
}
if (isset($options['confirm'])) {
    $channel->wait_for_pending_acks(60);
}
$channel->close();
$connection->close();
