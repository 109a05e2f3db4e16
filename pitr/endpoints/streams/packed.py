# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams as zstd frames."""

from __future__ import annotations

from pitr.endpoints.streams.output import StreamOutput
from pitr.repository.blob import FRAME_SIZE, Compressor


class PackedOutput:
    """Compresses the bytes written to it, one frame for each MiB, and writes the frames to `output`."""

    def __init__(self, output: StreamOutput) -> None:
        self._output = output
        self._compressor = Compressor()
        self._buffer = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        while len(self._buffer) >= FRAME_SIZE:
            self._output.write(self._compressor.compress(bytes(self._buffer[:FRAME_SIZE])))
            del self._buffer[:FRAME_SIZE]

    def finish(self) -> None:
        """Write the last frame. The caller finishes `output`."""
        self._output.write(self._compressor.compress(bytes(self._buffer)))
        self._buffer.clear()
