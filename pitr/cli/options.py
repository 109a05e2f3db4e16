# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that commands share. You can give the common ones before or after the command's name."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pitr.cli import completion, key_options, repository_location, sites, typed_password
from pitr.cli.config import Settings, load_settings
from pitr.cli.display.output import Printer
from pitr.cli.log import (
    LogFileOption,
    LogFormat,
    LogFormatOption,
    LogOptions,
    QuietOption,
    VerboseOption,
    logging_of,
)
from pitr.cli.manners import minding, options_of
from pitr.errors import UsageError
from pitr.system.target_path import given_path

if TYPE_CHECKING:
    from pitr.jobs.history import RunLog
    from pitr.ovirt.engine import Engine, EngineConfig, EngineSettings
    from pitr.repository import Repository
    from pitr.repository.location import Location

#: Connections and threads for all disks together.
DEFAULT_WORKERS = 4


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


def choices(choice: type[StrEnum]) -> str:
    """Return the values of `choice` as the help shows them: "text|json"."""
    return "|".join(choice)


RepoOption = Annotated[
    Any,
    typer.Option(
        "--repo",
        metavar="FOLDER|URL",
        envvar="PITR_REPO",
        help="Folder of the repository, or s3://BUCKET/PREFIX.",
        parser=repository_location.parsed,
    ),
]
OutputOption = Annotated[
    OutputFormat | None,
    typer.Option(
        "--output", "-o", metavar=choices(OutputFormat), help="Format of the result. Default: text."
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Log each step, and print a traceback if the command fails.")
]
ConfigFileOption = Annotated[
    Path | None,
    typer.Option(
        "--config-file",
        metavar="FILE",
        help="Read only this configuration file (docs/configuration.md) [env: PITR_CONFIG].",
        parser=given_path("--config-file"),
    ),
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
        "--engine-url",
        metavar="URL",
        help="URL of the engine: https://engine.example.com [env: PITR_ENGINE_URL].",
    ),
]
UsernameOption = Annotated[
    str | None,
    typer.Option(
        "--username", metavar="NAME", help="User on the engine: admin@internal [env: PITR_USERNAME]."
    ),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="File with the user's password [env: PITR_PASSWORD_FILE].",
        parser=given_path("--password-file"),
    ),
]
CafileOption = Annotated[
    Path | None,
    typer.Option(
        "--cafile",
        metavar="FILE",
        help="File with the engine's CA certificate [env: PITR_CAFILE].",
        parser=given_path("--cafile"),
    ),
]
InsecureOption = Annotated[
    bool, typer.Option("--insecure", help="Do not verify the engine's certificate (not recommended).")
]

# Arguments and options of several commands.

