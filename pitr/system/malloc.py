# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings of the C library's allocator for threads that allocate and free blocks of about 1 MiB all the time.

They hold for the whole process, so only the command line applies them, not a program that uses pitr as a library.
"""

from __future__ import annotations

import ctypes
from typing import Final

#: Options of mallopt(3), as in malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
#: The largest value that the library allows.
_LARGEST_PIECE: Final = 32 << 20
_MOST_FREE: Final = 128 << 20


def recycle() -> None:
    """Let the allocator reuse freed memory instead of returning it to the system.

    The system fills each new page with zeroes, which takes a third of the time of decompressing a frame of 1 MiB.
    One arena for all threads lets a thread use memory that another freed, so a cache takes no more than it holds.
    Without glibc this does nothing.
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
