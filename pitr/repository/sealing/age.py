# SPDX-License-Identifier: GPL-2.0-or-later
"""Age files: a writer from beginning to end, and a reader at any offset.

The payload is a sequence of chunks of 64 KiB, each sealed with ChaCha20-Poly1305 under its number and a flag that
marks the last one. The reader opens the last chunk first, so that it notices a truncated file at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pitr.errors import NoFittingIdentity, UsageError
from pitr.repository.sealing import header
from pitr.repository.sealing.header import FILE_KEY_SIZE, AgeError
from pitr.repository.sealing.keys import Passphrase, Unwraps, Wraps

CHUNK = 1 << 16
_TAG = 16
_SEALED_CHUNK = CHUNK + _TAG
_NONCE = 16
_PAYLOAD_LABEL = b"payload"
#: Chunks that are sealed and written at a time.
_BATCH = 4
#: Later versions of cryptography seal into a buffer.
_HAS_INTO = hasattr(ChaCha20Poly1305, "encrypt_into")


class AgeWriter:
    """Seals a file: passes its bytes to `write`. Without `finish`, the file is truncated and no reader accepts it.

    `write` gets buffers that are used again, which it may not keep.
    """

    def __init__(self, write: Callable[[bytes | memoryview], object], recipients: Sequence[Wraps]) -> None:
        if not recipients or (
            len(recipients) > 1 and any(isinstance(each, Passphrase) for each in recipients)
        ):
            raise UsageError("a file is sealed to recipients, or to one passphrase")
        if len(recipients) > header.MAX_STANZAS:
            raise UsageError(f"a file has at most {header.MAX_STANZAS} recipients")
        self._write = write
        # A chunk that waits for more, and sealed chunks that are written together. The buffers are used again.
        self._waiting = bytearray()
        self._sealed = memoryview(bytearray(_BATCH * _SEALED_CHUNK))
        self._filled = 0
        self._number = 0
        file_key, nonce = os.urandom(FILE_KEY_SIZE), os.urandom(_NONCE)
        self._cipher = ChaCha20Poly1305(header.derived(file_key, nonce, _PAYLOAD_LABEL))
        write(header.encode([recipient.wrap(file_key) for recipient in recipients], file_key) + nonce)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append `data`."""
        view = memoryview(data).cast("B")
        if self._waiting:
            taken = CHUNK - len(self._waiting)
            self._waiting += view[:taken]
            view = view[taken:]
            if not view:
                return
            self._seal(self._waiting)
            self._waiting = bytearray()
        # The last chunk is marked: a full one waits until there is more.
        at = 0
        while len(view) - at > CHUNK:
            self._seal(view[at : at + CHUNK])
            at += CHUNK
        self._waiting += view[at:]

    def finish(self) -> None:
        """Write the last chunk."""
        self._seal(self._waiting, last=True)
        self._waiting = bytearray()

    def _seal(self, data: bytearray | memoryview, *, last: bool = False) -> None:
        end = self._filled + len(data) + _TAG
        _encrypt_into(self._cipher, _nonce(self._number, last=last), data, self._sealed[self._filled : end])
        self._number += 1
        self._filled = end
        if last or end == len(self._sealed):
            self._write(self._sealed[:end])
            self._filled = 0


def _encrypt_into(
    cipher: ChaCha20Poly1305, nonce: bytes, data: bytearray | memoryview, into: memoryview
) -> None:
    if _HAS_INTO:
        cipher.encrypt_into(nonce, data, None, into)
    else:
        into[:] = cipher.encrypt(nonce, data, None)


