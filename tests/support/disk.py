"""A disk under data.mdb that can be filled, broken, and cut off the power (disk.c, preloaded)."""

import os
import pathlib
import struct

from .proxy import BINARY

LIBRARY = os.environ.get("AMQPBUF_TEST_DISK", str(BINARY.parent / "disk.so"))
PAGE = 4096
BOOT, BOOT_BYTES, SLOT, DOUBT = 32, 36, 256 * 1024, 2 * 256 * 1024  # docs/spool-format.md


class Disk:
    def __init__(self, folder, keeps_journal=False):
        self.fault, self.journal = folder / "fault", folder / "journal"
        self._hung = folder / "fault.hung"
        self.mend()
        self.environment = {
            "LD_PRELOAD": LIBRARY, "DISK_FAULT": str(self.fault),
            # The sanitizer has to put up with a library in front of it.
            "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=1:exitcode=99",
        }
        if keeps_journal:
            self.environment["DISK_JOURNAL"] = str(self.journal)

    def become(self, what):
        """`full`, `sync` (fails), `hang` (a sync does), `readonly`, `meta` or `late` (see disk.c)."""
        self._hung.unlink(missing_ok=True)
        temporary = self.fault.with_suffix(".new")
        temporary.write_text(what + "\n")
        temporary.replace(self.fault)

    def hangs(self):
        """True if a sync has hung since it became `hang`."""
        return self._hung.exists()

    def mend(self):
        self.become("fine")

    def written(self):
        """Length of the journal now: a moment that images can be made for."""
        return self.journal.stat().st_size


def read_journal(path):
    """[(end of the entry in the file, kind, offset, bytes)]"""
    data, at, entries = pathlib.Path(path).read_bytes(), 0, []
    while at < len(data):
        kind = data[at:at + 1]
        offset, length = struct.unpack_from("=QQ", data, at + 1)
        at += 17 + length
        entries.append((at, kind, offset, data[at - length:at]))
    return entries


def fates(entries, upto, sync):
    """For each entry: what became of the kernel's cache after it, b"S" (synced), b"F" (a sync failed)
    or nothing yet."""
    fate, ahead = [b""] * upto, b""
    for number in range(upto - 1, -1, -1):
        kind = entries[number][1]
        if kind in (sync, b"f" if sync == b"s" else b"F"):
            ahead = kind.upper()
        fate[number] = ahead
    return fate


def image(entries, upto, keep, write=b"W", sync=b"S"):
    """data.mdb (or, with w and s, `checkpoint`) as a power cut may leave it once `upto` entries were
    written: what was synced, and of the rest those pages for which `keep` says so. What was not
    written when a sync failed is taken for written by the kernel from then on (Linux says so once),
    and is lost unless `keep` says otherwise, whatever is synced later. A page is kept or
    lost as a whole: half a page is what LMDB's own checks are for, and its two meta pages are
    written durably."""
    fate = fates(entries, upto, sync)
    data = bytearray()
    for number, (_, kind, offset, content) in enumerate(entries[:upto]):
        if kind != write and not (kind == b"D" and write == b"W"):
            continue
        for start in range(0, len(content), PAGE):
            if fate[number] == b"S" or kind == b"D" or keep():
                end = offset + start + len(content[start:start + PAGE])
                if len(data) < end:
                    data.extend(bytes(end - len(data)))
                data[offset + start:end] = content[start:start + PAGE]
    return bytes(data)


def of_another_boot(checkpoint):
    """A `checkpoint` of a machine that has gone down since."""
    checkpoint = bytearray(checkpoint)
    for slot in range(0, len(checkpoint), SLOT):
        checkpoint[slot + BOOT:slot + BOOT + BOOT_BYTES] = b"0" * BOOT_BYTES
    return bytes(checkpoint)
