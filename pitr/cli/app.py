# SPDX-License-Identifier: GPL-2.0-or-later
"""All commands, put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pitr.cli import options
from pitr.cli.commands import (
    backup,
    catalog,
    demo,
    diff,
    doctor,
    drill,
    engine,
    export,
    files,
    gateway,
    import_,
    init,
    inspect,
    prune,
    restore,
    serve,
    verify,
)
from pitr.version import __version__

#: In the order of the help and of the README's table: what is used most comes first.
_COMMANDS: dict[str, Callable[..., object] | typer.Typer] = {
    "init": init.init,
    "backup": backup.backup,
    "list": inspect.list_points,
    "restore": restore.restore,
    "files": files.app,
    "serve": serve.serve,
    "verify": verify.verify,
    "drill": drill.drill,
    "prune": prune.prune,
    "diff": diff.diff,
    "show": inspect.show,
    "extents": inspect.extents,
    "export": export.export,
    "import": import_.import_,
    "gateway": gateway.gateway,
    "catalog": catalog.app,
    "doctor": doctor.doctor,
    "engine": engine.app,
    "demo": demo.demo,
}


class _InOrder(TyperGroup):
    """The library would put groups of commands behind all others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {name: self.commands[name] for name in _COMMANDS}


app = typer.Typer(
    name="pitr",
    cls=_InOrder,
    help="Point-in-time restore for oVirt VM disks.\n\n"
    "Back up VMs in full and incrementally into a repository, see every point in time that it holds, and restore "
    "any of them: each byte is written once.",
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
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    repo: options.RepoOption = None,
    output: options.OutputOption = None,
    debug: options.DebugOption = False,
    config: options.ConfigOption = None,
    engine_url: options.EngineUrlOption = None,
    username: options.UsernameOption = None,
    password_file: options.PasswordFileOption = None,
    cafile: options.CafileOption = None,
    insecure: options.InsecureOption = False,
) -> None:
    options.remember(
        options.Common(repo, output, debug, config, engine_url, username, password_file, cafile, insecure)
    )


for _name, _command in _COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)
