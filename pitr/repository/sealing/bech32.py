# SPDX-License-Identifier: GPL-2.0-or-later
"""Bech32 (BIP 173) without its limit of 90 characters: the text form of age's recipients and identities."""

from __future__ import annotations

from pitr.errors import FormatError

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM = 6
#: Post-quantum recipients have about 2,000 characters.
_MAX_LENGTH = 8192


def encode(prefix: str, data: bytes) -> str:
    """Return `data` as Bech32 text in lower case."""
    values = _regrouped(data, 8, 5, pad=True)
    check = _polymod([*_expanded(prefix), *values, *[0] * _CHECKSUM]) ^ 1
    sum_ = [check >> 5 * (_CHECKSUM - 1 - at) & 31 for at in range(_CHECKSUM)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in (*values, *sum_))}"


def decode(text: str) -> tuple[str, bytes]:
    """Return the prefix, in lower case, and the data. Raises FormatError, which does not quote the text."""
    if len(text) > _MAX_LENGTH or not all("!" <= character <= "~" for character in text):
        raise FormatError("it is not a Bech32 text")
    if text not in (text.lower(), text.upper()):
        raise FormatError("its letters have different cases")
    prefix, separator, rest = text.lower().rpartition("1")
    if not separator or not prefix or len(rest) < _CHECKSUM:
        raise FormatError("it is no age key, or truncated")
    try:
        values = [_VALUES[character] for character in rest]
    except KeyError:
        raise FormatError("it has a character that Bech32 does not use") from None
    if _polymod([*_expanded(prefix), *values]) != 1:
        raise FormatError("its checksum does not match; it is mistyped or truncated")
    return prefix, bytes(_regrouped(values[:-_CHECKSUM], 5, 8, pad=False))


def _expanded(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for at, generator in enumerate(_GENERATOR):
            check ^= generator if top >> at & 1 else 0
    return check


def _regrouped(values: bytes | list[int], before: int, after: int, *, pad: bool) -> list[int]:
    """Regroup bits from `before` to `after` for each value. Raises FormatError for padding that is not zero."""
    gathered = bits = 0
    groups: list[int] = []
    for value in values:
        gathered = gathered << before | value
        bits += before
        while bits >= after:
            bits -= after
            groups.append(gathered >> bits & (1 << after) - 1)
            gathered &= (1 << bits) - 1
    if pad and bits:
        groups.append(gathered << after - bits & (1 << after) - 1)
    elif not pad and (bits >= before or gathered):
        raise FormatError("its padding is not zero")
    return groups
