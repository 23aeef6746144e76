<?php
/* Jobs on Symfony Messenger with its AMQP transport (php-amqp).
 *
 *     symfony.php work DSN DONE                      messenger:consume; a line in DONE for each job
 *     symfony.php dispatch DSN PREFIX COUNT DELAY_MS
 *
 * What is called "flaky" fails twice; Symfony's own retries try it again, over its delay queues. */

declare(strict_types=1);

foreach (['Messenger', 'Messenger/Bridge/Amqp', 'Console', 'EventDispatcher'] as $component) {
    require_once "/usr/share/php/Symfony/Component/$component/autoload.php";
}

use Symfony\Component\Console\Application;
use Symfony\Component\Console\Input\ArrayInput;
use Symfony\Component\EventDispatcher\EventDispatcher;
use Symfony\Component\Messenger\Bridge\Amqp\Transport\AmqpTransportFactory;
use Symfony\Component\Messenger\Command\ConsumeMessagesCommand;
use Symfony\Component\Messenger\EventListener\SendFailedMessageForRetryListener;
use Symfony\Component\Messenger\Handler\HandlersLocator;
use Symfony\Component\Messenger\MessageBus;
use Symfony\Component\Messenger\Middleware\AddBusNameStampMiddleware;
use Symfony\Component\Messenger\Middleware\HandleMessageMiddleware;
use Symfony\Component\Messenger\Middleware\SendMessageMiddleware;
use Symfony\Component\Messenger\Retry\MultiplierRetryStrategy;
use Symfony\Component\Messenger\RoutableMessageBus;
use Symfony\Component\Messenger\Stamp\DelayStamp;
use Symfony\Component\Messenger\Transport\Sender\SendersLocator;
use Symfony\Component\Messenger\Transport\Serialization\PhpSerializer;

final class Job
{
    public function __construct(public string $text)
    {
    }
}

final class Services implements Psr\Container\ContainerInterface
{
    public function __construct(private array $services)
    {
    }

    public function get(string $id): mixed
    {
        return $this->services[$id];
    }

    public function has(string $id): bool
    {
        return isset($this->services[$id]);
    }
}

[, $mode, $dsn, $what] = $argv;
$transport = (new AmqpTransportFactory())->createTransport($dsn, [], new PhpSerializer());
$transports = new Services(['async' => $transport]);
$tries = [];
$handle = function (Job $job) use (&$tries, $what): void {
    $tries[$job->text] = ($tries[$job->text] ?? 0) + 1;
    if (str_starts_with($job->text, 'flaky') && $tries[$job->text] <= 2) {
        throw new RuntimeException("$job->text fails");
    }
    file_put_contents($what, "$job->text\n", FILE_APPEND);
};
$bus = new MessageBus([
    new AddBusNameStampMiddleware('bus'),
    new SendMessageMiddleware(new SendersLocator([Job::class => ['async']], $transports)),
    new HandleMessageMiddleware(new HandlersLocator([Job::class => [$handle]])),
]);

if ($mode === 'dispatch') {
    for ($number = 0; $number < (int) $argv[4]; $number++) {
        $stamps = $argv[5] > 0 ? [new DelayStamp((int) $argv[5])] : [];
        $bus->dispatch(new Job("$what-$number"), $stamps);
    }
    exit;
}
$events = new EventDispatcher();
$strategies = new Services(['async' => new MultiplierRetryStrategy(3, 200, 1)]);
$events->addSubscriber(new SendFailedMessageForRetryListener($transports, $strategies));
$consume = new ConsumeMessagesCommand(new RoutableMessageBus(new Services(['bus' => $bus])),
    $transports, $events, null, ['async']);
$application = new Application();
$application->add($consume);
$application->run(new ArrayInput(['command' => 'messenger:consume', '--sleep' => '0.05']));
