# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD URIs of served exports, after the NBD project's doc/uri.md."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote

from pitr.nbd.protocol import DEFAULT_PORT
from pitr.system.sockets import reachable_name


def uri(listener: socket.socket, export: str) -> str:
    """Return the NBD URI of an export that is served on `listener`."""
    name = quote(export, safe="")
    where = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"nbd+unix:///{name}?socket={quote(os.fsencode(Path(where).absolute()))}"
    host, port = where[:2]
    host = reachable_name(host)
    place = f"[{host}]" if ":" in host else host
    return f"nbd://{place}{'' if port == DEFAULT_PORT else f':{port}'}/{name}"
