# SPDX-License-Identifier: GPL-2.0-or-later
"""Check everything that backups and restores need, and say how to fix what fails."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from importlib import metadata
from pathlib import Path

from pitr import times
from pitr.copier import copy
from pitr.endpoints.images.memory import MemorySource
from pitr.errors import ImageioError, PitrError, ProgramMissing
from pitr.jobs.backup.clocks import skew_in_words
from pitr.jobs.doctor_check import Check, CheckStatus
from pitr.jobs.doctor_keys import check_keys
from pitr.jobs.doctor_store import trial
from pitr.jobs.exposed_secrets import readable_by_others
from pitr.jobs.find import by_id_or_name
from pitr.jobs.point_order import CLOCK_TOLERANCE, labelled_before_parent
from pitr.jobs.restore.verifier import Verifier
from pitr.jobs.status.protection import protection_status
from pitr.model import Backup
from pitr.ovirt.data_path import imageio_address
from pitr.ovirt.engine import (
    Disk,
    Engine,
    EngineConfig,
    NewDisk,
    StorageDomain,
    active_data_domains,
    create_disk,
    delete_disk,
    list_vms,
    start_upload,
)
from pitr.ovirt.engine.server import certificate_end, engine_time
from pitr.ovirt.imageio.disk import ImageioSink
from pitr.ovirt.imageio.session import ImageioAddress, ImageioSession, ask
from pitr.repository import Repository
from pitr.repository import location as locations
from pitr.repository.location import Location
from pitr.system.process import require
from pitr.text import counted, printable
from pitr.units import human_size
from pitr.version import __version__

_LIBRARIES = ("ovirt-engine-sdk-python", "ovirt-imageio")
#: Programs that only some commands run.
_PROGRAMS = ("qemu-img", "qemu-nbd", "zstd", "e2fsck")
_LABELS_SHOWN = 3
_LABELS_ADVICE = "A clock was wrong. Name these points with --point; 'pitr prune' goes by their lineage."
_CERTIFICATE_DAYS = 14
_FREE_BYTES = 10 << 30
_FREE_PART = 0.05
_PROBE_SIZE = 1 << 20

Configure = Callable[[], EngineConfig]


def examine(
    configuration_files: Sequence[Path],
    repository_location: Location | None,
    configure: Configure,
    *,
    probe: bool,
    storage_domain: str | None = None,
    secret_files: Sequence[Path] = (),
) -> Iterator[Check]:
    """Check programs, configuration, repository and engine; with `probe` also the path of the data.

    The probe creates a disk of 1 MiB in `storage_domain` (a name or an id; None: any), writes it, reads it back and
    deletes it. It does the same with a few objects if the repository is in an object store. pitr changes nothing else.
    `secret_files` hold passwords, if they exist.
    Failures of the installation are results, not exceptions.
    """
    yield _versions()
    yield _programs()
    files = ", ".join(str(path) for path in configuration_files)
    yield Check("configuration", "ok", f"read from {files}" if files else "no configuration file found")
    yield from _secrets(secret_files)
    labels: list[str] = []
    yield from _repository(repository_location, labels, probe)
    yield from _engine(configure, probe, storage_domain, labels)


def _versions() -> Check:
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    python = ".".join(str(part) for part in sys.version_info[:3])
    return Check("versions", "ok", f"pitr {__version__}, Python {python}, {libraries}")


def _programs() -> Check:
    try:
        require(*_PROGRAMS, everywhere=True)
    except ProgramMissing as error:
        return Check("programs", "warning", error.message, error.advice)
    return Check("programs", "ok", f"{', '.join(_PROGRAMS)} are installed")


def _secrets(files: Sequence[Path]) -> Iterator[Check]:
    exposed = list(readable_by_others(files))
    for path, readers in exposed:
        yield Check(
            "passwords",
            "warning",
            f"{readers} can read {path}, which holds a password",
            f"Run: chmod 600 {path}",
        )
    if not exposed:
        yield Check("passwords", "ok", "other users cannot read the files with passwords")


def _repository(location: Location | None, labels: list[str], probe: bool) -> Iterator[Check]:
    """Check the repository; add what is wrong with the labels of its points to `labels`.

    `probe`: also try out the object store that it is in.
    """
    if location is None:
        yield Check(
            "repository", "failed", "no repository is named", "Name it with --repo FOLDER or in PITR_REPO."
        )
        return
    try:
        with Repository.open(location) as repository:
            points, vms = 0, repository.catalog.vms()
            for vm in vms:
                backups = repository.catalog.points(vm.id)
                labels += _wrong_labels(backups)
                points += len(backups)
            lock, of_keys = repository.lock, check_keys(repository)
            protection = protection_status(repository, vms, times.now(), ask=True)
    except PitrError as error:
        yield Check("repository", "failed", error.message, error.advice)
        return
    where = locations.text(location)
    if isinstance(location, Path) and not os.access(location, os.W_OK):
        yield Check(
            "repository",
            "warning",
            f"{where} is not writable: pitr cannot store backups there",
            "Make the user that runs pitr its owner.",
        )
    else:
        yield Check(
            "repository", "ok", f"{where} holds {counted(points, 'point')} of {counted(len(vms), 'VM')}"
        )
    yield from of_keys
    if protection is not None:
        status: CheckStatus = "warning" if protection.advice else "ok"
        yield Check("protection", status, protection.words, protection.advice)
    if not isinstance(location, Path):
        yield from trial(location, lock) if probe else (Check("object store", "skipped", "not requested"),)
        return
    usage = shutil.disk_usage(location)
    scarce = usage.free < _FREE_BYTES or usage.free < usage.total * _FREE_PART
    yield Check(
        "free space",
        "warning" if scarce else "ok",
        f"{human_size(usage.free)} of {human_size(usage.total)} are free on the repository's file system",
        "Free some space, or remove old points with 'pitr prune'." if scarce else "",
    )


def _engine(
    configure: Configure, probe: bool, storage_domain: str | None, labels: Sequence[str]
) -> Iterator[Check]:
    """Check the engine. `labels` tell what is wrong with the labels of points; its clock made them."""
    try:
        config = configure()
    except PitrError as error:
        yield Check("engine", "failed", error.message, error.advice)
        yield from _clock_alone(labels)
        return
    yield _checked("certificate", lambda: _certificate(config))
    try:
        engine = Engine(config).__enter__()
    except PitrError as error:
        yield Check("login", "failed", error.message, error.advice)
        yield from _clock_alone(labels)
        return
    with engine:
        yield Check(
            "login", "ok", f"{config.username} at {engine.where}, an engine of version {engine.version}"
        )
        yield _checked("clock", lambda: _clock(engine, labels))
        yield _checked("VMs", lambda: _vms(engine))
        domains: list[StorageDomain] = []
        yield _checked("storage", lambda: _storage(engine, domains))
        if probe:
            yield from _probe(engine, domains, storage_domain)
        else:
            yield Check("data path", "skipped", "not requested")


def _checked(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except PitrError as error:
        return Check(name, "failed", error.message, error.advice)


def _certificate(config: EngineConfig) -> Check:
    end = certificate_end(config)
    if end is None:
        return Check(
            "certificate",
            "warning",
            "pitr does not check the engine's certificate: an attacker in between could read the password",
            "Give the engine's CA with --cafile instead of --insecure.",
        )
    soon = end - times.now() < timedelta(days=_CERTIFICATE_DAYS)
    return Check(
        "certificate",
        "warning" if soon else "ok",
        f"the engine's certificate is trusted {'but expires on' if soon else 'until'} {times.for_people(end)}",
        "Renew it with engine-setup." if soon else "",
    )


def _wrong_labels(backups: Sequence[Backup]) -> list[str]:
    """Describe labels of points that a wrong clock made: in the future, or earlier than an older point's."""
    limit = times.now() + CLOCK_TOLERANCE
    wrong = [
        f"VM {printable(backup.vm.name)}: the point of {times.for_people(backup.point)} is in the future"
        for backup in backups
        if backup.point > limit
    ]
    return wrong + [
        f"VM {printable(backup.vm.name)}: the point of {times.for_people(backup.point)} is based on the point of "
        f"{times.for_people(parent.point)}, so its label is too early or the other is too late"
        for backup, parent in labelled_before_parent(backups)
    ]


