# SPDX-License-Identifier: GPL-2.0-or-later
"""The numbers and headers of the NBD protocol that client and server share (the NBD project's doc/proto.md)."""

from __future__ import annotations

import struct
from typing import Final

DEFAULT_PORT: Final = 10809
#: The largest payload that a server must accept before it has announced its own limit.
DEFAULT_MAXIMUM_BLOCK: Final = 32 << 20
#: The longest export name, and the longest of all other texts, in bytes.
MAX_TEXT: Final = 4096
CONTEXT: Final = b"base:allocation"

# The handshake

SERVER_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9

HANDSHAKE_FIXED: Final = 1 << 0
HANDSHAKE_NO_ZEROES: Final = 1 << 1

OPTION_EXPORT_NAME: Final = 1
OPTION_ABORT: Final = 2
OPTION_LIST: Final = 3
OPTION_INFO: Final = 6
OPTION_GO: Final = 7
OPTION_STRUCTURED_REPLY: Final = 8
OPTION_LIST_META_CONTEXT: Final = 9
OPTION_SET_META_CONTEXT: Final = 10

REPLY_ACK: Final = 1
REPLY_SERVER: Final = 2
REPLY_INFO: Final = 3
REPLY_META_CONTEXT: Final = 4
REPLY_IS_ERROR: Final = 1 << 31
REPLY_UNSUPPORTED: Final = REPLY_IS_ERROR + 1
REPLY_INVALID: Final = REPLY_IS_ERROR + 3
REPLY_UNKNOWN: Final = REPLY_IS_ERROR + 6
REPLY_TOO_BIG: Final = REPLY_IS_ERROR + 9

INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3

FLAG_HAS_FLAGS: Final = 1 << 0
FLAG_READ_ONLY: Final = 1 << 1
FLAG_FLUSH: Final = 1 << 2
FLAG_TRIM: Final = 1 << 5
FLAG_WRITE_ZEROES: Final = 1 << 6
FLAG_DF: Final = 1 << 7
FLAG_MULTI_CONNECTION: Final = 1 << 8
FLAG_CACHE: Final = 1 << 10

GREETING: Final = struct.Struct(">8s8sH")
OPTION: Final = struct.Struct(">8sLL")
OPTION_REPLY: Final = struct.Struct(">QLLL")

# Requests

REQUEST_MAGIC: Final = 0x25609513
#: Magic, flags, command, handle, offset, length.
REQUEST: Final = struct.Struct(">LHHQQL")

READ: Final = 0
WRITE: Final = 1
DISCONNECT: Final = 2
FLUSH: Final = 3
TRIM: Final = 4
CACHE: Final = 5
WRITE_ZEROES: Final = 6
BLOCK_STATUS: Final = 7

COMMAND_NO_HOLE: Final = 1 << 1
COMMAND_DF: Final = 1 << 2
COMMAND_ONE: Final = 1 << 3

STATE_HOLE: Final = 1 << 0
STATE_ZERO: Final = 1 << 1

# Replies

SIMPLE_MAGIC: Final = 0x67446698
STRUCTURED_MAGIC: Final = 0x668E33EF

DONE: Final = 1 << 0

CHUNK_NONE: Final = 0
CHUNK_DATA: Final = 1
CHUNK_HOLE: Final = 2
CHUNK_BLOCK_STATUS: Final = 5
CHUNK_IS_ERROR: Final = 1 << 15
CHUNK_ERROR: Final = CHUNK_IS_ERROR + 1
CHUNK_ERROR_OFFSET: Final = CHUNK_IS_ERROR + 2

EPERM: Final = 1
EIO: Final = 5
EINVAL: Final = 22
EOVERFLOW: Final = 75
EOPNOTSUPP: Final = 95
