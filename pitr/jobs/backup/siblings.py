# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the disk whose stored frames the first backup of a disk can use.

Siblings are the disk whose place the new one took, the disks of other VMs of the VM's template, or those of the VM that
the user names. Of each VM, pitr takes the newest point with a whole chain. Some frames all over the disk tell how much
a candidate shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from pitr import times
from pitr.copier.protocols import Source
from pitr.endpoints.points.sharing import SharedDisk, open_shared
from pitr.errors import BusyError, EngineError, NoFittingIdentity, NoSuchVM
from pitr.jobs import find
from pitr.jobs.backup.chain_present import damaged_chains
from pitr.jobs.point_order import newest_first
from pitr.model import Backup, Stream, VMName
from pitr.ovirt.engine import VM, Disk, Engine, vms_of_templates
from pitr.reporting import Notify
from pitr.repository import Repository, successions
from pitr.repository.damage import StoredDamage
from pitr.text import named, printable

#: At most this many points of a sibling are looked at, until one has a whole chain.
_POINTS = 3
#: At most this many disks are compared with the new disk, and how many frames of each.
_DISKS = 6
_FRAMES = 16
#: What the best disk lacks, the next ones may have: so many are used.
_MOST_USED = 3
#: At most this many VMs of a template are looked at, those with the newest points first.
_VMS = 12


@dataclass(frozen=True, slots=True)
class Siblings:
    """The disks of a VM's siblings, at their newest good points, newest first; any thread can use them.

    `disks` are the ids of the VM's disks that can share frames. `named`: the user named the sibling.
    """

    repository: Repository
    candidates: tuple[tuple[Backup, Stream], ...]
    disks: frozenset[str]
    named: bool
    notify: Notify

    def open_best(self, disk: Disk, source: Source) -> tuple[SharedDisk, ...]:
        """Open the disks of siblings that share most frames with `source`, which is `disk`, the best one first.

        The caller closes them.
        """
        if disk.id not in self.disks:
            return ()
        ranked = sorted(self.candidates, key=lambda each: _likeness(disk, each[1]), reverse=True)
        with ExitStack() as stack:
            found: list[tuple[float, SharedDisk]] = []
            for backup, stream in ranked[:_DISKS]:
                with suppress(StoredDamage, NoFittingIdentity):
                    shared = stack.enter_context(open_shared(self.repository, backup, stream))
                    equal, compared = shared.equal_frames(source, _FRAMES)
                    # The user knows better than a few frames.
                    if equal or self.named:
                        found.append((equal / max(compared, 1), shared))
                    if compared and equal == compared:
                        break
            found.sort(key=lambda each: each[0], reverse=True)
            best = tuple(shared for _, shared in found[:_MOST_USED])
            stack.pop_all()
        for _, shared in found[_MOST_USED:]:
            shared.close()
        for shared in best:
            self.notify(
                f"disk {printable(disk.name)} uses stored data that it has in common with disk "
                f"{printable(shared.stream.name)} of VM {printable(shared.backup.vm.name)}"
            )
        return best


@dataclass(frozen=True, slots=True)
class Search:
    """Finds the siblings of `vm`: the VM `like` (a name or id), or those of its template.

    Their points stay protected from removal until `held` is closed.
    """

    repository: Repository
    engine: Engine
    vm: VM
    like: str | None
    notify: Notify
    held: ExitStack

    def siblings_for(self, disks: Sequence[Disk], *, full: bool) -> Siblings | None:
        """Return the siblings for the first backup of some of the disks; None if there are none.

        A `full` is independent of other disks, unless the user names a sibling: then all disks are shared.
        """
        if full:
            wanted = frozenset(disk.id for disk in disks) if self.like is not None else frozenset()
        else:
            points = self.repository.catalog_of_vm(self.vm.id).points(self.vm.id)
            held = {stream.disk_id for backup in points for stream in backup.streams}
            wanted = frozenset(disk.id for disk in disks) - held
        if not wanted:
            return None
        if not self.repository.opens:
            if self.like is not None:
                self.notify("without an identity, no stored data can be compared, so none is shared")
            return None
        replaced = self._replaced(wanted) if not full else None
        points_of_siblings = [point for vm in self._vms() if (point := self._newest_good(vm)) is not None]
        points_of_siblings += [replaced] if replaced is not None else []
        points_of_siblings.sort(key=lambda point: point[0].point, reverse=True)
        candidates = tuple((backup, stream) for backup, streams in points_of_siblings for stream in streams)
        if not candidates:
            return None
        return Siblings(self.repository, candidates, wanted, self.like is not None, self.notify)

    def _replaced(self, wanted: Set[str]) -> tuple[Backup, Sequence[Stream]] | None:
        """Return the newest good disks whose places new disks of this VM took, in a restore or a rollback."""
        known = successions.of_vm(self.repository.store, self.vm.id)
        family = known.family(wanted) - wanted
        newest = self._newest_good(VMName(self.vm.id, self.vm.name)) if family else None
        if newest is None:
            return None
        backup, streams = newest
        return backup, [stream for stream in streams if stream.disk_id in family]

    def _vms(self) -> Iterator[VMName]:
        """Yield the siblings in the repository whose points are protected now."""
        catalog = self.repository.catalog
        if self.like is not None:
            try:
                vms = [find.vm_named(catalog, self.like)]
            except NoSuchVM:
                self.notify(
                    f"the repository has no point of VM {printable(self.like)}, so VM {printable(self.vm.name)} shares "
                    "no stored frames"
                )
                return
        else:
            of_template = self._of_template()
            vms = [vm for vm in catalog.vms() if vm.id in of_template] if of_template else []
        for vm in [vm for vm in vms if vm.id != self.vm.id][:_VMS]:
            try:
                self.held.enter_context(self.repository.reading_vm(vm))
            except BusyError as error:
                self.notify(f"no stored frames of VM {named(vm.name, vm.id)} are shared: {error.message}")
                continue
            yield vm

    def _of_template(self) -> Set[str]:
        # An engine need not tell the templates of its VMs.
        template_ids: Set[str] = getattr(self.vm, "template_ids", frozenset())
        try:
            return vms_of_templates(self.engine, template_ids)
        except EngineError as error:
            self.notify(
                f"pitr cannot list the VMs of the template, so no stored frames are shared: {error.message}"
            )
            return frozenset()

    def _newest_good(self, vm: VMName) -> tuple[Backup, Sequence[Stream]] | None:
        """Return the newest point of a VM with a whole chain, and its disks that have one."""
        points = self.repository.catalog_of_vm(vm.id).points(vm.id)
        for backup in newest_first(points, times.now())[:_POINTS]:
            with suppress(StoredDamage):
                damaged = damaged_chains(self.repository, backup, None)
                good = [stream for stream in backup.streams if stream.disk_id not in damaged]
                if good:
                    return backup, good
        return None


def _likeness(disk: Disk, stream: Stream) -> int:
    """Return how much alike the places of two disks in their VMs are."""
    settings = stream.settings
    return (
        4 * (disk.bootable == settings.bootable)
        + 2 * (disk.size == stream.size)
        + 2 * (disk.name == stream.name)
        + (disk.interface == settings.interface)
    )