def _clock(engine: Engine, labels: Sequence[str]) -> Check:
    time = engine_time(engine)
    if time is None:
        return Check("clock", "warning", "; ".join(("the engine does not report its time", *_few(labels))))
    difference = skew_in_words(time - times.now())
    if difference is not None or labels:
        return Check(
            "clock",
            "warning",
            "; ".join((*([difference] if difference else []), *_few(labels))),
            "The engine's clock dates the points: synchronize both clocks by NTP."
            if difference
            else _LABELS_ADVICE,
        )
    return Check("clock", "ok", "this machine and the engine agree on the time")


def _clock_alone(labels: Sequence[str]) -> Iterator[Check]:
    """Check the labels of points without the engine."""
    if labels:
        yield Check("clock", "warning", "; ".join(_few(labels)), _LABELS_ADVICE)


def _few(labels: Sequence[str]) -> list[str]:
    more = [f"and {len(labels) - _LABELS_SHOWN} more such points"] if len(labels) > _LABELS_SHOWN else []
    return [*labels[:_LABELS_SHOWN], *more]


def _vms(engine: Engine) -> Check:
    count = len(list_vms(engine))
    if count == 0:
        return Check(
            "VMs",
            "warning",
            "the user sees no VMs",
            "Give the user a role with backup permissions on the VMs.",
        )
    return Check("VMs", "ok", f"the user sees {counted(count, 'VM')}")


