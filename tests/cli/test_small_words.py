# SPDX-License-Identifier: GPL-2.0-or-later
"""Small things that users type, and full stops."""

from __future__ import annotations

import io
import socket
from contextlib import redirect_stderr

import pytest

from pitr.cli.display.output import Printer
from pitr.repository import Repository
from pitr.system.sockets import reachable_name
from pitr.version import __version__
from tests.support.pitr import Pitr
from tests.support.points_of_images import store_states


def test_help_is_a_command(command: Pitr) -> None:
    assert command("help", "files", "cp").stdout == command("files", "cp", "--help").stdout
    assert "Usage: pitr" in command("help").stdout
    assert command("-V").stdout == command("--version").stdout == f"pitr {__version__}\n"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("the engine says: no..", "the engine says: no."),
        ("Did you mean 'list'?. See 'pitr --help'.", "Did you mean 'list'? See 'pitr --help'."),
        ("no file .. there", "no file .. there"),
        ("wait...", "wait..."),
    ],
)
def test_a_sentence_has_one_full_stop(message: str, shown: str) -> None:
    with redirect_stderr(io.StringIO()) as printed:
        Printer(json=False).notify(message)
    assert printed.getvalue() == f"pitr: {shown}\n"


def test_a_typing_error_gets_a_suggestion(command: Pitr) -> None:
    assert "Did you mean 'list'? See" in command("lisst", code=2).complaint


def test_three_characters_of_an_id_are_enough(repository: Repository, command: Pitr) -> None:
    (point,) = store_states(repository, [[b"A" * 65536]])
    assert point.backup_id in command("show", point.backup_id[:3]).stdout
    assert "three characters" in command("show", point.backup_id[:2], code=4).complaint


def test_all_addresses_are_shown_as_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert reachable_name("0.0.0.0") == "localhost"  # noqa: S104 - not bound here
    assert reachable_name("127.0.0.1") == "127.0.0.1"


def test_a_drill_that_recognizes_nothing_does_not_say_proven(repository: Repository, command: Pitr) -> None:
    store_states(repository, [[b"A" * 65536]])
    shown = command("drill").stdout
    assert "PROVEN" not in shown and "NOTHING WAS RECOGNIZED" in shown
