# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of all objects in a repository."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from pitr import times

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_MAX_NAME = 4096

REPOSITORY = "repository.json"
BLOBS = "blobs"
INDEXES = "indexes"
CONFIGURATIONS = "configurations"
COMMITS = "commits"
CONTROL = "control"
KEYS = "keys"
BACKUPS = "backups"
#: No VM's lock has this name, because an id does not begin with a dot.
CATALOG_LOCK = "locks/.catalog"
#: Held by a process that removes unreferenced objects, or makes records of them.
COLLECTION_LOCK = "locks/.collection"
#: Shared by commits, and held by who removes configurations.
CONFIGURATIONS_LOCK = "locks/.configurations"
DRILLS = "drills"
CHECKS = "checks"
CONTENTS = "contents"
MARKS = "marks"
PROOFS = "proofs"
RETIRED = "retired"
SUCCESSIONS = "successions"
RUNS = "runs"
COPIES = "copies"
#: Snapshots of the catalog, which new hosts take.
CATALOGS = "catalogs"
#: Names the repositories that this one became a copy of after its creation.
ORIGINS = "origins"
TOMBSTONES = "tombstones"
SWEPT = "swept"


def blob(disk_id: str, stream_id: str) -> str:
    """Return the name of a stream's blob."""
    return f"{BLOBS}/{disk_id}/{stream_id}.sparse.zst"


def index(disk_id: str, stream_id: str) -> str:
    """Return the name of a stream's extent index."""
    return f"{INDEXES}/{disk_id}/{stream_id}.index.db"


def index_copy(disk_id: str, stream_id: str) -> str:
    """Return the name of the second copy of a stream's extent index."""
    return f"{INDEXES}/{disk_id}/{stream_id}.copy.db"


def stream_of(name: str) -> str:
    """Return the stream id in the name of a blob or an index; the name's last part for other names."""
    last = name.rpartition("/")[2]
    for suffix in (".sparse.zst", ".index.db", ".copy.db"):
        if last.endswith(suffix):
            return last.removesuffix(suffix)
    return last


def record(vm_id: str, point: datetime, backup_id: str) -> str:
    """Return the name of a backup's record."""
    return f"{BACKUPS}/{vm_id}/{times.to_object_name(point)}-{backup_id}.json"


def point_of_record(name: str) -> datetime | None:
    """Return the point in a record's name; None for other names."""
    return times.from_object_name(name.rpartition("/")[2].partition("-")[0])


def backup_of_record(name: str) -> str | None:
    """Return the backup id in a record's name; None for other names."""
    base, _, suffix = name.rpartition("/")[2].partition("-")[2].rpartition(".")
    return usable_id(base) if suffix == "json" and point_of_record(name) is not None else None


def lock(vm_id: str) -> str:
    """Return the lock for writing backups of a VM."""
    return f"locks/{vm_id}.lock"


def readers_lock(vm_id: str) -> str:
    """Return the lock that readers of a VM's points share."""
    return f"locks/{vm_id}.readers"


def records_of(vm_id: str | None) -> str:
    """Return the folder of a VM's records; of all records for None."""
    return BACKUPS if vm_id is None else f"{BACKUPS}/{vm_id}"


def configuration(digest: str) -> str:
    """Return the name of a VM's configuration, the digest of its bytes."""
    return f"{CONFIGURATIONS}/{digest}"


def protected_identity(fingerprint: str, *, plugin: bool = False) -> str:
    """Return the name of an identity that a passphrase or a plugin protects, with its recipient's fingerprint."""
    return f"{KEYS}/{'plugin' if plugin else 'identity'}-{fingerprint}.age"


def is_protected_identity(name: str, *, plugin: bool = False) -> bool:
    """Return whether the object with this name is an identity that a passphrase or a plugin protects."""
    kind = "plugin" if plugin else "identity"
    return re.fullmatch(f"{KEYS}/{kind}-[0-9a-f]{{16}}\\.age", name) is not None


def key_epoch(number: int) -> str:
    """Return the name of the recipients of an epoch of a sealed repository, from 1 on."""
    return f"{KEYS}/{number:06d}.json"


def day(time: datetime) -> str:
    """Return the day (UTC) as in the names of commit notes: 20200630."""
    return time.astimezone(UTC).strftime("%Y%m%d")


