# SPDX-License-Identifier: GPL-2.0-or-later
"""The target of a replication: a repository of the same origin, or a place where one is made."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from pitr.errors import RepositoryError, UsageError
from pitr.jobs.replicate import sealing
from pitr.repository import Repository, marker, names
from pitr.repository import location as locations
from pitr.repository.location import Location
from pitr.repository.store import ObjectExists, ObjectMissing
from pitr.repository.store.s3 import S3Location, open_store


def open_target(source: Repository, location: Location, *, dry_run: bool, repair: bool) -> Repository | None:
    """Open the target, or make it; None if it does not exist and this is a dry run.

    Raises UsageError if the target is no copy of the source, and RepositoryError.
    """
    _refuse_same_place(source.location, location)
    where = locations.text(location)
    if not _has_repository(location):
        # Another process may make it at the same time.
        if not _is_unused(location) and not _has_repository(location):
            raise UsageError(
                f"the target {where} is not empty, and no repository",
                "Name an empty or a new folder or prefix, or an earlier copy of the source.",
            )
        if dry_run:
            return None
        try:
            sealing.make_target(source, location)
        except RepositoryError:
            if not _has_repository(location):
                raise
    target = Repository.open(location)
    try:
        _check_origin(source, target, where, dry_run=dry_run)
        sealing.prepare(source, target, repair=repair)
    except BaseException:
        target.close()
        raise
    return target


def _check_origin(source: Repository, target: Repository, where: str, *, dry_run: bool) -> None:
    if (
        source.id == target.id
        and isinstance(source.location, S3Location)
        and isinstance(target.location, S3Location)
    ):
        raise UsageError(
            f"the target {where} has the id of the source: both would share the state of this host",
            "Replicate into a new prefix: a copy that pitr makes has an id of its own.",
        )
    family = _family(source)
    if family & _family(target):
        return
    if next(iter(target.store.list(names.BACKUPS)), None) is not None:
        raise UsageError(
            f"the target {where} is another repository ({target.id}), and no copy of {locations.text(source.location)}",
            "Name an empty or a new folder or prefix, or an earlier copy of the source.",
        )
    # A new repository, for example one with a grace time or an object lock of its own.
    if not dry_run:
        with suppress(ObjectExists):
            target.store.create(f"{names.ORIGINS}/{marker.read(source.location, source.store).origin}", b"")


def _family(repository: Repository) -> set[str]:
    """Return the ids of the repositories that this one is a copy of; its own id if it is none."""
    found = {name.rpartition("/")[2] for name in repository.store.list(names.ORIGINS)}
    return found | {marker.read(repository.location, repository.store).origin}


def _refuse_same_place(source: Location, target: Location) -> None:
    if isinstance(source, Path) and isinstance(target, Path):
        one, other = source.resolve(), target.resolve()
        inside = one.is_relative_to(other) or other.is_relative_to(one)
    elif isinstance(source, S3Location) and isinstance(target, S3Location):
        inside = (source.bucket, source.endpoint) == (target.bucket, target.endpoint) and (
            f"{source.prefix}/".startswith(f"{target.prefix}/" if target.prefix else "")
            or f"{target.prefix}/".startswith(f"{source.prefix}/" if source.prefix else "")
        )
    else:
        return
    if inside:
        raise UsageError(
            f"source and target are the same place, or one is inside the other: {locations.text(target)}",
            "Name another folder or prefix, on another machine if you can.",
        )


def _has_repository(location: Location) -> bool:
    if isinstance(location, Path) and not location.is_dir():
        if location.exists() or location.is_symlink():
            raise UsageError(f"the target {location} is no folder", "Name an empty or a new folder.")
        return False
    with closing(locations.opened(location, locations.scratch_state())) as store:
        try:
            store.size(names.REPOSITORY)
        except ObjectMissing:
            return False
    return True


def _is_unused(location: Location) -> bool:
    if isinstance(location, Path):
        try:
            return not location.exists() or marker.is_unused(location)
        except OSError as error:
            raise RepositoryError(f"cannot read the folder {location}: {error.strerror}") from error
    with closing(open_store(replace(location), locations.scratch_state())) as store:
        return store.is_unused()
