# SPDX-License-Identifier: GPL-2.0-or-later
"""Where streams are read from: a pipe, a file, or a command that gives them on its standard output."""

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
#: How long after its output a command may end.
_END_S = 2.0
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
#: What zstd itself refuses above without being asked to: a frame decides how much memory its reader needs.
_MAX_WINDOW = 1 << 27


class Input:
    """A binary stream that is read with `read` only; failures of the system are raised as PitrError."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        #: Whether all of it was read.
        self.at_end = False

    def read(self, length: int = -1) -> bytes:
        try:
            data = self._stream.read(length)
        except OSError as error:
            raise PitrError(f"{self._name} cannot be read: {error.strerror}") from error
        self.at_end = not data and length != 0
        return data


class _Unpacked:
    """What a stream of zstd frames holds."""

    def __init__(self, stream: Any) -> None:
        machine = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._reader = machine.stream_reader(stream, read_size=_BUFFER, read_across_frames=True)

    def read(self, length: int = -1) -> bytes:
        try:
            return self._reader.read(length)
        except zstandard.ZstdError as error:
            raise FormatError(f"the stream cannot be decompressed: {error}") from None


class PutBack:
    """A stream with the bytes that were read to look at it."""

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
    """A stream that can be read again from its beginning, as long as no more than `most` bytes were read of it."""

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
        """Keep no more of what is read."""
        self._head = None

    def again(self) -> BinaryIO:
        """The whole stream. Raises FormatError where too much of it was read."""
        if self._head is None:
            raise FormatError("the stream has too long a beginning")
        return cast(BinaryIO, PutBack(bytes(self._head), self._stream))


def unpacked(stream: Any) -> BinaryIO:
    """`stream` itself, or what it holds where it begins as zstd frames do. The caller closes `stream`."""
    head = b""
    while len(head) < len(_ZSTD_MAGIC) and (part := stream.read(len(_ZSTD_MAGIC) - len(head))):
        head += part
    whole = PutBack(head, stream)
    return cast(BinaryIO, _Unpacked(whole) if head == _ZSTD_MAGIC else whole)


@contextmanager
def open_input(name: str, standard_input: BinaryIO | None = None) -> Iterator[BinaryIO]:
    """Open the file `name` for reading; "-" is `standard_input` where there is one. Raises PitrError."""
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
    """Start a command and read its standard output; what is left unread at the end of the block is skipped.

    Its exit status is the truth: leaving the block raises ProgramFailed for anything but 0, also instead of an error
    that comes of what it did not give. Left with another error, the command is ended. Raises ProgramMissing.
    """
    process = start_piped(command, stdout=subprocess.PIPE)
    if process.stdout is None:
        raise RuntimeError("a process without the pipe that was asked for")
    stream = io.BufferedReader(cast(io.RawIOBase, process.stdout), _BUFFER)
    output = Input(stream, f"the output of {command[0]}")
    try:
        try:
            yield cast(BinaryIO, output)
        except PitrError as error:
            # A command that fails has mostly given too little: that it failed says more.
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
    """The exit code of a command whose output has ended; None when it goes on all the same."""
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        return None
