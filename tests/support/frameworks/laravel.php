<?php
/* Jobs on Laravel's queue worker, with a driver that makes the calls of Laravel's usual one for
 * RabbitMQ on php-amqplib: queues are looked for on a channel of their own, declared if they are
 * missing; jobs are taken with basic.get; a job that is to wait goes over a queue with a time to
 * live and a dead letter exchange.
 *
 *     laravel.php work PORT QUEUE DONE                      queue:work; a line in DONE for each job
 *     laravel.php dispatch PORT QUEUE PREFIX COUNT DELAY_S
 *
 * What is called "flaky" fails twice; Laravel releases it and tries it again. */

declare(strict_types=1);

require '/usr/share/php/Illuminate/Queue/autoload.php';
require_once '/usr/share/php/Illuminate/Events/autoload.php';
require_once '/usr/share/php/PhpAmqpLib/autoload.php';
require __DIR__ . '/../php/exists.php';

use Illuminate\Container\Container;
use Illuminate\Contracts\Debug\ExceptionHandler;
use Illuminate\Contracts\Queue\Job as JobContract;
use Illuminate\Contracts\Queue\Queue as QueueContract;
use Illuminate\Events\Dispatcher;
use Illuminate\Queue\Connectors\ConnectorInterface;
use Illuminate\Queue\Jobs\Job;
use Illuminate\Queue\Queue;
use Illuminate\Queue\QueueManager;
use Illuminate\Queue\Worker;
use Illuminate\Queue\WorkerOptions;
use PhpAmqpLib\Channel\AMQPChannel;
use PhpAmqpLib\Connection\AMQPLazyConnection;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPTable;

final class RabbitQueue extends Queue implements QueueContract
{
    private AMQPLazyConnection $connection;
    private ?AMQPChannel $channel = null;
    private array $declared = [];

    public function __construct(int $port, private string $queue)
    {
        $this->connection = new AMQPLazyConnection('127.0.0.1', $port, 'guest', 'guest');
    }

    public function channel(): AMQPChannel
    {
        return $this->channel ??= $this->connection->channel();
    }

    private function declare(string $queue, array $arguments = []): void
    {
        if (isset($this->declared[$queue])) {
            return;
        }
        if (!exists($this->connection, fn($c) => $c->queue_declare($queue, true))) {
            $this->channel()->queue_declare($queue, false, true, false, false, false,
                new AMQPTable($arguments));
        }
        $this->declared[$queue] = true;
    }

    public function size($queue = null)
    {
        return $this->channel()->queue_declare($queue ?? $this->queue, true)[1];
    }

    public function push($job, $data = '', $queue = null)
    {
        return $this->pushRaw($this->createPayload($job, $this->queue, $data));
    }

    public function pushRaw($payload, $queue = null, array $options = [])
    {
        $attempts = $options['attempts'] ?? 0;
        $this->declare($queue ?? $this->queue);
        $this->channel()->basic_publish(new AMQPMessage($payload, [
            'content_type' => 'application/json',
            'delivery_mode' => AMQPMessage::DELIVERY_MODE_PERSISTENT,
            'application_headers' => new AMQPTable(['laravel' => ['attempts' => $attempts]]),
        ]), '', $queue ?? $this->queue, true, false);
    }

    public function later($delay, $job, $data = '', $queue = null)
    {
        $this->laterRaw($delay, $this->createPayload($job, $this->queue, $data), 0);
    }

    public function laterRaw($delay, string $payload, int $attempts): void
    {
        $ms = 1000 * $this->secondsUntil($delay);
        if ($ms <= 0) {
            $this->pushRaw($payload, null, ['attempts' => $attempts]);
            return;
        }
        $waiting = "$this->queue.delay.$ms";
        $this->declare($waiting, [
            'x-dead-letter-exchange' => '',
            'x-dead-letter-routing-key' => $this->queue,
            'x-message-ttl' => $ms,
            'x-expires' => 2 * $ms + 60000,
        ]);
        $this->pushRaw($payload, $waiting, ['attempts' => $attempts]);
    }

    public function pop($queue = null)
    {
        $this->declare($this->queue);
        $message = $this->channel()->basic_get($this->queue);
        return $message ? new RabbitJob($this->container, $this, $message, $this->queue) : null;
    }
}

final class RabbitJob extends Job implements JobContract
{
    public function __construct(Container $container, private RabbitQueue $rabbit,
        private AMQPMessage $message, string $queue)
    {
        $this->container = $container;
        $this->connectionName = 'rabbit';
        $this->queue = $queue;
    }

    public function attempts()
    {
        $headers = $this->message->get('application_headers')->getNativeData();
        return $headers['laravel']['attempts'] + 1;
    }

    public function getJobId()
    {
        return null;
    }

    public function getRawBody()
    {
        return $this->message->getBody();
    }

    public function delete()
    {
        parent::delete();
        $this->message->ack();
    }

    public function release($delay = 0)
    {
        parent::release($delay);
        $this->rabbit->laterRaw($delay, $this->getRawBody(), $this->attempts());
        $this->message->ack();
    }
}

final class Report implements ExceptionHandler
{
    public function report(Throwable $e)
    {
        fprintf(STDERR, "%s: %s\n", get_class($e), $e->getMessage());
    }

    public function shouldReport(Throwable $e)
    {
        return true;
    }

    public function render($request, Throwable $e)
    {
    }

    public function renderForConsole($output, Throwable $e)
    {
    }
}

final class Handler
{
    public function fire(JobContract $job, array $data): void
    {
        if (str_starts_with($data['text'], 'flaky') && $job->attempts() <= 2) {
            throw new RuntimeException("$data[text] fails");
        }
        file_put_contents($GLOBALS['what'], "$data[text]\n", FILE_APPEND);
        $job->delete();
    }
}

[, $mode, $port, $queue, $what] = $argv;
$container = new Container();
$container['config'] = [
    'queue.default' => 'rabbit',
    'queue.connections.rabbit' => ['driver' => 'rabbit'],
];
$manager = new QueueManager($container);
$manager->addConnector('rabbit', fn() => new class ((int) $port, $queue) implements ConnectorInterface {
    public function __construct(private int $port, private string $queue)
    {
    }

    public function connect(array $config)
    {
        return new RabbitQueue($this->port, $this->queue);
    }
});
if ($mode === 'dispatch') {
    for ($number = 0; $number < (int) $argv[5]; $number++) {
        $job = ['text' => "$what-$number"];
        $manager->connection()->later((int) $argv[6], 'Handler', $job);
    }
    $manager->connection()->channel()->getConnection()->close();
    exit;
}
$worker = new Worker($manager, new Dispatcher($container), new Report(), fn() => false);
exit($worker->daemon('rabbit', $queue, new WorkerOptions(sleep: 0.05, maxTries: 5)));
