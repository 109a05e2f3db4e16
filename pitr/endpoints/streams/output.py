# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs: a pipe, a new file, or the standard input of a command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import stat
import struct
import subprocess
import termios
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from pitr.endpoints.images.partial_file import PartialFile, file_errors
from pitr.errors import PitrError, ProgramFailed
from pitr.repository.stream_sink import Compression, ExternalBlob
from pitr.system.process import start_piped
from pitr.system.signals import WakeOnSignal

#: The most that an unprivileged process may ask for. A larger pipe means fewer context switches.
_PIPE_SIZE = 1 << 20
_POLL_S = 0.02
_END_TIMEOUT_S = 5.0


class StreamOutput(ExternalBlob):
    """Takes the bytes of one stream. `finish` or `abort` ends it; `abort` after `finish` removes it where possible.

    One thread at a time uses it.
    """

    def __init__(self, compression: Compression = "zstd") -> None:
        self.compression = compression

    @abstractmethod
    def abort(self) -> None: ...


class PipeOutput(StreamOutput):
    """Writes to an open descriptor: a pipe, a socket, a file. The descriptor stays open.

    It is an error when the reader leaves before it has read everything, also when the last bytes are already in the
    pipe. Raises PitrError, also after a signal. The caller closes `wake`.
    """

    def __init__(self, descriptor: int, compression: Compression = "zstd", *, wake: WakeOnSignal) -> None:
        super().__init__(compression)
        self._is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        self._descriptor = _not_blocking(descriptor) if self._is_pipe else os.dup(descriptor)
        self._wake = wake

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                self._wake.wait(self._descriptor, None)
            except BrokenPipeError:
                raise _reader_gone() from None
            except OSError as error:
                raise PitrError(f"cannot write the stream: {error.strerror}") from error

    def finish(self) -> None:
        """Wait until the reader has taken everything from the pipe."""
        while self._is_pipe and self._unread():
            hung_up = select.poll()
            hung_up.register(self._descriptor, 0)
            if hung_up.poll(0) and self._unread():
                raise _reader_gone()
            self._wake.wait(None, _POLL_S)
        self._close()

    def abort(self) -> None:
        self._close()

    def _unread(self) -> int:
        answer = fcntl.ioctl(self._descriptor, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0])

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileOutput(StreamOutput):
    """Writes a new file; `finish` gives it its name. Raises UsageError when it already exists, PitrError."""

    def __init__(self, path: Path, compression: Compression = "zstd") -> None:
        super().__init__(compression)
        self._partial = PartialFile(path)
        with file_errors(self._partial.path):
            self._file = self._partial.path.open("wb", buffering=0)
        self._finished = False

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        with file_errors(self._partial.path):
            while view:
                view = view[self._file.write(view) or 0 :]

    def finish(self) -> None:
        self._file.close()
        self._partial.commit()
        self._finished = True

    def abort(self) -> None:
        self._file.close()
        self._partial.abort()
        if self._finished:
            with file_errors(self._partial.target):
                self._partial.target.unlink(missing_ok=True)


class CommandOutput(StreamOutput):
    """Starts a command and writes to its standard input. Only the exit code decides: any code but 0 is a failure.

    `abort` stops the command before its input ends, so that it never takes a part for the whole. Raises
    ProgramMissing, ProgramFailed and PitrError, also after a signal. The caller closes `wake`.
    """

    def __init__(
        self, command: Sequence[str], compression: Compression = "zstd", *, wake: WakeOnSignal
    ) -> None:
        super().__init__(compression)
        self._name = command[0]
        self._wake = wake
        self._process = start_piped(command, stdin=subprocess.PIPE)
        if self._process.stdin is None:
            raise RuntimeError("the process has no pipe for its input")
        self._stdin = self._process.stdin
        os.set_blocking(self._stdin.fileno(), False)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._stdin.fileno(), view) :]
            except BlockingIOError:
                self._wake.wait(self._stdin.fileno(), None)
            except BrokenPipeError:
                code = self._ended(_END_TIMEOUT_S)
                reason = f"exit code {code}" if code is not None else "it closed its input"
                raise ProgramFailed(f"{self._name} did not read the whole stream: {reason}") from None

    def finish(self) -> None:
        self._stdin.close()
        code = self._ended(None)
        if code != 0:
            raise ProgramFailed(f"{self._name} failed with exit code {code}: the stream counts as not stored")

    def abort(self) -> None:
        end_command(self._process)
        self._stdin.close()

    def _ended(self, timeout_s: float | None) -> int | None:
        waited = 0.0
        while (code := self._process.poll()) is None and (timeout_s is None or waited < timeout_s):
            self._wake.wait(None, _POLL_S)
            waited += _POLL_S
        return code


def end_command(process: subprocess.Popen[bytes]) -> None:
    """Stop a command and the processes that it has started."""
    for signum, timeout_s in ((signal.SIGTERM, _END_TIMEOUT_S), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)


def _not_blocking(descriptor: int) -> int:
    """Return a new descriptor of the same pipe: O_NONBLOCK on the old one would affect the shell that owns it, too."""
    try:
        reopened = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return os.dup(descriptor)
    with contextlib.suppress(OSError):
        fcntl.fcntl(reopened, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return reopened


def _reader_gone() -> PitrError:
    return PitrError(
        "the program that read the stream exited before the end",
        "Look at the messages of that program; pitr does not have them.",
    )
