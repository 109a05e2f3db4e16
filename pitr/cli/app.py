# SPDX-License-Identifier: GPL-2.0-or-later
"""The program's commands and the options that can stand before a command's name."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from pitr.cli import key_options, log, options
from pitr.cli.plain_values import convert_quickly
from pitr.version import __version__


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A command or a group of commands: its module in pitr.cli.commands, its name there, and its one-line help."""

    module: str
    attribute: str
    help: str


#: Under the titles of the help and of the README. A test compares each line of help with the first sentence of the
#: command's own help.
GROUPS = {
    "Back up and restore": {
        "init": CommandEntry("init", "init", "Create a repository in an empty folder or a bucket (S3)."),
        "backup": CommandEntry("backup", "backup", "Back up VMs: all disks of each VM at one point in time."),
        "list": CommandEntry("inspect", "list_points", "List the points you can restore, newest first."),
        "show": CommandEntry("inspect", "show", "Show one point: its disks, times, checkpoint and chain."),
        "restore": CommandEntry("restore", "restore", "Restore disks as they were at a point in time."),
        "rollback": CommandEntry(
            "rollback", "rollback", "Take a VM's disks back to a point: only what differs is written."
        ),
        "import": CommandEntry("import_", "import_", "Import backups of other programs as points in time."),
        "export": CommandEntry(
            "export", "export", "Write a disk at a point as a stream, to a pipe or a file."
        ),
    },
    "Use a point without a restore": {
        "files": CommandEntry("files", "app", "Take files from a past state, without a restore."),
        "serve": CommandEntry("serve", "serve", "Serve the disks at a point as read-only NBD exports."),
        "open": CommandEntry(
            "open_", "open_", "Boot a point on this machine, in a window or for a VNC viewer."
        ),
        "diff": CommandEntry("diff", "diff", "Show what changed on a VM's disks between two points."),
        "extents": CommandEntry("extents", "extents", "Show which backup each range of a disk comes from."),
        "gateway": CommandEntry(
            "gateway", "gateway", "Serve disks and points over HTTP, for any HTTP client."
        ),
    },
    "Every night": {
        "run": CommandEntry(
            "run", "run", "Carry out a policy: back up, prune, copy, verify and drill its VMs."
        ),
        "schedule": CommandEntry("schedule", "app", "Run a policy every night, by systemd or by cron."),
        "status": CommandEntry(
            "status", "status", "Show for each VM whether its points are fresh, whole and usual."
        ),
        "history": CommandEntry("history", "history", "List past runs, failed ones included, newest first."),
        "notice": CommandEntry("notice", "app", "Test the notices of a policy, or tell that no run came."),
        "config": CommandEntry("config", "app", "Show or check the configuration."),
    },
    "Prove": {
        "verify": CommandEntry("verify", "verify", "Compare stored data with its recorded digests."),
        "drill": CommandEntry("drill", "drill", "Prove that a point can be restored."),
        "doctor": CommandEntry("doctor", "doctor", "Check everything that backups and restores need."),
    },
    "Keep and remove": {
        "stats": CommandEntry("stats", "stats", "Show what is stored, how it grows, and when it is full."),
        "hold": CommandEntry("mark", "hold", "Hold a point: neither prune nor forget removes it."),
        "release": CommandEntry("mark", "release", "Release a held point."),
        "note": CommandEntry("mark", "note", "Write a note on a point."),
        "prune": CommandEntry("prune", "prune", "Remove old points."),
        "undo-prune": CommandEntry(
            "undo_prune", "undo_prune", "Take back points that 'pitr prune' or 'pitr forget' removed."
        ),
        "forget": CommandEntry("forget", "forget", "Remove the points that you name, or all points of a VM."),
        "consolidate": CommandEntry(
            "consolidate", "consolidate", "Make a point independent of older points."
        ),
        "protect": CommandEntry("protect", "protect", "Extend the protection of points from removal."),
        "warm": CommandEntry("warm", "warm", "Ask the store to bring back a point's data from a cold class."),
    },
    "More places and machines": {
        "replicate": CommandEntry(
            "replicate", "replicate", "Copy to another repository what it lacks: a second site."
        ),
        "key": CommandEntry("key", "app", "List, change and check the recipients of a sealed repository."),
        "worker": CommandEntry("worker", "worker", "Work for a scheduler: do the jobs that callers give it."),
        "fleet": CommandEntry(
            "fleet", "app", "Let many machines do the work: scheduler, certificates, plan."
        ),
    },
    "Look inside, clean up, try": {
        "catalog": CommandEntry(
            "catalog", "app", "Query, serve, check or rebuild the catalog of all points."
        ),
        "engine": CommandEntry("engine", "app", "Clean up pitr's leftovers on the engine."),
        "demo": CommandEntry("demo", "demo", "Run a demo on a local oVirt: backups, a disaster, a restore."),
    },
}
ENTRIES = {name: entry for group in GROUPS.values() for name, entry in group.items()}


convert_quickly()


class _LazyGroup(TyperGroup):
    """Imports a command's module only when the command runs, completes its options or prints its help.

    Until then a command without options stands in for it: that is enough for the list of commands.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {name: TyperCommand(name, help=entry.help) for name, entry in ENTRIES.items()}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, ENTRIES))
        limit = formatter.width - 6 - width
        for title, entries in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in entries]
                )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        loaded = load(name) if name is not None else command
        if not gc.isenabled():
            # All that was imported stays: it is no garbage (pitr/__main__.py).
            gc.freeze()
            gc.enable()
        return name, loaded, rest


def load(name: str) -> Any:
    """Import the command or group `name` and return it as the command-line library runs it."""
    entry = ENTRIES[name]
    command = getattr(import_module(f"pitr.cli.commands.{entry.module}"), entry.attribute)
    holder = typer.Typer(rich_markup_mode=None)
    if isinstance(command, typer.Typer):
        holder.add_typer(command, name=name)
    else:
        holder.command(name)(command)
    return typer.main.get_group(holder).commands[name]


app = typer.Typer(
    name="pitr",
    cls=_LazyGroup,
    help="Restore the disks of oVirt VMs to a point in time.\n\n"
    "pitr backs up VMs, in full or incrementally, to a repository. List the points in time that it holds, and restore "
    "any of them. A restore writes each byte once.",
    epilog="Example: pitr backup web1 --incremental, then pitr restore web1 --at 2020-06-30T22:00",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"pitr {__version__}")
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    repo: options.RepoOption = None,
    output: options.OutputOption = None,
    debug: options.DebugOption = False,
    config_file: options.ConfigFileOption = None,
    config: options.ConfigOption = None,
    engine_url: options.EngineUrlOption = None,
    username: options.UsernameOption = None,
    password_file: options.PasswordFileOption = None,
    cafile: options.CafileOption = None,
    insecure: options.InsecureOption = False,
    quiet: log.QuietOption = False,
    verbose: log.VerboseOption = False,
    log_file: log.LogFileOption = None,
    log_format: log.LogFormatOption = None,
    identity: key_options.IdentityOption = None,
    trust_recipients: key_options.TrustRecipientsOption = False,
) -> None:
    options.remember(
        options.Common(
            repo,
            output,
            debug,
            config_file,
            config,
            engine_url,
            username,
            password_file,
            cafile,
            insecure,
            log_file,
            log_format,
            quiet,
            verbose,
            identity,
            trust_recipients,
        )
    )
