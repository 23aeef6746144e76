"""The differences that are allowed: a function each, by the name that it has in allowed.md.

Each takes the lines of one side and returns them without what may differ; those of PAIRED take both sides', those of
KNOWING also what was sent. Those of VARIANTS say what RabbitMQ would have to be sent instead.
"""

import ast
import dataclasses
import itertools
import re

from support import amqp

from .sequence import PAUSE, Action

HURT = "a bystander is hurt"
# The last four are basic.publish, ack, reject and nack.
UNANSWERED = r"\d+ replies: channel\.close .*'class_id': 60, 'method_id': (40|80|90|120)}"
ENDED = r"0 replies: connection\.close {'reply_code': (503|540|541|504, .*processing 'tx\.commit')"
OWN_MISTAKE = (r"(\d+) replies: channel\.close .*(no previously declared queue|cannot switch from (tx to confirm|confirm to tx)).*"
               r"'class_id': (?P<class>\d+), 'method_id': (?P<method>\d+)}")
COUNT = re.compile(r", 'message_count': (\d+)")
VARIANTS_MAX = 16


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


def counts_behind_a_publish(straight, proxied, sent):
    """By no more than was published before, in the burst that asks."""
    out = [], []
    for at, pair in enumerate(itertools.zip_longest(_segments(straight), _segments(proxied), fillvalue=[])):
        for kept, lines in zip(out, _lagging(*pair, _published_with_a_declaration(sent.sequence, at))):
            kept.extend(lines)
    return out


def _published_with_a_declaration(sequence, segment):
    """How many messages are published in bursts of that segment of answers which declare queues as well."""
    if not sequence.patient:
        bursts = [sequence.actions()]
    else:
        bursts = [] if sequence.consumes() else sequence.bursts[segment - 1:segment] if segment else []
    return sum(action.messages for burst in bursts for action in burst
               if any(other.name == "queue.declare" for other in burst))


def _lagging(straight, proxied, published):
    def is_declared(line):
        return "queue.declare-ok" in line

    def count(line):
        return int(COUNT.search(line)[1])
    declared = list(filter(is_declared, straight))
    if [COUNT.sub("", line) for line in declared] != [COUNT.sub("", line) for line in proxied if is_declared(line)]:
        return straight, proxied
    kept = []
    for line in proxied:
        other = declared.pop(0) if is_declared(line) else line
        kept.append(other if other == line or abs(count(other) - count(line)) <= published else line)
    return straight, kept


def repeated_behind_an_error(straight, proxied, sent):
    """If RabbitMQ has ended the connection for what was asked: takes one copy from each queue of what was not safe, and one
    for each of those that are in no queue: when RabbitMQ refuses it, what is under way with it is sent once more."""
    if not any(re.match(ENDED, line) for line in proxied):
        return straight, proxied
    lines, kept = _contents(proxied)
    there = {_as_sent(message) for messages in kept.values() for message in messages}
    copies = 1 + sum(message not in there for message in sent.unsafe)
    more_lines, expected = _contents(straight)
    for queue, messages in kept.items():
        _take_repeated(messages, expected.get(queue, []), list(sent.unsafe), copies, sent.sequence.forgets(queue))
    return _shown(more_lines, expected), _shown(lines, kept)


def _take_repeated(messages, expected, unsafe, copies, forgets):
    """What is expected stays, in its order; of the rest so many copies of what is unsafe go, each time in the order in which
    it was sent. A queue with a limit may have forgotten what is expected, too."""
    due, extra = list(expected), []
    for at, message in enumerate(messages):
        if due and message == due[0]:
            del due[0]
        else:
            extra.append(at)
    if due and forgets:
        extra, unsafe = list(range(len(messages))), expected + unsafe
        expected.clear()
    gone = set()
    for _ in range(copies):
        left = list(unsafe)
        for at in extra:
            if at not in gone and _as_sent(messages[at]) in left:
                del left[:left.index(_as_sent(messages[at])) + 1]
                gone.add(at)
    messages[:] = [message for at, message in enumerate(messages) if at not in gone]


def _as_sent(message):
    """A message that has waited has less time left."""
    exchange, key, header, body = message
    return exchange, key, re.sub(rb"\x0735\d{5}", b"\x073600000", header), body


def _contents(lines):
    """(the other lines, {queue: its messages}); without counts, and whether a message was delivered before."""
    kept, queues = [], {}
    for line in lines:
        found = re.match(r"queue (\w+): (basic.get-ok (.*)|([23]) (b.*)|(\d+))", line)
        if not found or found[6] in ("404", "405"):
            kept.append(line)
            continue
        messages = queues.setdefault(found[1], [])
        if found[3]:
            args = ast.literal_eval(found[3])
            messages.append((args["exchange"], args["routing_key"], b"", b""))
        elif found[5]:
            part = ast.literal_eval(found[5])
            *first, header, body = messages[-1]
            messages[-1] = (*first, part, body) if found[4] == "2" else (*first, header, body + part)
    return kept, queues


