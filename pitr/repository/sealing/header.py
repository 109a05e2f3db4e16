# SPDX-License-Identifier: GPL-2.0-or-later
"""The header of an age file: stanzas that hold the file's key, wrapped for each recipient, and a checksum.

There is one way to write a header, and the reader accepts no other. All of it is untrusted.
"""

from __future__ import annotations

import binascii
import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pitr.errors import FormatError

_VERSION = b"age-encryption.org/v1\n"
_MAC_LINE = b"---"
_STANZA = b"-> "
_COLUMNS = 64
_ARGUMENT = re.compile(rb"[!-~]+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
FILE_KEY_SIZE = 16
MAC_SIZE = 32
#: A header of two recipients has about 350 bytes, one of post-quantum recipients about 2 KiB for each.
MAX_HEADER = 1 << 16
MAX_STANZAS = 32

AgePart = Literal["header", "checksum", "payload"]


class AgeError(FormatError):
    """An age file is damaged, or no age file. `part` is where."""

    def __init__(self, message: str, part: AgePart = "header") -> None:
        super().__init__(message)
        self.part = part


@dataclass(frozen=True, slots=True)
class Stanza:
    """One recipient's copy of the file's key. The first argument is its type."""

    arguments: tuple[str, ...]
    body: bytes

    @property
    def type(self) -> str:
        return self.arguments[0]

    def encoded(self) -> bytes:
        text = b64(self.body)
        # A body ends with a line that is shorter than the others; it may be empty.
        lines = [text[at : at + _COLUMNS] for at in range(0, len(text) + 1, _COLUMNS)]
        return b"-> " + b"\n".join([" ".join(self.arguments).encode("ascii"), *lines]) + b"\n"


@dataclass(frozen=True, slots=True)
class Header:
    """A header as it was read. `signed` are the bytes that `mac` protects; the nonce follows at `size`."""

    stanzas: tuple[Stanza, ...]
    signed: bytes
    mac: bytes
    size: int

    def check(self, file_key: bytes) -> None:
        """Raise AgeError unless the header is as the writer with this key wrote it."""
        if not hmac.compare_digest(_mac(file_key, self.signed), self.mac):
            raise AgeError("its header was changed", "checksum")


def encode(stanzas: Sequence[Stanza], file_key: bytes) -> bytes:
    """Return a header with these stanzas."""
    signed = _VERSION + b"".join(stanza.encoded() for stanza in stanzas) + _MAC_LINE
    return signed + b" " + b64(_mac(file_key, signed)) + b"\n"


def parse(take: Callable[[int], bytes]) -> Header:
    """Read a header. `take` returns the first bytes of the file, at least as many as asked for if it has them.

    Raises AgeError.
    """
    wanted = 1 << 12
    while True:
        data = take(min(wanted, MAX_HEADER))
        try:
            return _Lines(data).header()
        except _Truncated:
            if len(data) < wanted or wanted >= MAX_HEADER:
                raise AgeError("its header is truncated or too long") from None
        wanted *= 4


class _Truncated(Exception):
    """More bytes of the file are needed."""


class _Lines:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def header(self) -> Header:
        if self._data[: len(_VERSION)] != _VERSION:
            if _VERSION.startswith(self._data):
                raise _Truncated
            raise AgeError("it does not begin like an age file of version 1")
        self._at = len(_VERSION)
        stanzas: list[Stanza] = []
        while True:
            begin = self._at
            line = self._line()
            if line.startswith(_MAC_LINE):
                break
            stanzas.append(self._stanza(line))
            if len(stanzas) > MAX_STANZAS:
                raise AgeError(f"its header has more than {MAX_STANZAS} recipients")
        if not stanzas:
            raise AgeError("its header has no recipient")
        if line[3:4] != b" ":
            raise AgeError("its header has no checksum")
        mac = unb64(line[4:], MAC_SIZE)
        return Header(tuple(stanzas), self._data[: begin + len(_MAC_LINE)], mac, self._at)

    def _stanza(self, line: bytes) -> Stanza:
        if not line.startswith(_STANZA):
            raise AgeError("its header has a line that is no recipient")
        arguments = line.removeprefix(_STANZA).split(b" ")
        if not all(_ARGUMENT.fullmatch(argument) for argument in arguments):
            raise AgeError("its header has an invalid recipient")
        body = bytearray()
        while True:
            line = self._line()
            if len(line) > _COLUMNS:
                raise AgeError("its header has a line that is too long")
            body += unb64(line)
            if len(line) < _COLUMNS:
                return Stanza(tuple(argument.decode("ascii") for argument in arguments), bytes(body))

    def _line(self) -> bytes:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise _Truncated
        line = self._data[self._at : end]
        self._at = end + 1
        return line


def b64(data: bytes) -> bytes:
    """Return base64 without padding."""
    return b64encode(data).rstrip(b"=")


def unb64(text: bytes, size: int | None = None) -> bytes:
    """Decode canonical base64 without padding, of `size` bytes if given. Raises AgeError."""
    try:
        if not _BASE64.fullmatch(text):
            raise ValueError
        data = b64decode(text + b"=" * (-len(text) % 4), validate=True)
        if b64(data) != text:
            raise ValueError
    except (ValueError, binascii.Error):
        raise AgeError("its header has invalid base64") from None
    if size is not None and len(data) != size:
        raise AgeError("its header has a value of the wrong length")
    return data


def derived(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a key of 32 bytes, derived with HKDF and SHA-256."""
    return HKDF(SHA256(), 32, salt, info).derive(key)


def _mac(file_key: bytes, signed: bytes) -> bytes:
    return hmac.digest(derived(file_key, b"", b"header"), signed, "sha256")
