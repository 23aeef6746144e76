<?php
/* The same job with the extension php-amqp (librabbitmq). Exit status 0 only if all went well. */

declare(strict_types=1);

require __DIR__ . '/options.php';

$options = job_options();
$connection = new AMQPConnection([
    'host' => $options['host'], 'port' => (int) $options['port'],
    'login' => $options['user'], 'password' => $options['password'], 'vhost' => $options['vhost'],
    'connect_timeout' => 30, 'read_timeout' => 60, 'write_timeout' => 60, 'rpc_timeout' => 60,
]);
$connection->connect();
$channel = new AMQPChannel($connection);
if (isset($options['confirm'])) {
    $count = (int) $options['count'];
    $channel->setConfirmCallback(
        function (int $tag, bool $multiple) use ($count) {
            return $tag < $count; // false ends waitForConfirm()
        },
        function () {
            throw new RuntimeException('nacked');
        }
    );
    $channel->confirmSelect();
}
$exchange = new AMQPExchange($channel);
if ($options['exchange'] !== '') {
    $exchange->setName($options['exchange']);
}
for ($number = 1; $number <= (int) $options['count']; $number++) {
    $published = $exchange->publish(job_body($options, $number), $options['routing-key'], AMQP_NOPARAM, [
        'delivery_mode' => 2,
        'content_type' => 'text/plain',
        'message_id' => $options['prefix'] . '-' . $number,
    ]);
    if (!$published) {
        throw new RuntimeException('not published');
    }
}
if (isset($options['confirm'])) {
    $channel->waitForConfirm(60.0);
}
$channel->close();
$connection->disconnect();
