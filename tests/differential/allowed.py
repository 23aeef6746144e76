"""The differences that are allowed: a function each, by the name that it has in allowed.md.

Each takes the lines of one side and returns them without what may differ; those of PAIRED take both sides'.
"""

import itertools
import re

HURT = "a bystander is hurt"
# The last four are basic.publish, ack, reject and nack.
UNANSWERED = r"\d+ replies: channel\.close .*'class_id': 60, 'method_id': (40|80|90|120)}"
ENDED = r"0 replies: connection\.close {'reply_code': (503|540)"
OWN_MISTAKE = r"(\d+) replies: channel\.close .*(no previously declared queue|cannot switch from tx to confirm).*"


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
    """RabbitMQ's own processes fail over them, and over methods that it does not know: 541, 502, or an end without a word."""
    return [re.sub(r"0 replies: (end of the connection$|connection\.close \{'reply_code': (5(41|02)|540, 'reply_text': 'NOT_IMPLEMENTED - unknown method).*)",
                   "0 replies: the end, over malformed fields", line) for line in lines]


def second_closes(lines):
    """RabbitMQ looks for a channel's last queue before it looks whether it has closed that channel."""
    kept, closed = [], set()
    for line in lines:
        channel = line.split(" ", 1)[0]
        if "replies: channel.open-ok" in line:
            closed.discard(channel)
        elif "replies: channel.close {" in line:
            if channel in closed and "no previously declared queue" in line:
                continue
            closed.add(channel)
        kept.append(line)
    return kept


def _by_segment(rule, straight, proxied):
    """The rule takes one segment of each side at a time."""
    out = [], []
    for pair in itertools.zip_longest(_segments(straight), _segments(proxied), fillvalue=[]):
        for kept, lines in zip(out, rule(*pair)):
            kept.extend(lines)
    return out


def first_of_two_mistakes(straight, proxied):
    """RabbitMQ's about a method without an answer, amqpbuf's about one that it judges itself."""
    return _by_segment(_first_of_two, straight, proxied)


def _first_of_two(straight, proxied):
    found = [re.match(OWN_MISTAKE, line) for line in proxied]
    own = {match[1]: match[0] for match in found if match and match[0] not in straight}
    out = []
    for line in straight:
        channel = line.split(" ", 1)[0]
        if channel in own and line not in proxied and re.match(UNANSWERED, line):
            line = own.pop(channel)
        out.append(line)
    return out, proxied


def answers_behind_a_mistake(straight, proxied):
    """Those that amqpbuf gives by itself."""
    return _by_segment(_answers_behind, straight, proxied)


def _answers_behind(straight, proxied):
    closed = {line.split(" ", 1)[0] for line in proxied if re.match(UNANSWERED, line)}
    due, kept = list(straight), []
    for line in proxied:
        if line in due:
            due.remove(line)
        elif line.split(" ", 1)[0] in closed and re.match(r"\d+ replies: (confirm\.select|basic\.qos)-ok", line):
            continue
        kept.append(line)
    return straight, kept


def transactions_of_consumers(straight, proxied):
    """From the refusal on nothing is alike."""
    refusal = "PRECONDITION_FAILED - cannot switch from confirm to tx mode"
    for at, line in enumerate(proxied):
        if refusal in line and line not in straight:
            return _cut(straight, proxied, proxied[:at].count("--"))
    return straight, proxied


def settled_before_transactions(straight, proxied):
    """From tx.select on nothing is alike."""
    unknown = r"(\d+) replies: channel\.close .*unknown delivery tag"
    for at, pair in enumerate(zip(_segments(straight), _segments(proxied))):
        for match in filter(None, (re.match(unknown, line) for line in pair[0])):
            if f"{match[1]} replies: tx.select-ok {{}}" in pair[1] and match[0] not in "\n".join(pair[1]):
                return _cut(straight, proxied, at)
    return straight, proxied


def repeated_behind_an_error(straight, proxied):
    """Each message once, and none that RabbitMQ alone threw away, if it has ended the connection for what was asked."""
    if not any(re.match(ENDED, line) for line in proxied):
        return straight, proxied
    lines, messages = _contents(straight)
    more_lines, more = _contents(proxied)
    return lines + sorted(messages), more_lines + sorted(messages & more)


def _contents(lines):
    """(the other lines, the messages in queues)"""
    kept = []
    for line in lines:
        queue = re.match(r"queue (\w+): ", line)
        if not queue:
            kept.append(line)
        elif re.fullmatch(r"queue \w+: \d+", line):
            if line.endswith((" 404", " 405")):
                kept.append(line)
        elif " basic.get-ok " in line:
            kept.append([re.sub("'(redelivered|message_count)': \\w+", "", line)])
        elif isinstance(kept[-1], list):
            kept[-1].append(line)
        else:
            kept.append(line)
    messages = {"; ".join(entry) for entry in kept if isinstance(entry, list)}
    return [entry for entry in kept if isinstance(entry, str)], messages


def _cut(straight, proxied, segment):
    """What stands before that segment, and whether a bystander was hurt."""
    hurt = [line for line in proxied if line.startswith(HURT)]
    return _until(straight, segment), _until(proxied, segment) + hurt


def _until(lines, count):
    """What stands before that many segments' beginning."""
    starts = [at for at, line in enumerate(lines) if line == "--"]
    return lines[:starts[count - 1]] if len(starts) >= count > 0 else lines


RULES = {rule.__name__: rule for rule in (confirms_before_a_close, texts_of_frame_errors, malformed_fields,
                                        second_closes)}
PAIRED = {rule.__name__: rule for rule in (first_of_two_mistakes, answers_behind_a_mistake,
                                         repeated_behind_an_error, settled_before_transactions,
                                         transactions_of_consumers)}


def reduced(straight, proxied):
    """Both sides' lines, as they are compared."""
    for rule in RULES.values():
        straight, proxied = rule(straight), rule(proxied)
    for rule in PAIRED.values():
        straight, proxied = rule(straight, proxied)
    return straight, proxied
