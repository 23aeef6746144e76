<?php
/* What every job takes: --host --port --user --password --vhost --exchange --routing-key --count
 * --prefix --size and the flags --confirm and --tx. Message n of a job is "PREFIX-n", padded to --size. */

declare(strict_types=1);

set_error_handler(function (int $severity, string $message, string $file, int $line) {
    throw new ErrorException($message, 0, $severity, $file, $line);
}, E_ALL & ~E_DEPRECATED & ~E_USER_DEPRECATED);

function job_options(): array
{
    $given = getopt('', ['host:', 'port:', 'user:', 'password:', 'vhost:', 'exchange:', 'routing-key:',
        'count:', 'prefix:', 'size:', 'confirm', 'tx', 'quiet']);
    return $given + ['host' => '127.0.0.1', 'port' => '5673', 'user' => 'guest', 'password' => 'guest',
        'vhost' => '/', 'exchange' => '', 'routing-key' => '', 'count' => '1', 'prefix' => 'job',
        'size' => '0'];
}

function job_body(array $options, int $number): string
{
    return str_pad($options['prefix'] . '-' . $number, (int) $options['size'], '.');
}
