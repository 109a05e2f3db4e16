# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests' file systems, read from the bytes of their volumes: nothing is mounted, nothing is believed.

The structures are read by the dissect libraries, an extra of the installation. Where a file's bytes lie is worked
out here, since a copy must be exact or fail: a forensic library may be content with less.
"""

from pitr.guest.filesystem.base import Entry, EntryKind, FileContent, FileSystem, Node
from pitr.guest.filesystem.known import READABLE, open_file_system
from pitr.guest.filesystem.volume import VolumeFile

__all__ = [
    "READABLE",
    "FileContent",
    "Entry",
    "FileSystem",
    "EntryKind",
    "Node",
    "VolumeFile",
    "open_file_system",
]