OnlyVMArgument = Annotated[
    str | None,
    typer.Argument(metavar="VM", help="Name or id of the VM. Default: the only VM in the repository."),
]
AnyVMArgument = Annotated[
    str | None, typer.Argument(metavar="VM", help="Name or id of the VM. Default: all VMs.")
]
PointOrVMArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="POINT|VM",
        help="Backup id of the point, or the start of one. Or a VM: its newest point, or the one at --at.",
    ),
]
OnlyVMOrPointArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="VM|POINT",
        help="Name or id of the VM, or the id of a point. Default: the only VM in the repository.",
    ),
]
AnyVMOrPointArgument = Annotated[
    str | None,
    typer.Argument(metavar="VM|POINT", help="Name or id of the VM, or the id of a point. Default: all VMs."),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        help="Use the newest point within TIME or before it: 2020-06-30T22:00 (local time, the whole minute), …Z, "
        "2020-06-30 (the whole day), 22:00, yesterday, monday, -2h, @1593554400, or now.",
    ),
]
NewestGoodOption = Annotated[
    bool,
    typer.Option(
        "--newest-good",
        help="With --at: if the point is damaged, use the newest point before it whose data is good.",
    ),
]
PointOption = Annotated[
    str | None,
    typer.Option("--point", metavar="ID", help="Use this point: a backup id, or the start of one."),
]
OnlyDiskOption = Annotated[
    str | None,
    typer.Option(
        "--disk", metavar="DISK", help="Name or id of the disk. Default: the only disk of the point."
    ),
]
DisksOption = Annotated[
    list[str] | None,
    typer.Option("--disk", metavar="DISK", help="Use only this disk (name or id); repeatable."),
]
MaxWorkersOption = Annotated[
    int | None,
    typer.Option(
        "--max-workers",
        metavar="N",
        min=1,
        max=64,
        help="Connections and threads, for all disks together. Default: 4.",
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what the command would do; change nothing.")
]
StorageDomainOption = Annotated[
    str | None,
    typer.Option("--storage-domain", metavar="SD", help="Storage domain for new disks."),
]


@dataclass(frozen=True, slots=True)
class Common:
    """The values of the common options; None and False for those that were not given.

    A command that counts as a run has `noted`, which gets its outcome (see `with_common`).
    """

    repo: Location | None = None
    output: OutputFormat | None = None
    debug: bool = False
    config_file: Path | None = None
    config: str | None = None
    engine_url: str | None = None
    username: str | None = None
    password_file: Path | None = None
    cafile: Path | None = None
    insecure: bool = False
    log_file: Path | None = None
    log_format: LogFormat | None = None
    quiet: bool = False
    verbose: bool = False
    identity: Sequence[Path] | None = None
    trust_recipients: bool = False
    noted: RunLog | None = None

    def over(self, other: Common) -> Common:
        """Return these options; those that were not given come from `other`."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(other, **{name: value for name, value in given.items() if value})

    @property
    def run(self) -> RunLog:
        """Return what this run notes of itself for the history."""
        if self.noted is None:
            raise AssertionError("the command is no run: see with_common")
        return self.noted

    @property
    def out(self) -> Printer:
        """Return the printer for --output."""
        return Printer(json=self.output is OutputFormat.JSON, quiet=self.quiet)

    @property
    def log(self) -> LogOptions:
        """Return where the log goes."""
        return LogOptions(self.log_file, self.log_format or LogFormat.TEXT, self.verbose, self.debug)

    @property
    def settings(self) -> Settings:
        """Read the configuration files. Options and environment variables override them. Raises UsageError."""
        return load_settings(named=self.config_file)

    def workers(self, given: int | None) -> int:
        """Return the number of workers: `given` by --max-workers, else configured, else the default."""
        return given or self.settings.workers or DEFAULT_WORKERS

    def repository_location(self) -> Location:
        """Return where the repository is. Raises UsageError if no option or setting names it."""
        location = self.location_if_named()
        if location is None:
            raise UsageError(
                "no repository is named",
                "Give --repo FOLDER, set PITR_REPO, or set 'repository' in pitr's config.toml.",
            )
        return location

    def location_if_named(self) -> Location | None:
        """Return where the repository is; None if no option or setting names it. Raises UsageError."""
        named = self.repo or self.settings.repository
        return named and self.reachable(named)

    def reachable(self, location: Location) -> Location:
        """Return the location with what the settings say about reaching it. Raises UsageError."""
        key_options.use(self.identity or (), self.settings.encryption, trust=self.trust_recipients)
        return sites.reachable(location, self.settings)

    @contextmanager
    def repository(self) -> Iterator[Repository]:
        """Open the repository while the block runs. Raises RepositoryError and UsageError."""
        from pitr.repository import Repository  # noqa: PLC0415 - `pitr --help` must start quickly

        with Repository.open(self.repository_location()) as repository, key_options.telling(repository):
            yield repository

    def secret_files(self) -> list[Path]:
        """Return the files that can hold the engine's password, whether they exist or not."""
        from pitr.ovirt.engine import secret_files  # noqa: PLC0415 - `pitr --help` must start quickly

        return secret_files(self.password_file, configured=self.settings.engine)

    def engine_settings(self) -> EngineSettings:
        """Return the options for the engine."""
        from pitr.ovirt.engine import EngineSettings  # noqa: PLC0415 - `pitr --help` must start quickly

        return EngineSettings(
            section=self.config,
            engine_url=self.engine_url,
            username=self.username,
            password_file=self.password_file,
            cafile=self.cafile,
            insecure=self.insecure,
        )

    def engine_config(self) -> EngineConfig:
        """Return the engine's address and login. Raises UsageError if one of them is missing."""
        from pitr.ovirt.engine import load_config  # noqa: PLC0415 - `pitr --help` must start quickly

        return load_config(
            self.engine_settings(),
            configured=self.settings.engine,
            prompt=typed_password.prompt(),
        )

    @property
    def names_engine(self) -> bool:
        """Whether an option, a variable or a setting names an engine."""
        return bool(
            self.config or self.engine_url or os.environ.get("PITR_ENGINE_URL") or self.settings.engine
        )

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """Connect to the engine while the block runs. Raises EngineError and UsageError."""
        from pitr.ovirt.engine import Engine  # noqa: PLC0415 - `pitr --help` must start quickly

        with Engine(self.engine_config()) as engine:
            yield engine


_GENERAL_OPTIONS = {
    "repo": RepoOption,
    "identity": key_options.IdentityOption,
    "trust_recipients": key_options.TrustRecipientsOption,
    "output": OutputOption,
    "quiet": QuietOption,
    "verbose": VerboseOption,
    "log_file": LogFileOption,
    "log_format": LogFormatOption,
    "debug": DebugOption,
    "config_file": ConfigFileOption,
}
_FLAGS = frozenset({"quiet", "verbose", "debug", "insecure", "trust_recipients"})
_ENGINE_OPTIONS = {
    "config": ConfigOption,
    "engine_url": EngineUrlOption,
    "username": UsernameOption,
    "password_file": PasswordFileOption,
    "cafile": CafileOption,
    "insecure": InsecureOption,
}


def shared_names() -> frozenset[str]:
    """Return the parameter names of the common options."""
    return frozenset({**_ENGINE_OPTIONS, **_GENERAL_OPTIONS})


def with_common(
    *,
    engine: bool = False,
    run: str | None = None,
    output: bool = True,
    moves_data: bool = False,
    locks: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the common options to a command. The function takes them as its first argument, a Common.

    `engine` adds the options for the engine, too. `run` names a command whose outcome the repository keeps
    ('pitr history'), except of a dry run. Without `output`, the command has an --output of its own. A command that
    `moves_data` has --limit-rate and --wait-lock; one that only `locks` VMs has --wait-lock.
    """
    options: dict[str, Any] = {**(_ENGINE_OPTIONS if engine else {}), **_GENERAL_OPTIONS}
    if not output:
        del options["output"]

    manners = options_of(moves_data=moves_data, locks=locks)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        shared = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if name in _FLAGS else None,
                annotation=annotation,
            )
            for name, annotation in options.items()
        ]
        for name, annotation in manners.items():
            own.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            )
        for parameter in own:
            completion.offer(parameter)
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + shared

        @wraps(function)
        def command(**values: Any) -> Any:
            context = values.pop("context")
            # What the environment says was noted before the command's name, where a typed option overrides it.
            given = Common(
                **{
                    name: value
                    for name in options
                    if (value := values.pop(name)) and not completion.is_of_environment(context, name)
                }
            )
            common = given.over(before_the_command)
            asked = {name: values.pop(name) for name in manners}
            with logging_of(context.command_path.partition(" ")[2], common.log), minding(**asked):
                if run is not None:
                    return _run(function, common, run, values)
                return function(common, **values)

        parameters.append(
            inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        )
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _run(function: Callable[..., Any], common: Common, name: str, values: Mapping[str, Any]) -> Any:
    """Call a command that counts as a run, and store its outcome."""
    from pitr.jobs.history import RunLog, recorded  # noqa: PLC0415 - `pitr --help` must start quickly

    log = RunLog(name)
    common = replace(common, noted=log)
    if values.get("dry_run"):
        return function(common, **values)
    with recorded(log, lambda: log.location or common.repository_location(), common.out.notify):
        try:
            return function(common, **values)
        except typer.Exit as error:
            # This is how a command sets its exit code; it is no error.
            log.exit_code = error.exit_code
            left = error
    raise left


before_the_command = Common()


def remember(common: Common) -> None:
    """Keep the options that were given before the command's name."""
    global before_the_command  # noqa: PLW0603 - one command line in a process
    before_the_command = common
