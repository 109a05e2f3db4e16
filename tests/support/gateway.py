# SPDX-License-Identifier: GPL-2.0-or-later
"""A gateway in its own process, and curl as its client."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.pitr import PATIENCE_S

#: curl's own exit codes.
CUT_OFF = 18
CERTIFICATE = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that curl got. `code` is its exit code; `status` is 0 without an answer."""

    code: int
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        document = self.json
        assert set(document) == {"error"} and set(document["error"]) == {"type", "message", "advice"}
        assert "defect" not in document["error"]["message"], document
        return document["error"]


class Gateway:
    """A running gateway."""

    def __init__(self, url: str, token_file: Path, folder: Path, process: subprocess.Popen[str]) -> None:
        self.url = url
        self.token_file = token_file
        self.process = process
        self._folder = folder
        self.log_path = folder / "log"
        self._header = folder / "header"
        self._header.write_text(f"Authorization: Bearer {token_file.read_text()}")

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def command(self, path: str, *options: str | Path) -> list[str]:
        """Return curl's command line, with the token."""
        return self.bare(path, "-H", f"@{self._header}", *options)

    def bare(self, path: str, *options: str | Path) -> list[str]:
        command = ["curl", "-sS", "--max-time", str(PATIENCE_S), *map(str, options)]
        return [*command, f"{self.url}{path}"]

    def curl(self, path: str, *options: str | Path, given: Path | None = None) -> Answer:
        """Send a request with the token. `given` is piped in."""
        return self.ask(self.command(path, *options), given)

    def ask(self, command: list[str], given: Path | None = None) -> Answer:
        headers = self._folder / f"headers-{os.getpid()}"
        headers.write_bytes(b"")
        with (given or Path(os.devnull)).open("rb") as stdin:
            done = subprocess.run(
                [*command, "-D", str(headers)], stdin=stdin, capture_output=True, check=False
            )
        # The last one, because a "100 Continue" may precede it.
        lines = headers.read_text().strip().rpartition("\n\n")[2].splitlines()
        pairs = (line.partition(":") for line in lines[1:])
        return Answer(
            done.returncode,
            int(lines[0].split()[1]) if lines else 0,
            {name.lower(): value.strip() for name, _, value in pairs},
            done.stdout,
        )

    def get(self, path: str, *options: str | Path, status: int = 200) -> Answer:
        """Send a request, and check the status of the answer."""
        answer = self.curl(path, *options)
        assert (answer.code, answer.status) == (0, status), (answer, self.log)
        return answer

    def put(
        self, path: str, body: Path, *options: str | Path, status: int = 200, chunked: bool = True
    ) -> Answer:
        """Send a file, in chunks as from a pipe, or with its length."""
        what = ("-T", "-") if chunked else ("-T", body)
        answer = self.curl(path, *what, *options, given=body if chunked else None)
        assert answer.status == status, (answer, self.log)
        return answer

    def memory(self) -> int:
        """Return the most memory that it has taken so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextmanager
def running(
    environment: Mapping[str, str], folder: Path, *options: str | Path, patched: str = ""
) -> Iterator[Gateway]:
    """Run `pitr gateway` with `options` on a free port. `patched`: statements that run before it starts."""
    folder.mkdir(parents=True, exist_ok=True)
    program = f"import sys; {patched or 'pass'}; from pitr.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "gateway", "--port", "0", "--output", "json", *options]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            # One line, for programs that read it while the gateway runs.
            said = process.stdout.readline()
            assert said, (folder / "log").read_text()
            document = json.loads(said)["gateway"]
            yield Gateway(document["url"], Path(document["token_file"]), folder, process)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, (folder / "log").read_text()
    assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()
