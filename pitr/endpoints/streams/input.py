# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs: a pipe, a file, or the standard output of a command."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from pitr.endpoints.images.partial_file import file_errors
from pitr.endpoints.streams.output import end_command
from pitr.errors import FormatError, PitrError, ProgramFailed
from pitr.system.process import start_piped

_BUFFER = 1 << 20
#: The seconds that a command may run after its output has ended.
_END_S = 2.0
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: The default limit of zstd: a frame decides how much memory its reader needs.
_MAX_WINDOW = 1 << 27


class Input:
    """A binary stream with `read` only. It turns an OSError into a PitrError."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        #: Whether the stream has been read to its end.
        self.at_end = False

    def read(self, length: int = -1) -> bytes:
        try:
            data = self._stream.read(length)
        except OSError as error:
            raise PitrError(f"cannot read {self._name}: {error.strerror}") from error
        self.at_end = not data and length != 0
        return data


class _Unpacked:
    """The decompressed bytes of a stream of zstd frames."""

    def __init__(self, stream: Any) -> None:
        machine = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._reader = machine.stream_reader(stream, read_size=_BUFFER, read_across_frames=True)

    def read(self, length: int = -1) -> bytes:
        try:
            return self._reader.read(length)
        except zstandard.ZstdError as error:
            raise FormatError(f"cannot decompress the stream: {error}") from None


class PutBack:
    """A stream with `head`, the bytes that were already read from it, put back."""

    def __init__(self, head: bytes, stream: Any) -> None:
        self._head = head
        self._stream = stream

    def read(self, length: int = -1) -> bytes:
        if not self._head:
            return cast(bytes, self._stream.read(length))
        if length < 0:
            head, self._head = self._head, b""
            return head + cast(bytes, self._stream.read())
        head, self._head = self._head[:length], self._head[length:]
        return head


class Remembered:
    """A stream that can be read again from its beginning, until more than `most` bytes have been read."""

    def __init__(self, stream: BinaryIO, most: int = 4 * _BUFFER) -> None:
        self._stream = stream
        self._most = most
        self._head: bytearray | None = bytearray()

    def read(self, length: int = -1) -> bytes:
        data = self._stream.read(length)
        if self._head is not None:
            self._head += data
            if len(self._head) > self._most:
                self._head = None
        return data

    def forget(self) -> None:
        """Stop remembering the bytes that are read."""
        self._head = None

    def again(self) -> BinaryIO:
        """Return the whole stream from its beginning. Raises FormatError when too much of it has been read."""
        if self._head is None:
            raise FormatError("cannot read the stream again: its beginning is too long")
        return cast(BinaryIO, PutBack(bytes(self._head), self._stream))


def unpacked(stream: Any) -> BinaryIO:
    """Return `stream`, decompressed when it begins with a zstd frame. The caller closes `stream`."""
    head = b""
    while len(head) < len(_ZSTD_MAGIC) and (part := stream.read(len(_ZSTD_MAGIC) - len(head))):
        head += part
    whole = PutBack(head, stream)
    return cast(BinaryIO, _Unpacked(whole) if head == _ZSTD_MAGIC else whole)


@contextmanager
def open_input(name: str, standard_input: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """Open the file `name` for reading; "-" is `standard_input` if you give one. Raises PitrError."""
    if name == "-" and standard_input is not None:
        yield cast(BinaryIO, Input(standard_input, "standard input"))
        return
    path = Path(name)
    with file_errors(path):
        file = path.open("rb", buffering=_BUFFER)
    with file:
        yield cast(BinaryIO, Input(file, name))


@contextmanager
def from_command(command: Sequence[str]) -> Iterator[BinaryIO]:
    """Start a command and yield its standard output. At the end of the block, skip the rest of its output.

    Only the exit code decides. Leaving the block raises ProgramFailed for any exit code but 0, also instead of an error
    that the missing output caused. After another error, the command is stopped. Raises ProgramMissing.
    """
    process = start_piped(command, stdout=subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("the process has no pipe for its output")
    stream = io.BufferedReader(cast(io.RawIOBase, process.stdout), _BUFFER)
    output = Input(stream, f"the output of {command[0]}")
    try:
        try:
            yield cast(BinaryIO, output)
        except PitrError as error:
            # The exit code of a failed command says more than the error about its incomplete output.
            if output.at_end and (code := _exit_code(process)):
                raise ProgramFailed(f"{command[0]} failed with exit code {code}") from error
            raise
        while stream.read(_BUFFER):
            pass
        code = process.wait()
        if code != 0:
            raise ProgramFailed(f"{command[0]} failed with exit code {code}")
    finally:
        end_command(process)
        stream.close()


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a command whose output has ended, or None when it keeps running."""
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return None
