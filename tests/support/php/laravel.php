<?php
/* The calls that Laravel's RabbitMQ queue driver makes with php-amqplib: look whether exchange and
 * queue exist on channels of their own, declare and bind what is missing, publish one message, then
 * the others as a batch. --confirm waits for acks, --tx commits a transaction. */

declare(strict_types=1);

require __DIR__ . '/options.php';
require '/usr/share/php/PhpAmqpLib/autoload.php';
require __DIR__ . '/exists.php';

use PhpAmqpLib\Connection\AMQPLazyConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

$options = job_options();
$exchange = $options['exchange'];
$queue = $options['routing-key'];
$connection = new AMQPLazyConnection($options['host'], (int) $options['port'], $options['user'],
    $options['password'], $options['vhost']);

$channel = $connection->channel();
if (!exists($connection, fn($c) => $c->exchange_declare($exchange, '', true))) {
    $channel->exchange_declare($exchange, 'direct', false, true, false, false, true);
}
if (!exists($connection, fn($c) => $c->queue_declare($queue, true))) {
    $channel->queue_declare($queue, false, true, false, false, false,
        new AMQPTable(['x-max-priority' => 2, 'x-queue-mode' => 'lazy']));
    $channel->queue_bind($queue, $exchange, $queue);
}
if (isset($options['confirm'])) {
    $channel->set_nack_handler(function () {
        throw new RuntimeException('nacked');
    });
    $channel->confirm_select();
}
if (isset($options['tx'])) {
    $channel->tx_select();
}
for ($number = 1; $number <= (int) $options['count']; $number++) {
    $message = new AMQPMessage(job_body($options, $number), [
        'content_type' => 'application/json',
        'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
        'correlation_id' => $options['prefix'] . '-' . $number,
        'priority' => 1,
        'application_headers' => new AMQPTable(['laravel' => ['attempts' => 0]]),
    ]);
    if ($number === 1) {
        $channel->basic_publish($message, $exchange, $queue, true, false);
    } else {
        $channel->batch_basic_publish($message, $exchange, $queue);
    }
}
$channel->publish_batch();
if (isset($options['confirm'])) {
    $channel->wait_for_pending_acks(60);
}
if (isset($options['tx'])) {
    $channel->tx_commit();
}
$channel->close();
$connection->close();
