"""Waiting for a condition, never for a time."""

import time

TIMEOUT_S = 60


def wait_until(condition, what, timeout=TIMEOUT_S, progress=None):
    """Calls `condition` until it returns something true, and returns that.

    With `progress`, a callable, the time begins again whenever what it returns has changed: what
    takes long on a busy machine is no failure, what stands still is.

    An exception in it is a failure of the test, not a reason to go on. `what` says what is awaited;
    a callable is called for it, so that it can tell how far things had come.
    """
    deadline = time.monotonic() + timeout
    pause, before = 0.002, None
    while True:
        value = condition()
        if value:
            return value
        now = progress() if progress else None
        if now != before:
            before, deadline = now, time.monotonic() + timeout
        if time.monotonic() >= deadline:
            text = what() if callable(what) else what
            raise AssertionError(f"not within {timeout} s: {text}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
