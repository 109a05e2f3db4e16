# SPDX-License-Identifier: GPL-2.0-or-later
"""Note the uploads of a restore before they start, so that the next restore ends those of a killed one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from pitr.errors import BusyError, RepositoryError
from pitr.ovirt.engine import Engine, Transfer, disk_exists
from pitr.reporting import Notify
from pitr.repository import Repository, lock, names
from pitr.repository.pairs import UPLOADS
from pitr.repository.store import check_name, is_name


@dataclass(frozen=True, slots=True)
class UploadNotes:
    """The notes of one repository. A restore also works, without notes, if the repository is not writable."""

    repository: Repository

    @contextmanager
    def new_disk(self) -> Iterator[str]:
        """Return the id for a new disk, noted until the block exits. A lock shows that the restore is alive."""
        disk_id = str(uuid.uuid4())
        with self.made_disk(disk_id):
            yield disk_id

    @contextmanager
    def made_disk(self, disk_id: str) -> Iterator[None]:
        """Note a disk that this run has made until the block exits: its upload can be cancelled, which removes it."""
        with ExitStack() as stack:
            with suppress(RepositoryError):
                stack.enter_context(self._held(disk_id))
                UPLOADS.begin(self.repository.store, disk_id)
                stack.callback(self._forget, disk_id)
            yield

    def end_left_behind(self, engine: Engine, *, dry_run: bool = False, notify: Notify) -> list[str]:
        """Cancel the uploads of killed restores; return the ids of their disks, which the engine removes.

        A disk without an upload stays: it may be complete and in use. Raises EngineError.
        """
        ended: list[str] = []
        noted = {disk_id for (disk_id,) in UPLOADS.open(self.repository.store)}
        # A lock without a note: its owner was killed before it started an upload.
        locked = {path.stem for path in self.repository.path.glob(names.upload_lock("*"))}
        for disk_id in sorted(
            noted | {disk_id for disk_id in locked if is_name(names.control(UPLOADS.begun, disk_id))}
        ):
            # A live restore holds its lock.
            with suppress(BusyError), self._held(disk_id):
                transfers = Transfer.left_behind(engine, disk_id, "upload")
                if transfers:
                    ended.append(disk_id)
                elif disk_exists(engine, disk_id):
                    notify(
                        f"disk {disk_id} belongs to an interrupted restore: remove it if you do not need it"
                    )
                if not dry_run:
                    for transfer in transfers:
                        transfer.end_early()
                    self._forget(disk_id)
        return ended

    def _forget(self, disk_id: str) -> None:
        # If the note stays, the next restore sends one more request to the engine.
        with suppress(RepositoryError):
            UPLOADS.end(self.repository.store, disk_id)

    @contextmanager
    def _held(self, disk_id: str) -> Iterator[None]:
        path = self.repository.path / check_name(names.upload_lock(disk_id))
        with lock.hold(path, f"the upload to disk {disk_id}"):
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
