<?php
/* A publisher of the ledger on php-amqp (librabbitmq): PORT QUEUE NAME CONFIRMS STOP_FILE; see
   ledger.py. */

declare(strict_types=1);

[, $port, $queue, $name, $confirms, $stopFile] = $argv;
$connection = new AMQPConnection([
    'host' => '127.0.0.1', 'port' => (int) $port, 'login' => 'guest', 'password' => 'guest',
    'connect_timeout' => 60, 'read_timeout' => 120, 'write_timeout' => 120, 'rpc_timeout' => 120,
]);
$connection->connect();
$channel = new AMQPChannel($connection);
$sent = 0;
if ($confirms === '1') {
    $channel->setConfirmCallback(
        function (int $tag, bool $multiple) use (&$sent) {
            return $tag < $sent; // false ends waitForConfirm()
        },
        function () {
            throw new RuntimeException('nacked');
        }
    );
    $channel->confirmSelect();
}
$exchange = new AMQPExchange($channel);
while (!file_exists($stopFile)) {
    $exchange->publish("$name:$sent", $queue, AMQP_NOPARAM, ['delivery_mode' => 2]);
    $sent++;
    if ($confirms === '1') {
        $channel->waitForConfirm(120.0);
    }
    usleep(100000);
}
$channel->close();
$connection->disconnect();
echo $sent, "\n";
