# SPDX-License-Identifier: GPL-2.0-or-later
"""Generate docs/configuration.md, the reference of all settings, from their schema: `make docs`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pitr.cli.config_check import resolved, schema

_HEAD = """\
# The configuration

`make docs` generates this page from `schema/config.schema.json`. pitr reads `/etc/pitr/config.toml` and then
`~/.config/pitr/config.toml`; each key of the second file overrides the first. `[engine]`, `[retention]`,
`[encryption]`, each policy and each site come whole from one file. `--config-file FILE` or the variable `PITR_CONFIG`
names one file to read instead. Options and environment variables override the configuration.

    pitr config check       # find mistakes: exits with 0 or 2
    pitr config show        # show all settings that apply, and where each comes from; secrets are masked

A whole configuration for the night:

```toml
repository = "/srv/backup/pitr"

[engine]
url = "https://engine.example.com"
username = "backup@internal"
password_file = "/etc/pitr/password"
cafile = "/etc/pitr/ca.pem"

[policy.nightly]
tags = ["daily"]                # the VMs with this tag on the engine
exclude = ["test-*"]
keep_daily = 30                 # remove older points
keep_monthly = 12
verify_every = "30d"            # read a share each night, so that all data is read within 30 days
drills = 1                      # restore one VM each night, in turn
max_age = "26h"

[policy.nightly.notify]
urls = ["mailto://mail.example.com?from=pitr@example.com&to=admin@example.com"]
ping = "https://hc-ping.com/${PING_ID}"
```

`pitr run nightly --dry-run` shows what a run would do, and `pitr run nightly` does it.
"""

_HOOKS = """\
Each hook is one shell command or a list of them, which run in order. If a command exits with a code other than 0,
the others of the hook do not run:

- A failed `before_run` stops the run, and a failed `before_vm` the backup of this VM. The step fails, and pitr
  exits with 1.
- Exit code 75 of these hooks means "not now" (a laptop without power, a busy database): pitr skips the run or the
  VM. A skipped VM is no failure.
- `after_run` and `after_vm` always run once their `before` hook was due, so they can undo what it did. If one of
  them fails, a step of its own fails.
- `on_error` runs once, after the last step, if a step failed or a signal stopped the run. Its own failure is only
  reported.

A command that runs longer than `timeout` is stopped with all that it started, and so is one during which a signal
stops pitr. Its output goes to pitr's standard error, and the end of it to the message of a failure. `--dry-run`
runs no hook.

`before_run` runs before pitr opens the repository, and `after_run` when it is closed: they may mount and unmount it.

A hook gets these variables. It gets no variable of pitr's own logins (the engine's and S3's) and none that the
notices use, so it never sees a secret of pitr.

| variable | value |
|---|---|
| `PITR_HOOK` | `before_run`, `after_run`, `before_vm`, `after_vm`, `on_error` |
| `PITR_POLICY` | the name of the policy |
| `PITR_REPO` | the repository: its folder or URL |
| `PITR_VM`, `PITR_VM_ID` | name and id of the VM (the hooks of a VM) |
| `PITR_STATE` | `ok`, `failed`, `skipped` or `interrupted` (not before) |
| `PITR_ERROR` | the first failure, in words (not before) |
| `PITR_BACKUP_ID`, `PITR_KIND`, `PITR_STORED_BYTES` | the new point (`after_vm`) |
"""

_NOTICES = """\
A notice has a subject and the summary of the run: each failed step with its error and the advice. pitr sends it
through every channel that is set, after the last step. `urls` need the extra `pitr[notice]` (the library apprise,
for mail, chat and pager services); `ping` and `command` need nothing.

- A ping service (healthchecks.io and services like it) also tells you if **no run starts at all**, because it waits
  for the ping. pitr itself can only tell at the start of the next run: the notice `late`. So do `pitr notice
  check`, which you can start from another timer, and `pitr status`.
- `recovery` is the first success after a failure.
- A notice that cannot be sent is reported on standard error and in the document of the run. It does not change the
  exit code, which tells how the run went. A wrong setting shows in `pitr notice test`, which sends a notice through
  every channel and exits with 1 if one fails.
- `command` gets `PITR_EVENT`, `PITR_SUBJECT` and `PITR_POLICY`, and the text on standard input.
- A timer of `pitr schedule` has not the variables of your shell. Write them into `/etc/pitr/environment`, which its
  units read ([night.md](night.md)), or use files.
- Write secrets into `urls_file` or `ping_file`, or into a variable: `${NAME}` in `urls` and `ping`. pitr encodes the
  value of a variable in the user or password of a URL. In messages, documents and `pitr config show`, it shows only the
  scheme of a URL in `urls`, and no path of `ping`.
"""


def markdown() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    top = schema()
    keys = {name: item for name, item in top["properties"].items() if resolved(item).get("type") != "object"}
    parts += ["## At the top\n", "These keys stand before the first table.\n", _table(keys)]
    for name, item in top["properties"].items():
        if resolved(item).get("type") == "object":
            parts += _section(name, resolved(item))
    for name, title, text in (
        ("repository", "Repositories on S3", ""),
        ("hooks", "Hooks", _HOOKS),
        ("notify", "Notices", _NOTICES),
    ):
        definition = top["definitions"][name]
        parts += [f"## {title}\n", f"`[{definition['x-heading']}]`\n", _table(definition["properties"]), text]
    return "\n".join(parts)


def _section(name: str, definition: Mapping[str, Any]) -> Iterator[str]:
    yield f"## [{definition.get('x-heading', name)}]\n"
    yield f"{definition['description']}\n"
    inner = definition.get("additionalProperties") or definition
    yield _table(resolved(inner)["properties"])


def _table(keys: Mapping[str, Any]) -> str:
    rows = [
        f"| `{name}` | {_type(item)} | {_meaning(item)} |"
        for name, item in ((name, resolved(each)) for name, each in keys.items())
    ]
    return "\n".join(["| key | value | meaning |", "|---|---|---|", *rows, ""])


def _type(definition: Mapping[str, Any]) -> str:
    if "x-type" in definition:
        return str(definition["x-type"])
    if definition.get("type") == "array":
        return "list of strings"
    if "time" in definition.get("x-must", ""):
        return "time span"
    return {"integer": "number", "object": "table", "boolean": "true or false"}.get(
        definition.get("type", ""), "string"
    )


def _meaning(definition: Mapping[str, Any]) -> str:
    text = str(definition["description"])
    if "default" in definition:
        text += f" Default: `{_toml(definition['default'])}`."
    for example in definition.get("examples", ()):
        text += f" Example: `{_toml(example)}`."
    return text.replace("|", "\\|")


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(markdown())
