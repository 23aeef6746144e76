<?php
/* Laravel's RabbitMQ queue driver looks whether an exchange or a queue exists on a channel of its own,
 * which RabbitMQ closes with 404 if not. */

declare(strict_types=1);

use PhpAmqpLib\Connection\AMQPLazyConnection;
use PhpAmqpLib\Exception\AMQPProtocolChannelException;

function exists(AMQPLazyConnection $connection, callable $look): bool
{
    $channel = $connection->channel();
    try {
        $look($channel);
    } catch (AMQPProtocolChannelException $refusal) {
        if ($refusal->amqp_reply_code !== 404) {
            throw $refusal;
        }
        return false;
    }
    $channel->close();
    return true;
}
