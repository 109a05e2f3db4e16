# SPDX-License-Identifier: GPL-2.0-or-later
"""`pitr init`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pitr.cli import repository_location
from pitr.cli.key_options import EncryptOption
from pitr.cli.options import Common, with_common
from pitr.errors import UsageError
from pitr.jobs import keys
from pitr.repository import Repository
from pitr.repository import location as locations
from pitr.repository.marker import FORMAT, MAX_GRACE, keeps_modes
from pitr.repository.store.lock_rules import Lock
from pitr.times import parse_span

FolderArgument = Annotated[
    Any,
    typer.Argument(
        metavar="FOLDER|URL",
        help="Folder of the new repository, or s3://BUCKET/PREFIX; the same as --repo.",
        show_default=False,
        parser=repository_location.parsed,
    ),
]
GraceOption = Annotated[
    str | None,
    typer.Option(
        "--grace",
        metavar="SPAN",
        help="Keep the data of removed points for this time. Default: 3d in a bucket, 0d in a folder.",
    ),
]


LockOption = Annotated[
    str | None,
    typer.Option(
        "--lock",
        metavar="MODE:SPAN",
        help="Protect stored objects from removal for this time after each upload, by the object lock of the bucket: "
        "compliance:30d (nobody can shorten it) or governance:30d.",
    ),
]


@with_common()
def init(
    common: Common,
    folder: FolderArgument = None,
    grace: GraceOption = None,
    lock: LockOption = None,
    encrypt: EncryptOption = None,
) -> None:
    """Create a repository in an empty folder or a bucket (S3).

    pitr first tries out whether the object store does what a repository relies on, and refuses one that overwrites
    objects silently. It creates no bucket.

    With a grace time, 'pitr prune' and 'pitr forget' first only hide points, and 'pitr undo-prune' takes them back. A
    prune after the grace time removes their data. In a bucket no other lock protects what other hosts use: a backup
    gives up after half the grace time, so it must be more than twice as long as your longest backup.

    With --lock, the bucket must have versions and object lock, and no default retention. 'pitr protect' and
    'pitr prune' extend the protection of the points that stay.

    With --encrypt, the repository is sealed: this host can back up without being able to read. Keep the identities on
    other machines, and one on paper: without an identity, nothing can be restored. '--encrypt passphrase' asks for a
    passphrase (or reads it from the file that PITR_PASSPHRASE_FILE names).

    Examples: pitr init /srv/backup/pitr; pitr init s3://backups/ovirt --grace 7d;
    pitr init s3://backups/ovirt --lock compliance:30d
    """
    if folder is not None and common.repo is not None and folder != common.repo:
        raise UsageError("the argument and --repo name different repositories", "Give only one of them.")
    where = replace(common, repo=folder or common.repo).repository_location()
    path = locations.text(where.absolute() if isinstance(where, Path) else where)
    span = parse_span("--grace", grace) if grace is not None else None
    if span is not None and span > MAX_GRACE:
        raise UsageError(f"--grace {grace} is too long", f"Give at most {MAX_GRACE.days}d.")
    sealing = keys.new_recipients(encrypt or ())
    recipients, recovery = list(sealing.recipients), None
    if len(recipients) == 1:
        recovery = keys.new_identity(recipients)
    chosen = Lock.parse(lock) if lock is not None else None
    with Repository.create(where, grace=span, lock=chosen, recipients=recipients) as repository:
        sealing.keep(repository)
        if not keeps_modes(repository.location):
            common.out.notify(
                f"warning: the file system of {path} does not store file modes: its mount options decide who can "
                "read the backups"
            )
        if common.out.json:
            document: dict[str, Any] = {
                "id": repository.id,
                "path": path,
                "format": FORMAT,
                "lock": repository.lock.as_document() if repository.lock is not None else None,
            }
            if recipients:
                document |= {"recipients": recipients, "new_identity": recovery}
            common.out.document({"repository": document})
        else:
            common.out.show(f"Created the repository {path} ({repository.id}).")
            for each in keys.listed(repository)[0].recipients if recipients else ():
                common.out.show(f"Sealed to {each.recipient} (fingerprint {each.fingerprint}).")
            if recovery is not None:
                common.out.show(
                    "pitr made the second of these recipients. Write its identity down, and keep it on paper. It is "
                    f"shown once, and stored nowhere:\n\n    {recovery}"
                )