def _shown(lines, queues):
    return lines + [f"queue {queue}: {message}" for queue in sorted(queues) for message in queues[queue]]


def deliveries_before_an_error(straight, proxied, sent):
    """On a channel that RabbitMQ closes over what was sent without waiting."""
    if sent.sequence.patient:
        return straight, proxied
    return tuple(_without_deliveries(lines) for lines in (straight, proxied))


def _without_deliveries(lines):
    closed = {line.split(" ", 1)[0] for line in lines if re.match(r"\d+ replies: channel\.close \{", line)}
    return [line for line in lines if not (line.split(" ", 1)[0] in closed and re.match(r"\d+ consumer ", line))]


RULES = {rule.__name__: rule for rule in (confirms_before_a_close, texts_of_frame_errors, malformed_fields,
                                        second_closes)}
PAIRED = {rule.__name__: rule for rule in (answers_behind_a_mistake, )}
KNOWING = {rule.__name__: rule for rule in (counts_behind_a_publish, deliveries_before_an_error,
                                          repeated_behind_an_error)}


def reduced(straight, proxied, sent):
    """Both sides' lines, as they are compared. `sent` has the sequence, and which of its messages were not safe in the end."""
    for rule in KNOWING.values():
        straight, proxied = rule(straight, proxied, sent)
    for rule in RULES.values():
        straight, proxied = rule(straight), rule(proxied)
    for rule in PAIRED.values():
        straight, proxied = rule(straight, proxied)
    return straight, proxied


# ---- variants: what RabbitMQ would be sent to answer as amqpbuf may ----


def commands_behind_a_commit(sequence, straight, proxied):
    """Each waits for commit-ok."""
    if not any("unexpected command while processing 'tx.commit'" in line for line in straight):
        return
    pause = Action(0, PAUSE)
    yield [[part for action in burst for part in ([action, pause] if action.name == "tx.commit" else [action])]
           for burst in sequence.bursts]


def transactions_of_consumers(sequence, straight, proxied):
    """RabbitMQ is asked for confirms before: they are on between amqpbuf and it."""
    refused = {line.split(" ", 1)[0] for line in proxied
               if "PRECONDITION_FAILED - cannot switch from confirm to tx mode" in line and line not in straight}
    for number in refused:
        for at in _of_publishing_consumers(sequence, int(number)):
            yield _with(sequence, at, [Action(int(number), "confirm.select", amqp.method_frame(
                int(number), "confirm.select", no_wait=True))])


def _of_publishing_consumers(sequence, channel):
    """The places of tx.select on a channel that has consumed, or got, and published."""
    done = set()
    for at, action in _places(sequence, channel):
        if action.name == "channel.open":
            done = set()
        if action.name == "tx.select" and "basic.publish" in done and done & {"basic.consume", "basic.get"}:
            yield at
        done.add(action.name)


def first_of_two_mistakes(sequence, straight, proxied):
    """RabbitMQ never gets the first, which nobody answers. What comes between it throws away, but amqpbuf keeps messages."""
    for line in proxied:
        found = re.match(OWN_MISTAKE, line)
        if not found or line in straight:
            continue
        firsts = {(60, int(match[1])) for match in (re.match(UNANSWERED, other) for other in straight)
                  if match and match[0].startswith(f"{found[1]} ")}
        places = list(_places(sequence, int(found[1])))
        numbers = [amqp.METHODS.get(action.name, ())[:2] for _, action in places]
        for end in range(len(places)):
            if numbers[end] != (int(found["class"]), int(found["method"])):
                continue
            for first in reversed(range(end)):  # the nearest one is the likeliest
                if numbers[first] in firsts:
                    yield _without(sequence, [place for place, _ in places[first:end]])
                    yield _without(sequence, [places[first][0]])


def _places(sequence, channel):
    """((burst, place in it), action) of what a sequence sends on a channel."""
    return (((at, inner), action) for at, burst in enumerate(sequence.bursts)
            for inner, action in enumerate(burst) if action.channel == channel)


def _with(sequence, place, actions):
    at, inner = place
    bursts = [list(burst) for burst in sequence.bursts]
    bursts[at][inner:inner] = actions
    return bursts


def _without(sequence, places):
    return [[action for inner, action in enumerate(burst) if (at, inner) not in places]
            for at, burst in enumerate(sequence.bursts)]


VARIANTS = {rule.__name__: rule for rule in (commands_behind_a_commit, transactions_of_consumers, first_of_two_mistakes)}


def variants(sequence, straight, proxied):
    """(the name of the rule, another sequence): RabbitMQ may answer one of them as amqpbuf answers this one."""
    for rule in VARIANTS.values():
        for bursts in itertools.islice(rule(sequence, straight, proxied), VARIANTS_MAX):
            yield rule.__name__, dataclasses.replace(sequence, bursts=bursts)