def commit(now: datetime, vm_id: str, point: datetime, backup_id: str) -> str:
    """Return the note that the record of a backup is about to be stored."""
    return f"{COMMITS}/{day(now)}/{times.to_object_name(point)}-{vm_id}-{backup_id}"


def records_of_note(note: str) -> list[tuple[str, str, str]]:
    """Return the VM, the backup and the record that a commit note may be of: several, where ids have hyphens."""
    time, _, rest = note.rpartition("/")[2].partition("-")
    point = times.from_object_name(time)
    parts = rest.split("-")
    splits = [("-".join(parts[:at]), "-".join(parts[at:])) for at in range(1, len(parts))]
    return [
        (vm_id, backup_id, record(vm_id, point, backup_id))
        for vm_id, backup_id in splits
        if point is not None and usable_id(vm_id) and usable_id(backup_id)
    ]


def control(kind: str, *key: str) -> str:
    """Return one object of a state that begins and ends, or the folder of those whose keys begin with `key`."""
    return "/".join((CONTROL, kind, *key))


def succession(vm_id: str, old_id: str, new_id: str) -> str:
    """Return the note that disk `new_id` took the place of disk `old_id` in a VM."""
    return f"{SUCCESSIONS}/{vm_id}/{old_id}/{new_id}"


def successions_of(vm_id: str) -> str:
    """Return the folder of the notes of a VM's replaced disks."""
    return f"{SUCCESSIONS}/{vm_id}"


def upload_lock(disk_id: str) -> str:
    """Return the lock of an upload."""
    return f"locks/{disk_id}.upload"


def drills_of(vm_id: str | None = None, backup_id: str | None = None) -> str:
    """Return the folder of the drills of a point, of a VM's points, or of all points."""
    return "/".join(part for part in (DRILLS, vm_id, backup_id) if part is not None)


def checks_of(vm_id: str | None = None, backup_id: str | None = None) -> str:
    """Return the folder of the damage found in a backup, in a VM's backups, or in all backups."""
    return "/".join(part for part in (CHECKS, vm_id, backup_id) if part is not None)


def contents_of(vm_id: str | None = None, backup_id: str | None = None) -> str:
    """Return the folder of the checks of the files of a point, of a VM's points, or of all points."""
    return "/".join(part for part in (CONTENTS, vm_id, backup_id) if part is not None)


def proofs_of(vm_id: str | None = None) -> str:
    """Return the folder of the notes of when a VM's streams, or those of all VMs, were last read."""
    return PROOFS if vm_id is None else f"{PROOFS}/{vm_id}"


def copies_in(repository_id: str | None = None) -> str:
    """Return the folder of the notes of what another repository has of this one; of all others for None."""
    return COPIES if repository_id is None else f"{COPIES}/{repository_id}"


def marks_of(vm_id: str | None = None, backup_id: str | None = None) -> str:
    """Return the folder of the holds and notes of a point, of a VM's points, or of all points."""
    return "/".join(part for part in (MARKS, vm_id, backup_id) if part is not None)


def retired(vm_id: str) -> str:
    """Return the note that a VM is retired."""
    return f"{RETIRED}/{vm_id}.json"


def tombstones_of(vm_id: str | None = None) -> str:
    """Return the folder of the tombstones of a VM's points, or of all points."""
    return TOMBSTONES if vm_id is None else f"{TOMBSTONES}/{vm_id}"


def tombstone(vm_id: str, backup_id: str) -> str:
    """Return the note that a point is to be removed."""
    return f"{TOMBSTONES}/{vm_id}/{backup_id}"


def swept_of(vm_id: str | None = None) -> str:
    """Return the folder of the notes of a VM's removed points, or of all removed points."""
    return SWEPT if vm_id is None else f"{SWEPT}/{vm_id}"


def swept(vm_id: str, backup_id: str) -> str:
    """Return the note that a point was removed."""
    return f"{SWEPT}/{vm_id}/{backup_id}"


def run(ended: datetime, random: str, command: str, *, ok: bool) -> str:
    """Return the outcome of a run."""
    result = "ok" if ok else "failed"
    return f"{RUNS}/{ended:%Y%m}/{times.to_object_name(ended)}-{random}-{command}-{result}.json"


def usable_id(value: object) -> str | None:
    """Return `value` if it can be an id in a repository, else None."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def usable_name(value: object) -> str | None:
    """Return `value` if it can be the name of a VM or disk in a repository, else None."""
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_NAME else None
