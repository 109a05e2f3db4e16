# SPDX-License-Identifier: GPL-2.0-or-later
"""How the C library keeps memory, for programs in which threads go on taking and giving back pieces of about 1 MiB.

A choice for the whole process: the command line makes it; a program that uses pitr as a library makes its own.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: Options of mallopt(3), as in malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
#: The library allows no more.
_LARGEST_PIECE: Final = 32 << 20
_MOST_FREE: Final = 128 << 20


def recycle() -> None:
    """From now on, use again what is freed, instead of giving it back to the system and taking it anew.

    The system fills each page that it gives with zeroes: for frames of 1 MiB, that takes as long as a third of
    decompressing them. In one arena, that of the whole process: what one thread frees, another one uses, so that a
    cache takes no more than it holds. Elsewhere than with glibc, this does nothing.
    """
    library = ctypes.CDLL(None)
    try:
        mallopt = library.mallopt
    except AttributeError:
        return
    for option, value in (
        (_ARENA_MAX, 1),
        (_MMAP_THRESHOLD, _LARGEST_PIECE),
        (_TRIM_THRESHOLD, _MOST_FREE),
    ):
        mallopt(option, value)
