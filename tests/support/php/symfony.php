<?php
/* The calls that Symfony Messenger's transport makes with php-amqp: confirms, exchange, queue and
 * binding declared before the first publish, and waitForConfirm() after each one. */

declare(strict_types=1);

require __DIR__ . '/options.php';

$options = job_options();
$connection = new AMQPConnection([
    'host' => $options['host'], 'port' => (int) $options['port'],
    'login' => $options['user'], 'password' => $options['password'], 'vhost' => $options['vhost'],
    'connect_timeout' => 30, 'read_timeout' => 60, 'write_timeout' => 60, 'rpc_timeout' => 60,
]);
$connection->pconnect();
$channel = new AMQPChannel($connection);
if (isset($options['confirm'])) {
    $channel->confirmSelect();
    $channel->setConfirmCallback(
        static fn(): bool => false, // ends waitForConfirm()
        static fn() => throw new RuntimeException('nacked')
    );
}
$exchange = new AMQPExchange($channel);
$exchange->setName($options['exchange']);
$exchange->setType(AMQP_EX_TYPE_FANOUT);
$exchange->setFlags(AMQP_DURABLE);
$exchange->declareExchange();
$queue = new AMQPQueue($channel);
$queue->setName($options['routing-key']);
$queue->setFlags(AMQP_DURABLE);
$queue->declareQueue();
$queue->bind($options['exchange']);
for ($number = 1; $number <= (int) $options['count']; $number++) {
    $exchange->publish(job_body($options, $number), '', AMQP_NOPARAM, [
        'headers' => ['type' => 'App\\Message\\Order', 'bus' => 'messenger.bus.default'],
        'content_type' => 'application/json',
        'delivery_mode' => 2,
        'timestamp' => time(),
    ]);
    if (isset($options['confirm'])) {
        $channel->waitForConfirm(60.0);
    }
}
$connection->pdisconnect();
