# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests' file systems, read from the bytes of their volumes. Nothing is mounted, nothing is trusted.

The dissect libraries, an optional extra, read the structures. pitr itself finds the bytes of a file, because a copy
must be exact or fail, while a forensic library may return less.
"""

from pitr.guest.filesystem.base import EntryKind, FileContent, FileSystem, FolderEntry, Node
from pitr.guest.filesystem.known import READABLE, open_file_system
from pitr.guest.filesystem.volume import VolumeFile

__all__ = [
    "READABLE",
    "FileContent",
    "FolderEntry",
    "FileSystem",
    "EntryKind",
    "Node",
    "VolumeFile",
    "open_file_system",
]
