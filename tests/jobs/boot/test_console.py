# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest says on its serial port, and what its agent answers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from pitr.jobs.boot import console as module
from pitr.jobs.boot.console import Agent, Console
from tests.support.pitr import wait_until


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_guest_can_write_byte_by_byte_while_nobody_looks(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    said = b"0123456789abcdef" * 300
    theirs.settimeout(60)
    with Console(ours) as console:
        for byte in said:
            # A socket that nobody reads takes some hundred of these.
            theirs.sendall(bytes([byte]))
        theirs.close()
        console.wait_for_end()
        assert console.text == said.decode()


def test_control_sequences_are_no_text(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.sendall(b"\x1b[2J\x1b[01;01H\x1b[=3h\x1b]0;title\x07one\r\n\x1b[1mtwo\x1b[0m \xff\x00three\x1b(B")
    with Console(ours) as console:
        theirs.close()
        console.wait_for_end()
        assert console.text == "one\ntwo \ufffdthree"


def test_only_the_end_of_much_text_is_kept(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_TEXT", 10)
    ours, theirs = pair
    theirs.sendall(b"x" * 100_000 + b"0123456789")
    with Console(ours) as console:
        theirs.close()
        console.wait_for_end()
        assert console.text == "0123456789"


def test_an_answer_counts_only_with_the_id(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    agent = Agent(ours)
    agent.ask()
    asked = json.loads(theirs.recv(1000).strip(b"\xff\n"))
    assert asked["execute"] == "guest-sync-delimited"
    for wrong in (b'{"return": 1}\n', b"{\n", b'["return"]\n', b"\xff\x00\n"):
        theirs.sendall(wrong)
    agent.ask()
    assert not agent.has_answered()
    theirs.sendall(b'\xff{"return": %d}\n' % asked["arguments"]["id"])

    def answered() -> bool:
        agent.ask()
        return agent.has_answered()

    wait_until(answered, "the answer")
