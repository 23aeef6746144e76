"""What a RabbitMQ that has been killed will find of a queue on its disk.

RabbitMQ 3.10 keeps small messages (below 4096 bytes) of a classic queue, version 1, in the queue's
index: a journal, and segment files into which the journal is written from time to time, the newest
entry first. A kill in the middle of that leaves later messages and not earlier ones, none of which it
had confirmed. Formats: rabbit_queue_index.erl of RabbitMQ 3.10.
"""

# A segment's entry begins with 16 bits: a publish has the highest bit set, all else is an
# acknowledgement of 2 bytes. A publish goes on with message id (16), expiry (8), size (4), length of
# what is embedded (4).
_SEGMENT_PREFIX, _SEGMENT_HEAD = 2, 34
_SEGMENT_IS_PUBLISH = 0x8000
# A journal's entry begins with 64 bits: the highest two say what it is; 2 and 3 are a delivery and an
# acknowledgement of 8 bytes. A publish goes on like a segment's.
_JOURNAL_PREFIX, _JOURNAL_HEAD = 8, 40


def _embedded(data, prefix, head, is_publish):
    """The messages in a file, as bytes that contain their bodies; ends where the file is torn."""
    at = 0
    while at + prefix <= len(data):
        if not is_publish(int.from_bytes(data[at:at + prefix], "big")):
            at += prefix
            continue
        size = int.from_bytes(data[at + head - 4:at + head], "big")
        if at + head > len(data) or at + head + size > len(data):
            return
        yield data[at + head:at + head + size]
        at += head + size


def messages(rabbit):
    """Of all queues of a node that is not running."""
    for path in sorted(rabbit.folder.glob("mnesia/**/queues/*/*.idx")):
        yield from _embedded(path.read_bytes(), _SEGMENT_PREFIX, _SEGMENT_HEAD,
                             lambda word: word & _SEGMENT_IS_PUBLISH)
    for path in sorted(rabbit.folder.glob("mnesia/**/queues/*/journal.jif")):
        yield from _embedded(path.read_bytes(), _JOURNAL_PREFIX, _JOURNAL_HEAD,
                             lambda word: word >> 62 < 2)


def holes(numbers):
    """Those that are missing below the highest one that is there."""
    there = set(numbers)
    return {n for n in range(min(there), max(there)) if n not in there} if there else set()
