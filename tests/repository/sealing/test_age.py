# SPDX-License-Identifier: GPL-2.0-or-later
"""Age files: pitr, the age program and pyrage read what the others write; damage is noticed."""

from __future__ import annotations

import random
import shutil
import subprocess
import threading
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.errors import FormatError, NoFittingIdentity, UsageError
from pitr.repository.sealing import age, bech32, header
from pitr.repository.sealing.age import CHUNK, AgeReader, AgeWriter
from pitr.repository.sealing.header import AgeError
from pitr.repository.sealing.keys import Identity, Passphrase, Recipient, Unwraps

_VECTORS = Path(__file__).parent / "vectors"
_NAMES = sorted(path.name for path in _VECTORS.iterdir() if path.suffix != ".md")
_ALICE, _BOB, _EVE = (Identity.generate() for _ in range(3))
_PART: dict[str, header.AgePart] = {
    "header failure": "header",
    "HMAC failure": "checksum",
    "payload failure": "payload",
}

needs_age = pytest.mark.skipif(
    shutil.which("age") is None, reason="the program age is not installed; 'make test' installs it"
)


def _reader(data: bytes, *identities: Unwraps) -> AgeReader:
    return AgeReader(lambda offset, length: data[offset : offset + length], len(data), identities)


def _sealed(data: bytes, *recipients: Recipient) -> bytes:
    return age.sealed(data, recipients or [_ALICE.recipient, _BOB.recipient])


def _content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("name", _NAMES)
def test_the_vectors_of_age_pass(name: str) -> None:
    text, _, data = (_VECTORS / name).read_bytes().partition(b"\n\n")
    facts = [line.split(": ", 1) for line in text.decode().splitlines()]
    known = dict(facts)
    if "compressed" in known:
        data = zlib.decompress(data)
    identities: list[Unwraps] = [Identity.parse(value) for key, value in facts if key == "identity"]
    identities += [Passphrase(value) for key, value in facts if key == "passphrase"]
    if known["expect"] == "success":
        reader = _reader(data, *identities)
        assert sha256(reader.read_at(0, reader.size)).hexdigest() == known["payload"]
    elif known["expect"] == "no match":
        with pytest.raises(NoFittingIdentity):
            _reader(data, *identities)
    else:
        with pytest.raises(AgeError) as failed:
            reader = _reader(data, *identities)
            reader.read_at(0, reader.size)
        assert failed.value.part == _PART[known["expect"]]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5])
def test_pyrage_and_pitr_read_each_other(size: int) -> None:
    pyrage = pytest.importorskip("pyrage")
    data = _content(size)
    assert pyrage.decrypt(_sealed(data), [pyrage.x25519.Identity.from_str(_BOB.secret())]) == data
    theirs = pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(str(_ALICE.recipient))])
    assert age.opened(theirs, [_EVE, _ALICE]) == data


@needs_age
def test_the_age_program_and_pitr_read_each_other(tmp_path: Path) -> None:
    data = _content(2 * CHUNK + 77)
    key = tmp_path / "key.txt"
    key.write_text(f"# a comment\n{_BOB.secret()}\n")
    opened = subprocess.run(
        ["age", "-d", "-i", str(key)], input=_sealed(data), capture_output=True, check=True
    )
    assert opened.stdout == data
    recipients = ["-r", str(_ALICE.recipient), "-r", str(_BOB.recipient)]
    theirs = subprocess.run(["age", *recipients], input=data, capture_output=True, check=True)
    assert age.opened(theirs.stdout, [_ALICE]) == age.opened(theirs.stdout, [_BOB]) == data


@needs_age
def test_identities_and_recipients_are_those_of_age_keygen() -> None:
    made = subprocess.run(["age-keygen"], capture_output=True, check=True, text=True)
    identity = Identity.parse(made.stdout.splitlines()[-1])
    assert f"# public key: {identity.recipient}" in made.stdout
    printed = subprocess.run(
        ["age-keygen", "-y"], input=_ALICE.secret(), capture_output=True, check=True, text=True
    )
    assert Recipient.parse(printed.stdout.strip()) == _ALICE.recipient


def test_a_passphrase_opens_what_it_sealed_and_pyrage_opens_it_too() -> None:
    pyrage = pytest.importorskip("pyrage")
    sealed = age.sealed(b"content", [Passphrase("open sesame", work_factor=10)])
    assert age.opened(sealed, [_ALICE, Passphrase("open sesame")]) == b"content"
    assert pyrage.passphrase.decrypt(sealed, "open sesame") == b"content"
    with pytest.raises(NoFittingIdentity):
        age.opened(sealed, [Passphrase("open barley")])


def test_a_passphrase_has_no_other_recipient_beside_it() -> None:
    with pytest.raises(UsageError):
        age.sealed(b"", [Passphrase("one"), _ALICE.recipient])
    with pytest.raises(UsageError):
        age.sealed(b"", [])


_FILE = _content(4 * CHUNK + 1234, 2)
_SEALED_FILE = _sealed(_FILE)
_READER = _reader(_SEALED_FILE, _ALICE)


@given(offset=st.integers(0, len(_FILE) + CHUNK), length=st.integers(0, 3 * CHUNK))
def test_any_range_reads_as_the_content(offset: int, length: int) -> None:
    assert _READER.read_at(offset, length) == _FILE[offset : offset + length]


