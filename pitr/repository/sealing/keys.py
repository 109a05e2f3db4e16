# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipients, to which a file is sealed, and identities, which open it. Messages never quote an identity."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pitr.errors import FormatError, UsageError
from pitr.repository.sealing import bech32
from pitr.repository.sealing.header import FILE_KEY_SIZE, AgeError, Stanza, b64, derived, unb64

_X25519 = "X25519"
_X25519_LABEL = b"age-encryption.org/v1/X25519"
_SCRYPT = "scrypt"
_SCRYPT_LABEL = b"age-encryption.org/v1/scrypt"
_RECIPIENT_PREFIX = "age"
_IDENTITY_PREFIX = "age-secret-key-"
_KEY_SIZE = 32
_TAG_SIZE = 16
_SALT_SIZE = 16
_NO_NONCE = bytes(12)
#: 2 ** 18 rounds take about a second.
WORK_FACTOR = 18
#: The largest that a reader accepts: about 15 seconds and 4 GiB of memory for a hostile file.
_MAX_WORK_FACTOR = 22
_WORK_FACTOR = re.compile(r"[1-9][0-9]?")


class Wraps(Protocol):
    """Something a file can be sealed to."""

    def wrap(self, file_key: bytes) -> Stanza:
        """Return the stanza with the wrapped key."""


class Unwraps(Protocol):
    """Something that may open a file."""

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        """Return the file's key; None if no stanza is for this identity. Raises AgeError."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """An X25519 recipient: the public half of an identity."""

    public: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `age1…`. Raises UsageError."""
        try:
            if text.lower().startswith(_IDENTITY_PREFIX):
                raise FormatError("it is an identity, which must stay secret. Name its recipient, age1…")
            prefix, public = bech32.decode(text)
            if prefix != _RECIPIENT_PREFIX or len(public) != _KEY_SIZE:
                raise FormatError("pitr seals to X25519 recipients, age1… of 62 characters")
        except FormatError as error:
            # Someone may paste an identity.
            shown = "the recipient" if text.lower().startswith(_IDENTITY_PREFIX) else repr(text[:80])
            raise UsageError(
                f"cannot use {shown}: {error.message}",
                "'age-keygen -y FILE' prints the recipient of an identity.",
            ) from None
        return cls(public)

    def __str__(self) -> str:
        return bech32.encode(_RECIPIENT_PREFIX, self.public)

    @property
    def fingerprint(self) -> str:
        """A short name for people: the first 16 hex digits of the SHA-256 digest of the recipient's text."""
        return sha256(str(self).encode()).hexdigest()[:16]

    def wrap(self, file_key: bytes) -> Stanza:
        ephemeral = X25519PrivateKey.generate()
        share = ephemeral.public_key().public_bytes_raw()
        try:
            shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(self.public))
        except ValueError:
            raise UsageError(f"cannot use {self}: it is not a safe recipient") from None
        key = derived(shared, share + self.public, _X25519_LABEL)
        body = ChaCha20Poly1305(key).encrypt(_NO_NONCE, file_key, None)
        return Stanza((_X25519, b64(share).decode()), body)


@dataclass(frozen=True, slots=True)
class Identity:
    """An X25519 identity, `AGE-SECRET-KEY-1…`."""

    _private: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> Self:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `AGE-SECRET-KEY-1…`. Raises FormatError, which does not quote it."""
        prefix, private = bech32.decode(text)
        if prefix != _IDENTITY_PREFIX or len(private) != _KEY_SIZE:
            raise FormatError("it is no X25519 identity, AGE-SECRET-KEY-1…")
        return cls(X25519PrivateKey.from_private_bytes(private))

    def secret(self) -> str:
        """Return the text to keep in a safe place."""
        return bech32.encode(_IDENTITY_PREFIX, self._private.private_bytes_raw()).upper()

    @property
    def recipient(self) -> Recipient:
        return Recipient(self._private.public_key().public_bytes_raw())

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        found: bytes | None = None
        for stanza in stanzas:
            if stanza.type != _X25519:
                continue
            if len(stanza.arguments) != 2 or len(stanza.body) != FILE_KEY_SIZE + _TAG_SIZE:
                raise AgeError("its header has an invalid X25519 recipient")
            share = unb64(stanza.arguments[1].encode(), _KEY_SIZE)
            try:
                shared = self._private.exchange(X25519PublicKey.from_public_bytes(share))
            except ValueError:
                raise AgeError("its header has an unsafe X25519 recipient") from None
            key = derived(shared, share + self.recipient.public, _X25519_LABEL)
            if found is None:
                found = _opened(key, stanza.body)
        return found


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A passphrase, as recipient and as identity. It must be a file's only recipient."""

    _text: str = field(repr=False)
    work_factor: int = WORK_FACTOR

    def wrap(self, file_key: bytes) -> Stanza:
        salt = os.urandom(_SALT_SIZE)
        body = ChaCha20Poly1305(self._key(salt, self.work_factor)).encrypt(_NO_NONCE, file_key, None)
        return Stanza((_SCRYPT, b64(salt).decode(), str(self.work_factor)), body)

    def unwrap(self, stanzas: Sequence[Stanza]) -> bytes | None:
        if all(stanza.type != _SCRYPT for stanza in stanzas):
            return None
        stanza = stanzas[0]
        if len(stanzas) > 1:
            raise AgeError("its header has a passphrase beside other recipients")
        if len(stanza.arguments) != 3 or len(stanza.body) != FILE_KEY_SIZE + _TAG_SIZE:
            raise AgeError("its header has an invalid passphrase")
        salt = unb64(stanza.arguments[1].encode(), _SALT_SIZE)
        if not _WORK_FACTOR.fullmatch(stanza.arguments[2]) or int(stanza.arguments[2]) > _MAX_WORK_FACTOR:
            raise AgeError("its header asks for too much work for a passphrase")
        return _opened(self._key(salt, int(stanza.arguments[2])), stanza.body)

    def _key(self, salt: bytes, work_factor: int) -> bytes:
        return Scrypt(_SCRYPT_LABEL + salt, 32, 1 << work_factor, 8, 1).derive(self._text.encode())


def _opened(key: bytes, body: bytes) -> bytes | None:
    try:
        return ChaCha20Poly1305(key).decrypt(_NO_NONCE, body, None)
    except InvalidTag:
        return None
