<?php
/* Takes everything that is in queue --routing-key and prints each body on a line of its own. */

declare(strict_types=1);

require __DIR__ . '/options.php';
require '/usr/share/php/PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;

$options = job_options();
$connection = new AMQPStreamConnection($options['host'], (int) $options['port'], $options['user'],
    $options['password'], $options['vhost']);
$channel = $connection->channel();
while ($message = $channel->basic_get($options['routing-key'], true)) {
    echo $message->getBody(), "\n";
}
$channel->close();
$connection->close();
