"""data.mdb as LMDB 0.9 writes it (mdb.c: MDB_page, MDB_node, MDB_meta), read without LMDB: which pages
does each value need?"""

import struct

PAGE = 4096
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG, SUB = 1, 2  # of a node: its data have pages of their own; are a database


class Pages:
    """`path_of[database, key]` are the pages from the newest head to the value, `own_of` those of
    them that hold the key and the value."""

    def __init__(self, data):
        self.data, self.count = data, len(data) // PAGE
        self.path_of, self.own_of = {}, {}
        head = max((0, 1), key=self._transaction)
        at = head * PAGE + 16 + 24
        self.free_root, = struct.unpack_from("<Q", data, at + 40)
        main = struct.unpack_from("<IHHQQQQQ", data, at + 48)
        self.last = struct.unpack_from("<Q", data, at + 96)[0]
        self.essential = {0, 1}
        self._walk("", main[7], (head,))
        self._walk("free", self.free_root, (head,))
        self.used = self.essential.union(*self.path_of.values())

    def _transaction(self, head):
        return struct.unpack_from("<Q", self.data, head * PAGE + 16 + 24 + 96 + 8)[0]

    def _walk(self, database, number, path):
        if number == 0xFFFFFFFFFFFFFFFF:
            return
        path += (number,)
        base = number * PAGE
        flags, lower = struct.unpack_from("<HH", self.data, base + 10)
        assert flags & (BRANCH | LEAF), (database, number, flags)
        if database in ("", "meta", "queues"):
            self.essential.add(number)
        for at in range(16, lower, 2):
            offset, = struct.unpack_from("<H", self.data, base + at)
            low, high, node_flags, key_len = struct.unpack_from("<HHHH", self.data, base + offset)
            key = self.data[base + offset + 8:base + offset + 8 + key_len]
            if flags & BRANCH:
                self._walk(database, low | high << 16 | node_flags << 32, path)
                continue
            value_at = base + offset + 8 + key_len
            if node_flags & SUB:
                self._walk(key.decode(), struct.unpack_from("<Q", self.data, value_at + 40)[0], path)
                continue
            own = (number,)
            if node_flags & BIG:
                first, = struct.unpack_from("<Q", self.data, value_at)
                own += tuple(range(first, first + (16 + (low | high << 16) + PAGE - 1) // PAGE))
            self.own_of[database, key] = set(own)
            self.path_of[database, key] = set(path + own)

    def of_message(self, paths, queue, seq, rejected=False):
        """The pages of all that belongs to it."""
        key = struct.pack(">IQ", queue, seq)
        found = set(paths["rejected" if rejected else "messages", key])
        part = 1
        while ("parts", key + struct.pack(">I", part)) in paths:
            found |= paths["parts", key + struct.pack(">I", part)]
            part += 1
        return found