class AgeReader:
    """Reads a sealed file at any offset, by several threads at once.

    `read` returns a range of the sealed file, shorter only at its end; `sealed_size` is the file's. Raises AgeError
    for a file that is no age file, truncated or changed in its header or its end, and NoFittingIdentity.
    """

    def __init__(
        self, read: Callable[[int, int], bytes], sealed_size: int, identities: Sequence[Unwraps]
    ) -> None:
        self._read = read
        # A small file is read once.
        self._whole = read(0, sealed_size) if sealed_size <= _SEALED_CHUNK + (1 << 12) else None
        parsed = header.parse(lambda length: self._range(0, min(length, sealed_size)))
        file_key = _file_key(parsed, identities)
        parsed.check(file_key)
        nonce = self._range(parsed.size, _NONCE)
        if len(nonce) != _NONCE:
            raise AgeError("it is truncated")
        self._key = header.derived(file_key, nonce, _PAYLOAD_LABEL)
        self._first = parsed.size + _NONCE
        payload = sealed_size - self._first
        self._chunks = -(-payload // _SEALED_CHUNK)
        rest = payload - (self._chunks - 1) * _SEALED_CHUNK
        if payload < _TAG or rest < _TAG or (rest == _TAG and self._chunks > 1):
            raise AgeError("it is truncated", "payload")
        self._sealed_size = sealed_size
        self.size = payload - self._chunks * _TAG
        self._last = self._opened(self._chunks - 1, 1)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes at `offset`, fewer only at the end of the file. Raises AgeError."""
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        first, last = offset // CHUNK, (end - 1) // CHUNK
        data = self._last if first == self._chunks - 1 else self._opened(first, last - first + 1)
        return data[offset - first * CHUNK : end - first * CHUNK]

    def _opened(self, first: int, count: int) -> bytes:
        """Open `count` chunks from number `first` on."""
        at = self._first + first * _SEALED_CHUNK
        end = min(at + count * _SEALED_CHUNK, self._sealed_size)
        sealed = memoryview(self._range(at, end - at))
        if len(sealed) != end - at:
            raise AgeError("it is truncated", "payload")
        # A cipher belongs to one thread.
        cipher = ChaCha20Poly1305(self._key)
        pieces: list[bytes] = []
        for number in range(first, first + count):
            begin = (number - first) * _SEALED_CHUNK
            piece = sealed[begin : begin + _SEALED_CHUNK]
            try:
                nonce = _nonce(number, last=number == self._chunks - 1)
                pieces.append(cipher.decrypt(nonce, piece, None))
            except InvalidTag:
                raise AgeError(f"its bytes from {at + begin} on were changed", "payload") from None
        return pieces[0] if count == 1 else b"".join(pieces)

    def _range(self, offset: int, length: int) -> bytes:
        return self._read(offset, length) if self._whole is None else self._whole[offset : offset + length]


def sealed(data: bytes, recipients: Sequence[Wraps]) -> bytes:
    """Return `data` as a sealed file."""
    stored = bytearray()
    writer = AgeWriter(stored.extend, recipients)
    writer.write(data)
    writer.finish()
    return bytes(stored)


def opened(data: bytes, identities: Sequence[Unwraps]) -> bytes:
    """Return the content of a sealed file. Raises AgeError, NoFittingIdentity."""
    reader = AgeReader(lambda offset, length: data[offset : offset + length], len(data), identities)
    return reader.read_at(0, reader.size)


def content_size(read: Callable[[int, int], bytes], size: int) -> int:
    """Return the size of the content of a sealed file of `size` bytes, as its header tells. Raises AgeError."""
    parsed = header.parse(lambda length: read(0, min(length, size)))
    payload = size - parsed.size - _NONCE
    if payload < _TAG:
        raise AgeError("it is truncated", "payload")
    return payload - -(-payload // _SEALED_CHUNK) * _TAG


def sealed_size(size: int, header_size: int) -> int:
    """Return the size of a sealed file of `size` bytes whose header and nonce have `header_size` bytes."""
    return header_size + size + max(1, -(-size // CHUNK)) * _TAG


def _file_key(parsed: header.Header, identities: Sequence[Unwraps]) -> bytes:
    for identity in identities:
        file_key = identity.unwrap(parsed.stanzas)
        if file_key is not None:
            return file_key
    raise NoFittingIdentity("no identity opens it")


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
