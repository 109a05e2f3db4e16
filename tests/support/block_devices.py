# SPDX-License-Identifier: GPL-2.0-or-later
"""Loop devices, for tests of what pitr does with block devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pitr.errors import PitrError
from pitr.system.process import run


@contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """Attach the file `image` to a loop device. Skip the test where the machine allows none."""
    try:
        device = run(["losetup", "--find", "--show", str(image)]).strip()
    except (PitrError, FileNotFoundError) as error:
        pytest.skip(f"no loop device: {error}")
    try:
        yield Path(device)
    finally:
        run(["losetup", "--detach", device])
