"""What a sequence may leave at RabbitMQ that the next one must not find; its messages apart."""

from .broker_end import BINDINGS
from .sequence import EXCHANGES, NEW, QUEUES, own

_OURS = {own(name): name for name in QUEUES + EXCHANGES + NEW}


def changed(sequence):
    """The queues and exchanges that it may have made or removed."""
    actions = sequence.actions()
    names = {_OURS.get(named(action)) for action in actions if action.name.endswith(".delete")}
    if any(action.name == "queue.delete" and not named(action) for action in actions):
        names |= set(_declared(actions))
    names |= {_OURS.get(named(action)) for action in actions
              if action.name.endswith(".declare") and not action.args["passive"]} & set(NEW)
    names |= {name for action in actions if action.name.startswith("odd:")
              for name in NEW if own(name).encode() in action.data}
    return names - {None}


def named(action):
    return action.args.get("queue", action.args.get("exchange"))


def _declared(actions):
    """What a queue without a name may be, beside one that RabbitMQ has named."""
    return {_OURS[named(action)] for action in actions
            if action.name == "queue.declare" and named(action) in _OURS}


def bindings(sequence):
    """Calls (method, args) that make bindings as they were, of what was neither made nor removed."""
    calls, actions = [], sequence.actions()
    gone = {own(name) for name in changed(sequence)} | {own(name) for name in NEW + ["none"]} | {""}
    for action in actions:
        kind, _, verb = action.name.partition(".")
        if verb not in ("bind", "unbind"):
            continue
        args = {key: value for key, value in action.args.items() if key != "no_wait"}
        if kind == "exchange":
            if verb == "bind" and not gone & {args["source"], args["destination"]}:
                calls.append(("exchange.unbind", args))
            continue
        for queue in [args["queue"]] if args["queue"] else map(own, sorted(_declared(actions))):
            is_there = not args["arguments"] and (
                _OURS.get(queue), _OURS.get(args["exchange"]), args["routing_key"]) in BINDINGS
            if not gone & {queue, args["exchange"]} and is_there == (verb == "unbind"):
                calls.append(("queue.bind" if is_there else "queue.unbind", args | {"queue": queue}))
    return calls
