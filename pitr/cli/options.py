# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that commands share. They may stand before or after the command's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.cli.display.output import Printer
from pitr.errors import UsageError

if TYPE_CHECKING:
    from pitr.cli.config import Settings
    from pitr.ovirt.engine import Engine, EngineConfig
    from pitr.repository import Repository

#: Connections and threads, for all disks together.
DEFAULT_WORKERS = 4


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


def choices(choice: type[StrEnum]) -> str:
    """Return the values of `choice` as the help shows them: "text|json"."""
    return "|".join(choice)


RepoOption = Annotated[
    Path | None,
    typer.Option("--repo", metavar="FOLDER", envvar="PITR_REPO", help="The repository."),
]
OutputOption = Annotated[
    OutputFormat | None,
    typer.Option("--output", "-o", metavar=choices(OutputFormat), help="How to print the result (text)."),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="On a failure print a traceback too, and log what is done.")
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config", "-c", metavar="SECTION", help="Section of ovirt-img.conf with the engine's settings."
    ),
]
EngineUrlOption = Annotated[
    str | None,
    typer.Option(
        "--engine-url", metavar="URL", help="The engine, https://engine.example.com [env: PITR_ENGINE_URL]."
    ),
]
UsernameOption = Annotated[
    str | None,
    typer.Option(
        "--username", metavar="NAME", help="User of the engine, admin@internal [env: PITR_USERNAME]."
    ),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file", metavar="FILE", help="File with the user's password [env: PITR_PASSWORD_FILE]."
    ),
]
CafileOption = Annotated[
    Path | None,
    typer.Option("--cafile", metavar="FILE", help="The engine's CA certificate [env: PITR_CAFILE]."),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Do not check the engine's certificate (not recommended).")
]

# What several commands of their own have: each declared once, so that one word has one meaning.

OnlyVMArgument = Annotated[
    str | None,
    typer.Argument(metavar="VM", help="Name or id; left out: the only VM in the repository."),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="The newest point at or before TIME: 2020-06-30T22:00 (local time), …Z, or now.",
    ),
]
PointOption = Annotated[
    str | None,
    typer.Option("--point", metavar="ID", help="This point: a backup id, or the beginning of one."),
]
OnlyDiskOption = Annotated[
    str | None,
    typer.Option("--disk", metavar="DISK", help="Name or id; left out: the only disk of the point."),
]
DisksOption = Annotated[
    list[str] | None,
    typer.Option("--disk", metavar="DISK", help="Only this disk, by name or id; repeatable."),
]
MaxWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--max-workers",
        metavar="N",
        min=1,
        max=64,
        help="Connections and threads, for all disks together (4).",
    ),
]


@dataclass(frozen=True, slots=True)
class Common:
    """What the shared options say."""

    repo: Path | None = None
    output: OutputFormat | None = None
    debug: bool = False
    config: str | None = None
    engine_url: str | None = None
    username: str | None = None
    password_file: Path | None = None
    cafile: Path | None = None
    insecure: bool = False

    def over(self, other: Common) -> Common:
        """These options, and those of `other` where these say nothing."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value})

    @property
    def out(self) -> Printer:
        return Printer(json=self.output is OutputFormat.JSON)

    @property
    def settings(self) -> Settings:
        """What the configuration file says; the options and the environment come first."""
        from pitr.cli.config import load_settings

        return load_settings()

    def workers(self, given: int | None) -> int:
        return given or self.settings.workers or DEFAULT_WORKERS

    def repository_path(self) -> Path:
        path = self.repo or self.settings.repository
        if path is None:
            raise UsageError(
                "no repository is named",
                "Name it with --repo FOLDER, in PITR_REPO, or as 'repository' in pitr's config.toml.",
            )
        return path

    @contextmanager
    def repository(self) -> Iterator[Repository]:
        from pitr.repository import Repository

        with Repository.open(self.repository_path()) as repository:
            yield repository

    def engine_config(self) -> EngineConfig:
        """How to reach the engine. Raises UsageError when something is missing."""
        import getpass
        import os
        import sys

        from pitr.ovirt.engine import EngineSettings, load_config

        section = self.config
        if section is None and not (self.engine_url or os.environ.get("PITR_ENGINE_URL")):
            # A section is of one engine: its password is nothing for another one that was named.
            section = self.settings.engine_section
        return load_config(
            EngineSettings(
                section=section,
                engine_url=self.engine_url,
                username=self.username,
                password_file=self.password_file,
                cafile=self.cafile,
                insecure=self.insecure,
            ),
            prompt=getpass.getpass if sys.stdin.isatty() else None,
        )

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        from pitr.ovirt.engine import Engine

        with Engine(self.engine_config()) as engine:
            yield engine


_GENERAL_OPTIONS = {"repo": RepoOption, "output": OutputOption, "debug": DebugOption}
_ENGINE_OPTIONS = {
    "config": ConfigOption,
    "engine_url": EngineUrlOption,
    "username": UsernameOption,
    "password_file": PasswordFileOption,
    "cafile": CafileOption,
    "insecure": InsecureOption,
}


def shared_names() -> frozenset[str]:
    """The names of all shared options."""
    return frozenset({**_ENGINE_OPTIONS, **_GENERAL_OPTIONS})


def with_common(*, engine: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the shared options; the function gets them as its first argument, a Common."""
    options: dict[str, Any] = {**(_ENGINE_OPTIONS if engine else {}), **_GENERAL_OPTIONS}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name in ("debug", "insecure") else None,
                annotation=annotation,
            )
            for name, annotation in options.items()
        ]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + shared

        @wraps(function)
        def command(**values: Any) -> Any:
            given = Common(**{name: values.pop(name) for name in options})
            common = given.over(before_the_command)
            _start_logging(common)
            return function(common, **values)

        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


before_the_command = Common()


def remember(common: Common) -> None:
    """Keep the options that stand before the command's name."""
    global before_the_command  # noqa: PLW0603 - one command line in a process
    before_the_command = common


def _start_logging(common: Common) -> None:
    import logging

    # Libraries log headers and addresses, and with them tokens and tickets: only pitr's own words are shown.
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("pitr").setLevel(logging.DEBUG if common.debug else logging.WARNING)
