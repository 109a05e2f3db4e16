# SPDX-License-Identifier: GPL-2.0-or-later
"""What a look at the objects of a stream found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pitr.errors import RepositoryError
from pitr.jobs.verify.index_check import IndexChecked
from pitr.model import Backup, Stream
from pitr.repository.damage import StoredDamage, of_stream
from pitr.repository.store import ObjectStoreError


@dataclass(slots=True)
class Looked:
    """What a look at a stream found: its index, whether its blob must be here, and damage of the blob."""

    index: IndexChecked
    here: bool
    blob: list[StoredDamage] = field(default_factory=list)


@contextmanager
def collecting(found: list[StoredDamage], backup: Backup, stream: Stream) -> Iterator[None]:
    """Add the damage that the block raises. A store that does not answer raises ObjectStoreError: it is no damage."""
    try:
        yield
    except StoredDamage as error:
        found.append(error)
    except ObjectStoreError:
        raise
    except RepositoryError as error:
        found.append(of_stream(backup.backup_id, stream, "corrupt", "blob", error.message))
