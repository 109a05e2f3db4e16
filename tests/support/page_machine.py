# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that runs the shell blocks of a page as root: with its own /etc, /srv, /mnt, /run and /var/log.

A mount namespace keeps all that away from the real machine. systemd does not run there: its `systemctl` runs the
command of a unit, with the environment and the capabilities that the unit gives it, and with all file systems
read-only but for the folders that the unit names and those for temporary files.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

_PRIVATE = ("srv", "mnt", "mnt/second", "run", "var/log", "var/tmp")

_SYSTEMCTL = r"""
import os, pathlib, re, shlex, subprocess, sys

arguments = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
with open(os.environ["SYSTEMCTL_LOG"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\n")
if arguments[0] == "start":
    unit = pathlib.Path("/etc/systemd/system", arguments[1]).read_text()
    settings = [line.split("=", 1) for line in unit.splitlines() if re.match(r"\w+=", line)]
    values = [(name, shlex.split(value.replace("%%", "%"))) for name, value in settings]
    # As systemd does it: nothing of the caller's environment but the paths of programs.
    environment = {"PATH": os.environ["PATH"], "HOME": "/root"}
    environment.update(word.split("=", 1) for name, words in values if name == "Environment" for word in words)
    [command] = [words for name, words in values if name == "ExecStart"]
    writable = [word for name, words in values if name == "ReadWritePaths" for word in words]
    [capabilities] = [words for name, words in values if name == "CapabilityBoundingSet"]
    bounding = ",".join(["-all", *("+" + word.removeprefix("CAP_").lower() for word in capabilities)])
    script = [
        "mount --make-rprivate /",
        *(f"mount --bind {shlex.quote(path)} {shlex.quote(path)}" for path in (*writable, "/tmp", "/var/tmp")),
        "awk '{print $5}' /proc/self/mountinfo | while read -r place; do",
        "    case $place in /dev*|/proc*|/sys*) ;; *) mount -o remount,bind,ro \"$place\" 2>/dev/null || true ;; esac",
        "done",
        *(f"mount -o remount,bind,rw {shlex.quote(path)}" for path in (*writable, "/tmp", "/var/tmp")),
        "if touch /etc/pitr/x /srv/x 2>/dev/null; then echo 'not read-only' >&2; exit 9; fi",
        f"exec setpriv --no-new-privs --bounding-set {bounding} "
        + shlex.join(word.replace("$$", "$") for word in command),
    ]
    run = ["unshare", "--mount", "bash", "-euc", "\n".join(script)]
    sys.exit(subprocess.run(run, env=environment).returncode)
"""


def blocks(page: Path) -> list[str]:
    """Return the shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


class PageMachine:
    """Runs shell commands; each call continues with the files that the calls before have left."""

    def __init__(self, folder: Path) -> None:
        for program in ("unshare", "mount", "rsync", "openssl", "curl"):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
            pytest.skip("only root can give the page a machine of its own (a mount namespace)")
        self._folder = folder
        self._programs = folder / "programs"
        self._programs.mkdir()
        self.calls = folder / "systemctl.log"
        self._program("systemctl", f'exec {sys.executable} {folder / "systemctl.py"} "$@"')
        (folder / "systemctl.py").write_text(_SYSTEMCTL)
        self._program("logger", f"cat > {folder / 'notice'}")
        self.notice = folder / "notice"
        (self._programs / "pitr").symlink_to(Path(sys.executable).with_name("pitr"))
        for name in _PRIVATE:
            (folder / "files" / name).mkdir(parents=True)
        shutil.copytree("/etc", folder / "files" / "etc", symlinks=True)
        (folder / "files" / "run" / "systemd" / "system").mkdir(parents=True)
        shutil.rmtree(folder / "files" / "etc" / "pitr", ignore_errors=True)
        (folder / "home").mkdir()

    def path(self, path: str) -> Path:
        """Return where a path of the machine is."""
        return self._folder / "files" / path.lstrip("/")

    def run(
        self, script: str, *, typed: str = "", code: int = 0, variables: Mapping[str, str] | None = None
    ) -> str:
        """Run the commands, each of which must succeed, and return what they print. `typed` is the standard input."""
        mounts = "".join(f"mount --bind {self._folder}/files/{name} /{name}\n" for name in ("etc", *_PRIVATE))
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "bash",
                "-euc",
                f"{mounts}set -o pipefail\n{script}",
            ],
            input=typed,
            env={
                "PATH": f"{self._programs}:{os.environ['PATH']}",
                "HOME": str(self._folder / "home"),
                "SYSTEMCTL_LOG": str(self.calls),
                "LC_ALL": "C.UTF-8",
                **(variables or {}),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _program(self, name: str, command: str) -> None:
        path = self._programs / name
        path.write_text(f"#!/bin/sh\n{command}\n")
        path.chmod(0o755)
