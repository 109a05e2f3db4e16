# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Chromium without a window: what a page is after its scripts ran, and what it looks like."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROGRAM = shutil.which("chromium")
needed = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed: apt-get install chromium")

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    *("--enable-logging=stderr", "--disable-dev-shm-usage", "--virtual-time-budget=10000"),
    # What a browser asks for of its own accord must not leave the machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A page: its document after all scripts, its picture (height, width, RGB), what was said on the console."""

    dom: str
    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    console: list[str]


def look(address: str, *, width: int = 1280, height: int = 1000, dark: bool = False) -> Seen:
    """Open a page in a new browser."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        command = [
            PROGRAM or "chromium",
            *_FLAGS,
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--dump-dom",
            f"--screenshot={picture}",
            address,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        console = re.findall(r":CONSOLE.*?\] (.*)", done.stderr)
        return Seen(done.stdout, _png(picture.read_bytes()), console)


def _png(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of a PNG as Chromium writes it: 8 bits, RGB or RGBA, not interlaced."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, compressed = 8, b""
    width = height = channels = 0
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert depth == 8 and colour in (2, 6) and not interlaced
            channels = 3 if colour == 2 else 4
        elif kind == b"IDAT":
            compressed += body
        at += length + 12
    lines = np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(height, 1 + width * channels)
    before = np.zeros((width, channels), np.int64)
    pixels = np.empty((height, width, channels), np.uint8)
    for number, line in enumerate(lines):
        before = _unfiltered(int(line[0]), line[1:].astype(np.int64).reshape(width, channels), before)
        pixels[number] = before
    return pixels[:, :, :3]


def _unfiltered(
    how: int, line: np.ndarray[Any, np.dtype[np.int64]], above: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    if how == 0:
        return line
    if how == 1:
        return np.cumsum(line, axis=0) % 256
    if how == 2:
        return (line + above) % 256
    rows, upper = line.tolist(), above.tolist()
    left = corner = [0] * len(rows[0])
    for pixel, up in zip(rows, upper, strict=True):
        for channel in range(len(pixel)):
            one, two, three = left[channel], up[channel], corner[channel]
            guess = (one + two) // 2 if how == 3 else _paeth(one, two, three)
            pixel[channel] = (pixel[channel] + guess) % 256
        left, corner = pixel, up
    return np.array(rows, np.int64)


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda one: abs(guess - one))
