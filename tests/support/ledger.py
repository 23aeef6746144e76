"""Publishers that number their messages, and the account of what arrived.

A publisher is a process: PORT QUEUE NAME CONFIRMS STOP_FILE. It publishes "NAME:0", "NAME:1"...
until the stop file is there, waits for each ack if it asked for confirms, closes, and prints how
many it has published. Whatever goes wrong in between ends it with another status than 0.
"""

import os
import pathlib
import sys

from .jobs import PHP, Job

HERE = pathlib.Path(__file__).parent
LIBRARIES = {
    "pika": [sys.executable, str(HERE / "ledger_pika.py")],
    "php": ["php", str(PHP / "ledger.php")],
    "extension": ["php", str(PHP / "ledger_extension.php")],
    "c": [os.environ.get("AMQPBUF_TEST_LEDGER_PUBLISHER",
                         str(HERE.parents[1] / "build-dev" / "ledger_publisher"))],
}


def start_publishers(port, queue, stop_file, each):
    """`each` publishers with confirms and as many without, spread over the libraries: {name: Job}."""
    libraries = list(LIBRARIES)
    jobs = {}
    for number in range(2 * each):
        library = libraries[number // 2 % len(libraries)]
        name = f"{library}{number}"
        jobs[name] = Job(LIBRARIES[library] + [str(port), queue, name, str(number % 2),
                                               str(stop_file)])
    return jobs


def balance(sent, bodies):
    """Everything that was sent is there, first copies in order; returns the number of duplicates."""
    seen, duplicates = {name: set() for name in sent}, 0
    last = dict.fromkeys(sent, -1)
    for body in bodies:
        name, number = body.decode().split(":")
        number = int(number)
        if number in seen[name]:
            duplicates += 1
            continue
        assert number > last[name], f"message {number} of {name} came after {last[name]}"
        seen[name].add(number)
        last[name] = number
    for name, count in sent.items():
        missing = sorted(set(range(count)) - seen[name])
        assert not missing, f"{name} lost {missing[:5]} of {count}"
    return duplicates
