"""What tools that run for minutes need, unless AMQPBUF_TEST_BIN and AMQPBUF_TEST_INSPECT name it."""

import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build():
    if "AMQPBUF_TEST_BIN" in os.environ:
        return
    for command in (["cmake", "--preset", "dev"], ["cmake", "--build", "--preset", "dev"]):
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
