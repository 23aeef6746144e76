"""The log of a proxy, read on from where the last look ended."""

import re

_FIELD = re.compile(r'([a-z_0-9]+)=("(?:[^"\\]|\\.)*"|[^ "]*)(?: |$)')


def parse_line(line):
    """A logfmt line as a dict; None if it is none."""
    fields, at = {}, 0
    while at < len(line):
        match = _FIELD.match(line, at)
        if not match:
            return None
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        fields[match[1]] = value
        at = match.end()
    return fields if "event" in fields else None


class Log:
    """The events of a logfmt file that grows. A look parses only what has come since the last one:
    a test that waits looks often, and a long test has a long log."""

    def __init__(self, path):
        self._path = path
        self._read_to = 0
        self._events = []
        self._mark = 0

    def mark(self):
        """What comes from here on is `since_mark`."""
        self._read()
        self._mark = len(self._events)

    def all(self):
        self._read()
        return self._events

    def since_mark(self):
        self._read()
        return self._events[self._mark:]

    def _read(self):
        with open(self._path, "rb") as log:
            log.seek(self._read_to)
            new = log.read()
        new = new[:new.rfind(b"\n") + 1]
        self._read_to += len(new)
        for line in new.decode(errors="replace").splitlines():
            fields = parse_line(line)
            if fields:
                self._events.append(fields)
