# SPDX-License-Identifier: GPL-2.0-or-later
"""Run guestfish, the shell of libguestfs, over read-only NBD exports.

libguestfs starts a small VM with a Linux kernel, which reads what pitr's own readers cannot: it replays journals, and
knows LUKS, RAID, all kinds of logical volumes and many more file systems. pitr talks to the program through pipes:
the library's Python bindings belong to the distribution's Python.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from pitr.errors import FileSystemError, ProgramFailed, ProgramMissing
from pitr.system.process import STARTER, death_signal_launcher

PROGRAM: Final = "guestfish"
MISSING: Final = (
    "Install libguestfs: on Debian 'apt-get install libguestfs-tools', "
    "on Enterprise Linux 'dnf install guestfs-tools'."
)
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._-]")
#: Fewer bytes than a pipe holds, so that pitr never waits for a guestfish that waits for pitr.
_MOST_BYTES: Final = 32 << 10
_ERROR: Final = re.compile(rb"libguestfs: error: (?:[a-z0-9_]+: )?(.*)")
_END_TIMEOUT_S: Final = 10.0


def is_installed() -> bool:
    """Tell whether guestfish is on PATH."""
    return shutil.which(PROGRAM) is not None


def command_line(socket: Path, exports: Sequence[str]) -> list[str]:
    """Return the command that opens these exports of the NBD server on `socket` as /dev/sda, /dev/sdb, …"""
    words = [PROGRAM, "--ro", "--format=raw"]
    for export in exports:
        words += ["-a", f"nbd:///{quote(export, safe='')}?socket={quote(str(socket))}"]
    return words


class Guestfish:
    """A running guestfish whose appliance has started. `close` ends both.

    Raises ProgramMissing when it is not installed, ProgramFailed when the appliance does not start.
    """

    def __init__(self, socket: Path, exports: Sequence[str]) -> None:
        if not is_installed():
            raise ProgramMissing("libguestfs is not installed", MISSING)
        environment = dict(os.environ)
        # Without this, libguestfs asks libvirt, whose user may not open pitr's socket.
        environment.setdefault("LIBGUESTFS_BACKEND", "direct")
        problems = self._start(command_line(socket, exports), environment)
        if problems and "LIBGUESTFS_BACKEND_SETTINGS" not in environment:
            # /dev/kvm can exist and not work, for example in a VM.
            self.close()
            problems = self._start(
                command_line(socket, exports), {**environment, "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg"}
            )
        if problems:
            self.close()
            raise ProgramFailed(
                f"libguestfs cannot start its VM: {problems}", "Run 'libguestfs-test-tool' to learn why."
            )

    def run(self, *command: str | bytes) -> bytes:
        """Run one command and return what it prints. Raises FileSystemError with the message of libguestfs."""
        (answer,) = self.run_all([command])
        if isinstance(answer, FileSystemError):
            raise answer
        return answer

    def run_all(self, commands: Sequence[Sequence[str | bytes]]) -> list[bytes | FileSystemError]:
        """Run several commands; return for each what it prints, or its error."""
        answers: list[bytes | FileSystemError] = []
        lines: list[bytes] = []
        waiting = 0
        for command in commands:
            mark = secrets.token_hex(16).encode()
            # The minus sign lets guestfish go on after an error.
            words = b" ".join(
                [
                    command[0].encode() if isinstance(command[0], str) else command[0],
                    *map(_quoted, command[1:]),
                ]
            )
            line = b"-%b\necho %b\n" % (words, mark)
            if waiting and sum(map(len, lines)) + len(line) > _MOST_BYTES:
                answers += self._answers(lines)
                lines, waiting = [], 0
            lines.append(line)
            waiting += 1
        return answers + self._answers(lines)

    def close(self) -> None:
        """End guestfish and its VM."""
        process = self._process
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_TIMEOUT_S)
                break
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _start(self, command: Sequence[str], environment: Mapping[str, str]) -> str:
        """Start the program and its VM. Return its error, or ""."""
        # stdbuf: else it would keep its answers in a buffer.
        self._process = STARTER.submit(
            subprocess.Popen,
            [*death_signal_launcher(), "stdbuf", "-oL", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        ).result()
        try:
            self.run("run")
        except (FileSystemError, ProgramFailed) as error:
            return error.message
        return ""

    def _answers(self, lines: Sequence[bytes]) -> list[bytes | FileSystemError]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("guestfish has no pipes")
        try:
            stdin.write(b"".join(lines))
            stdin.flush()
        except BrokenPipeError:
            raise ProgramFailed(f"{PROGRAM} ended: {_message(stdout.read())}") from None
        return [self._answer(line.split()[-1] + b"\n", stdout) for line in lines]

    def _answer(self, mark: bytes, stdout: object) -> bytes | FileSystemError:
        printed = bytearray()
        while not printed.endswith(mark):
            line = stdout.readline()  # type: ignore[attr-defined]
            if not line:
                raise ProgramFailed(f"{PROGRAM} ended: {_message(bytes(printed))}")
            printed += line
        answer = bytes(printed[: -len(mark)])
        if _ERROR.search(answer):
            return FileSystemError(_message(answer))
        return answer


def _quoted(word: str | bytes) -> bytes:
    raw = word if isinstance(word, bytes) else word.encode(errors="surrogateescape")
    plain = (chr(byte) if _PLAIN.match(chr(byte)) else f"\\x{byte:02x}" for byte in raw)
    return f'"{"".join(plain)}"'.encode()


def _message(printed: bytes) -> str:
    match = _ERROR.search(printed)
    text = (
        match[1]
        if match is not None
        else printed.strip().splitlines()[-1:] and printed.strip().splitlines()[-1]
    )
    return (text or b"it said nothing").decode(errors="replace")[:500]