@settings(deadline=None)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 300), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK])),
        max_size=6,
    )
)
def test_content_may_be_written_in_any_pieces(sizes: list[int]) -> None:
    data = _content(sum(sizes), 3)
    pieces: list[bytes] = []
    writer = AgeWriter(lambda piece: pieces.append(bytes(piece)), [_ALICE.recipient])
    at = 0
    for size in sizes:
        writer.write(memoryview(data)[at : at + size])
        at += size
    writer.finish()
    sealed = b"".join(pieces)
    assert age.opened(sealed, [_ALICE]) == data
    reader = _reader(sealed, _ALICE)
    assert len(sealed) == age.sealed_size(reader.size, len(pieces[0]))


@settings(deadline=None, max_examples=200)
@given(at=st.integers(0, 8 * len(_SEALED_FILE) - 1))
def test_a_flipped_bit_is_noticed(at: int) -> None:
    changed = bytearray(_SEALED_FILE)
    changed[at // 8] ^= 1 << at % 8
    # A flip in another recipient's stanza is found by the header's checksum.
    with pytest.raises((AgeError, NoFittingIdentity)):
        age.opened(bytes(changed), [_ALICE])


@settings(deadline=None, max_examples=200)
@given(size=st.one_of(st.integers(0, len(_SEALED_FILE) - 1), st.integers(0, 400)))
def test_a_truncated_file_is_noticed_when_it_is_opened(size: int) -> None:
    with pytest.raises(AgeError):
        _reader(_SEALED_FILE[:size], _ALICE)


@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_a_file_that_is_cut_between_two_chunks_is_noticed_when_it_is_opened(chunks: int) -> None:
    with pytest.raises(AgeError, match="changed"):
        _reader(_SEALED_FILE[: _READER._first + chunks * (CHUNK + 16)], _ALICE)


@pytest.mark.parametrize("more", [1, 16, CHUNK + 16])
def test_bytes_behind_the_end_are_noticed_when_the_file_is_opened(more: int) -> None:
    with pytest.raises(AgeError):
        _reader(_SEALED_FILE + bytes(more), _ALICE)


def test_two_swapped_chunks_are_noticed() -> None:
    first, chunk = _READER._first, CHUNK + 16
    one, two = _SEALED_FILE[first : first + chunk], _SEALED_FILE[first + chunk : first + 2 * chunk]
    swapped = _SEALED_FILE[:first] + two + one + _SEALED_FILE[first + 2 * chunk :]
    reader = _reader(swapped, _ALICE)
    with pytest.raises(AgeError, match="changed"):
        reader.read_at(0, 1)
    assert reader.read_at(2 * CHUNK, 10) == _FILE[2 * CHUNK : 2 * CHUNK + 10]


def test_several_threads_read_one_file() -> None:
    failed: list[int] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(50):
            offset, length = chance.randrange(len(_FILE)), chance.randrange(2 * CHUNK)
            if _READER.read_at(offset, length) != _FILE[offset : offset + length]:
                failed.append(offset)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_only_a_few_chunks_are_read_for_a_small_range() -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return _SEALED_FILE[offset : offset + length]

    reader = AgeReader(read, len(_SEALED_FILE), [_ALICE])
    # The header, the nonce, the last chunk.
    assert sum(length for _, length in asked) < 2 * CHUNK
    asked.clear()
    reader.read_at(CHUNK + 5, 100)
    assert [length for _, length in asked] == [CHUNK + 16]


#: Its last character is not the one that stands in its place below.
_VALID = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        "age1qqqq",
        f"{_VALID[:-1]}q",
        f"{_VALID.upper()[:-1]}q",
        "age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t",
        "ssh-ed25519 AAAA",
        "ä",
    ],
)
def test_what_is_no_recipient_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Recipient.parse(text)


def test_a_message_never_quotes_an_identity() -> None:
    secret = _ALICE.secret()
    for wrong in (secret, secret.lower(), secret[:-1], secret[:-1] + "!"):
        with pytest.raises(UsageError) as refused:
            Recipient.parse(wrong)
        assert secret[20:40].lower() not in f"{refused.value} {refused.value.advice}".lower()
    with pytest.raises(FormatError) as failed:
        Identity.parse(secret[:-1])
    assert secret[20:40] not in str(failed.value)
    assert secret[20:40] not in f"{_ALICE!r} {Passphrase(secret)!r}"


@given(st.binary(max_size=100))
def test_bech32_gives_back_what_it_encoded(data: bytes) -> None:
    text = bech32.encode("age", data)
    assert bech32.decode(text) == bech32.decode(text.upper()) == ("age", data)


def test_a_header_without_an_end_reads_at_most_64_kib() -> None:
    asked: list[int] = []

    def take(length: int) -> bytes:
        asked.append(length)
        return b"age-encryption.org/v1\n-> X a\n".ljust(length, b"A")

    with pytest.raises(AgeError):
        header.parse(take)
    assert max(asked) == header.MAX_HEADER
    many = b"age-encryption.org/v1\n" + b"-> X a\n\n" * 5_000
    with pytest.raises(AgeError, match="more than 32"):
        header.parse(lambda length: many[:length])


def test_two_files_have_different_keys() -> None:
    assert _sealed(b"content") != _sealed(b"content")
