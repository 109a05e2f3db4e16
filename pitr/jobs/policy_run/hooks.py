# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the hooks of a policy: commands before and after a run and the backup of a VM (docs/configuration.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pitr.errors import NotNow, ProgramFailed
from pitr.jobs.policy_run.policy import HookCommands
from pitr.reporting import Notify
from pitr.system.limited_shell import run_limited

HookName = Literal["before_run", "after_run", "before_vm", "after_vm", "on_error"]
#: EX_TEMPFAIL of sysexits(3), as in borgmatic.
NOT_NOW: Final = 75


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of one run. `environ` is their whole environment, without secrets; `tell` gets their output."""

    commands: HookCommands
    environ: Mapping[str, str]
    tell: Notify

    def run(
        self,
        hook: HookName,
        told: Mapping[str, str],
        stopped: Callable[[], bool] = _never,
        *,
        about: str = "",
    ) -> None:
        """Run the commands of a hook in order, with the variables `told`; `about` names the VM for its output.

        Raises ProgramFailed for the first command that fails, NotNow if it is a `before` hook with exit code 75, and
        Interrupted. Then the other commands do not run.
        """
        where = f"{hook} {about}".rstrip()
        for command in getattr(self.commands, hook):
            try:
                ended = run_limited(
                    command,
                    env={**self.environ, **told, "PITR_HOOK": hook},
                    timeout_s=self.commands.timeout_s,
                    tell=lambda line: self.tell(f"{where}: {line}"),
                    stopped=stopped,
                )
            except ProgramFailed as error:
                raise ProgramFailed(f"the hook {hook} failed: {error.message}", _advice(command)) from None
            if ended.code == NOT_NOW and hook.startswith("before"):
                raise NotNow(f"the hook {hook} asked for it (exit code {NOT_NOW})")
            if ended.code:
                said = f": {ended.tail}" if ended.tail else ""
                raise ProgramFailed(
                    f"the hook {hook} failed with exit code {ended.code}{said}", _advice(command)
                )


def _advice(command: str) -> str:
    return f"Its command is: {command}"
