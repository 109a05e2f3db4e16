# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository that an option or the configuration names: a folder, or s3://BUCKET/PREFIX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pitr.errors import UsageError
from pitr.system.home import expanded
from pitr.system.target_path import repository_folder

if TYPE_CHECKING:
    from pitr.repository.location import Location

_S3 = "s3:"


def parsed(text: str) -> Location:
    """Return the location that an option names. Raises UsageError."""
    if not text.startswith(_S3):
        return repository_folder(text)
    from pitr.repository.store.s3 import S3Location  # noqa: PLC0415 - `pitr --help` must start quickly

    return S3Location.parse(text)


def configured(value: str | Mapping[str, Any], key: str = "repository") -> Location:
    """Return the location that a setting names, a text or a table, by default `repository`. Raises UsageError."""
    table = {"url": value} if isinstance(value, str) else dict(value)
    url = table.pop("url")
    location = parsed(str(expanded(url)) if url.startswith("~") else url)
    secret_file = table.pop("secret_access_key_file", None)
    if isinstance(location, Path):
        if table or secret_file:
            wrong = next(iter(table), "secret_access_key_file")
            raise UsageError(f"{key}.{wrong} goes with a repository on S3", "Remove it, or name s3://…")
        return location
    secret = _secret(expanded(secret_file), key) if secret_file else None
    return replace(location, **table, secret_access_key=secret)


def reachable(location: Location, of_settings: Location | None) -> Location:
    """Return the location with what the configuration and the environment say about reaching it. Raises UsageError."""
    if isinstance(location, Path):
        return location
    if location.endpoint is None and not isinstance(of_settings, Path | None):
        # --repo names another bucket or prefix of the configured server.
        location = replace(of_settings, bucket=location.bucket, prefix=location.prefix)
    return location.with_environment(os.environ)


def _secret(path: Path, key: str) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"cannot read {key}.secret_access_key_file {path}: {reason}") from None
