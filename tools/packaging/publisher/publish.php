<?php
/* A batch job every second: connect, publish, close. Exit status 0 for a number of jobs, or never. */

declare(strict_types=1);

require '/usr/share/php/PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

function publish(int $number): void
{
    $connection = new AMQPStreamConnection(getenv('AMQP_HOST'), (int) getenv('AMQP_PORT'),
        getenv('AMQP_USER'), getenv('AMQP_PASSWORD'));
    $channel = $connection->channel();
    $channel->queue_declare('orders', false, true, false, false);
    $channel->basic_publish(new AMQPMessage("order $number", [
        'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
    ]), '', 'orders');
    $channel->close();
    $connection->close();
}

$jobs = (int) ($argv[1] ?? PHP_INT_MAX);
for ($number = 1; $number <= $jobs; $number++) {
    publish($number);
    echo "order $number is safe\n";
    if ($number < $jobs) {
        sleep(1);
    }
}
