"""A name with several addresses, without a DNS (names.c, preloaded)."""

import os

from .proxy import BINARY

LIBRARY = os.environ.get("AMQPBUF_TEST_NAMES", str(BINARY.parent / "names.so"))


def environment(name, *addresses):
    """For a Proxy: the name has these addresses, in that order."""
    return {
        "LD_PRELOAD": LIBRARY, "NAMES_NAME": name, "NAMES_ADDRESSES": " ".join(addresses),
        # The sanitizer has to put up with a library in front of it.
        "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=1:exitcode=99",
    }


def hanging(name):
    """For a Proxy: nobody answers for the name, for an hour."""
    return environment(name)
