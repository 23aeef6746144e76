<?php
/* --count closing sequences of php-amqplib, one after the other, and what came of each: a line of JSON that
 * maps outcomes to how often they were seen. --routing-key names a queue with messages in it. */

declare(strict_types=1);

require __DIR__ . '/options.php';
require '/usr/share/php/PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

$options = job_options();

function outcome(callable $step): string
{
    try {
        $step();
        return 'fine';
    } catch (\PhpAmqpLib\Exception\AMQPProtocolException $error) {
        return 'error ' . $error->getCode();
    } catch (\Throwable $error) {
        return get_class($error) . ': ' . $error->getMessage();
    }
}

$sequences = [
    'missing exchange, channel' => function ($connection, $channel, int $round) {
        $channel->basic_publish(new AMQPMessage('x'), 'no-such-exchange', 'k');
        usleep(300 * ($round % 6));
        $channel->close();
    },
    'missing exchange, connection' => function ($connection, $channel, int $round) {
        $channel->basic_publish(new AMQPMessage('x'), 'no-such-exchange', 'k');
        usleep(300 * ($round % 6));
        $connection->close();
    },
    'consumer' => function ($connection, $channel, int $round) use ($options) {
        $seen = 0;
        $channel->basic_qos(0, 20, false);
        $channel->basic_consume($options['routing-key'], '', false, false, false, false,
            function () use (&$seen) {
                $seen++;
            });
        while ($seen < 1 + $round % 7) {
            $channel->wait(null, false, 60);
        }
        $channel->close();
    },
    'wrong ack' => function ($connection, $channel, int $round) use ($options) {
        $channel->basic_get($options['routing-key']);
        $channel->basic_ack(999);
        usleep(300 * ($round % 6));
        $channel->close();
    },
    'plain' => function ($connection, $channel, int $round) {
        $channel->basic_publish(new AMQPMessage('x'), '', 'closings-nowhere');
        $channel->close();
    },
];

$seen = [];
for ($round = 0; $round < (int) $options['count']; $round++) {
    foreach ($sequences as $name => $sequence) {
        $connection = new AMQPStreamConnection($options['host'], (int) $options['port'], $options['user'],
            $options['password'], $options['vhost'], false, 'AMQPLAIN', null, 'en_US', 60.0, 60.0);
        $other = $connection->channel();
        $channel = $connection->channel();
        $what = $name . ': ' . outcome(fn () => $sequence($connection, $channel, $round));
        if ($connection->isConnected()) {
            $what .= ', then ' . outcome(fn () => $other->queue_declare($options['routing-key'], true));
            $what .= ', then ' . outcome(fn () => $connection->close());
        }
        $seen[$what] = ($seen[$what] ?? 0) + 1;
    }
}
echo json_encode($seen), "\n";
