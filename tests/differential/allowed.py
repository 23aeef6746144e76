"""The differences that are allowed: a function each, by the name that it has in allowed.md.

Each takes the lines of one side and returns them without what may differ.
"""

import re


def _segments(lines):
    out = [[]]
    for line in lines:
        if line == "--":
            out.append([])
        out[-1].append(line)
    return out


def confirms_before_a_close(lines):
    """Those of a channel that closes in the same burst."""
    kept = []
    for segment in _segments(lines):
        closed = {line.split(" ", 1)[0] for line in segment
                  if re.match(r"\d+ replies: channel\.close", line)}
        closed |= {"all"} if any("replies: connection.close" in line for line in segment) else set()
        kept += [line for line in segment if " confirms: " not in line or
                 not closed & {"all", line.split(" ", 1)[0]}]
    return kept


def texts_of_frame_errors(lines):
    """What stands behind the dash."""
    return [re.sub(r"(connection\.close \{'reply_code': 50[135], 'reply_text': \W*\w+).*(, 'class_id')", r"\1\2", line)
            for line in lines]


def malformed_fields(lines):
    """RabbitMQ's own processes fail over them: 541, 502, or an end without a word."""
    return [re.sub(r"0 replies: (end of the connection$|connection\.close \{'reply_code': 5(41|02).*)",
                   "0 replies: the end, over malformed fields", line) for line in lines]


RULES = {rule.__name__: rule for rule in (confirms_before_a_close, texts_of_frame_errors, malformed_fields)}


def reduced(lines):
    """Both sides' lines go through this before they are compared."""
    for rule in RULES.values():
        lines = rule(lines)
    return lines
