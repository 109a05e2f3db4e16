# SPDX-License-Identifier: GPL-2.0-or-later
"""Point-in-time restore for oVirt VM disks.

The Python API is `copy`, `open_source`, `open_sink` and `Repository` (docs/api.md).
"""

from typing import TYPE_CHECKING, Any

from pitr.version import __version__ as __version__

if TYPE_CHECKING:
    from pitr.api import (
        Copied as Copied,
    )
    from pitr.api import (
        Repository as Repository,
    )
    from pitr.api import (
        Sink as Sink,
    )
    from pitr.api import (
        Source as Source,
    )
    from pitr.api import (
        StreamedSource as StreamedSource,
    )
    from pitr.api import (
        copy as copy,
    )
    from pitr.api import (
        open_sink as open_sink,
    )
    from pitr.api import (
        open_source as open_source,
    )

_API = ("Copied", "Repository", "Sink", "Source", "StreamedSource", "copy", "open_sink", "open_source")


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `pitr --version` stays fast.
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pitr import api  # noqa: PLC0415

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