def _storage(engine: Engine, usable: list[StorageDomain]) -> Check:
    usable += active_data_domains(engine)
    if not usable:
        return Check(
            "storage",
            "warning",
            "the user sees no active data storage domain: pitr can restore disks to files only",
            "Give the user permission to create disks on a storage domain.",
        )
    names = ", ".join(printable(domain.name) for domain in usable)
    return Check("storage", "ok", f"active data storage domains: {names}")


# The path of the data


def _probe(engine: Engine, domains: list[StorageDomain], wanted: str | None) -> Iterator[Check]:
    """Check the path of the data with a disk on the `wanted` storage domain, or on any."""
    if wanted is None and not domains:
        yield Check("data path", "skipped", "there is no storage domain for a probe disk")
        return
    known = [(domain.id, domain.name, domain) for domain in domains]
    domain = domains[0] if wanted is None else by_id_or_name(wanted, "storage domains", known)
    if domain is None:
        listed = ", ".join(printable(domain.name) for domain in domains) or "none"
        yield Check(
            "data path",
            "failed",
            f"there is no active data storage domain {wanted!r}",
            f"There are: {listed}.",
        )
        return
    yield from _data_path(engine, domain)


def _data_path(engine: Engine, domain: StorageDomain) -> Iterator[Check]:
    try:
        with _probe_disk(engine, domain) as disk, start_upload(engine, disk.id) as transfer:
            yield Check("permissions", "ok", f"the user can create disks on {domain.name} and transfer them")
            address = imageio_address(engine, transfer)
            yield from _routes(address)
            source = MemorySource(os.urandom(_PROBE_SIZE))
            copy(source, ImageioSink(address, reads_zero=True))
            verifier = Verifier(1)
            verifier.check_on_server(disk.id, disk.name, source, address)
            yield Check("data path", "ok", "a probe disk was written and read back with the same checksum")
    except PitrError as error:
        yield Check("data path", "failed", error.message, error.advice)


@contextmanager
def _probe_disk(engine: Engine, domain: StorageDomain) -> Iterator[Disk]:
    disk = create_disk(
        engine,
        NewDisk(
            name=f"pitr-doctor-{uuid.uuid4().hex[:8]}",
            size=_PROBE_SIZE,
            format="cow",
            sparse=True,
            storage_domain_id=domain.id,
            backup_enabled=False,
            description="Temporary probe disk of pitr doctor",
        ),
    )
    try:
        yield disk
    except BaseException:
        # A cancelled upload has already deleted the disk. Report the first failure, not this one.
        with suppress(PitrError):
            delete_disk(engine, disk.id)
        raise
    delete_disk(engine, disk.id)


def _routes(address: ImageioAddress) -> Iterator[Check]:
    """Check which of the two routes to the host work from this machine."""
    direct = _reach(replace(address, proxy_url=None))
    if isinstance(direct, PitrError):
        proxy = _reach(replace(address, transfer_url=address.urls[-1], proxy_url=None))
        if address.proxy_url is None or isinstance(proxy, PitrError):
            yield Check("imageio", "failed", direct.message, direct.advice)
        else:
            yield Check(
                "imageio",
                "warning",
                f"the host at {address.host} is reachable only through the engine's proxy, which is slower",
                "Open port 54322 on the hosts for this machine.",
            )
        return
    yield Check(
        "imageio",
        "ok",
        f"ovirt-imageio at {address.host} answers"
        + (" on this machine: data goes through its unix socket" if direct else ""),
    )


def _reach(address: ImageioAddress) -> bool | PitrError:
    """Return whether the daemon's unix socket is on this machine, or the error if the daemon is unreachable."""
    try:
        # Do not wait between attempts: a person is waiting for the result.
        return ask(address, "report its options", ImageioSession.is_local, sleep=lambda pause: None)
    except ImageioError as error:
        return error
