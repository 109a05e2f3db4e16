# SPDX-License-Identifier: GPL-2.0-or-later
"""Route the requests of the engine's API to functions."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable

from pitr.lab.engine import (
    backups,
    bodies,
    checkpoints,
    disk_copies,
    disks,
    events,
    refusals,
    render,
    transfers,
    vms,
    xml,
)
from pitr.lab.engine.installation import Installation
from pitr.lab.engine.requests import ApiAnswer, ApiRequest
from pitr.lab.engine.search import matches
from pitr.lab.engine.state import VM, Disk, StorageDomain
from pitr.lab.engine.xml import element

Handler = Callable[["Routes", ApiRequest, "re.Match[str]"], ApiAnswer]
_TABLE: list[tuple[str, re.Pattern[str], Handler]] = []


def _route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Let the decorated method answer `method` on paths that match `pattern`; `{vm}` stands for an id."""
    expression = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))

    def add(handler: Handler) -> Handler:
        _TABLE.append((method, expression, handler))
        return handler

    return add


def _collection(tag: str, members: Iterable[ET.Element]) -> ApiAnswer:
    return ApiAnswer(200, element(tag, list(members)))


def _created(status: int, root: ET.Element) -> ApiAnswer:
    return ApiAnswer(status, root, root.get("href"))


def _done() -> ApiAnswer:
    return ApiAnswer(200, render.action())


class Routes:
    """Answers requests from the installation's state."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._state = installation.state

    def answer(self, request: ApiRequest) -> ApiAnswer:
        """Return the answer to `request`. Raises Refusal; 404 if the entity does not exist."""
        for method, pattern, handler in _TABLE:
            match = pattern.fullmatch(request.path)
            if match is not None and method == request.method:
                return handler(self, request, match)
        raise refusals.Missing("resource", request.path)

    @_route("GET", "/?")
    def _api(self, _request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        return ApiAnswer(200, render.api(self._installation))

    # VMs

    @_route("GET", "/vms")
    def _vms(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            found = [vm for vm in self._state.vms.values() if self._fits(request, vm)]
            shown = [self._render_vm(request, vm) for vm in found]
        return _collection("vms", shown)

    @_route("POST", "/vms")
    def _add_vm(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        root = request.document("vm")
        name = xml.text(root, "name")
        if xml.reference(root, "cluster") is None:
            raise refusals.incomplete("Vm", "cluster.id|name")
        cluster = xml.reference(root, "cluster")
        if cluster not in {self._state.cluster_id, "Default"}:
            raise refusals.Missing("cluster", str(cluster))
        document = xml.text(root, "initialization/configuration/data")
        if document is None:
            if name is None:
                raise refusals.incomplete("Vm", "name")
            vms.check_name(name, "add")
            vm = vms.add(self._installation, name, description=xml.text(root, "description") or "")
        else:
            if xml.text(root, "initialization/configuration/type") != "ovf":
                raise refusals.incomplete("Vm", "initialization.configuration.type")
            regenerate = xml.truth(xml.text(root, "initialization/regenerate_ids")) or False
            vm = vms.add_from_ovf(self._installation, document, regenerate_ids=regenerate, name=name)
        return _created(201, render.vm(self._installation, vm))

    @_route("GET", "/vms/{vm}")
    def _vm(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            return ApiAnswer(200, self._render_vm(request, self._state.vm(path["vm"])))

    @_route("DELETE", "/vms/{vm}")
    def _remove_vm(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        vms.remove(self._installation, path["vm"], detach_only=request.flag("detach_only"))
        return _done()

    @_route("POST", "/vms/{vm}/(?P<action>start|shutdown|stop)")
    def _start_or_stop_vm(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        vms.ACTIONS[path["action"]](self._installation, path["vm"])
        return _done()

    @_route("GET", "/vms/{vm}/tags")
    def _tags(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            return _collection("tags", [render.tag(name) for name in self._state.vm(path["vm"]).tags])

    @_route("GET", "/vms/{vm}/snapshots")
    def _snapshots(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            vm = self._state.vm(path["vm"])
            shown = [render.snapshot(vm.id, vm.id, "Active VM", "active")]
            backup = self._state.running_backup(vm.id)
            now = [backup.snapshot_id] if backup is not None and backup.snapshot_id is not None else []
            for snapshot_id in [*vm.snapshots_left, *now]:
                name = "Auto-generated for Backup VM"
                shown.append(render.snapshot(vm.id, snapshot_id, name, "regular"))
        return _collection("snapshots", shown)

    # Disk attachments

    @_route("GET", "/vms/{vm}/diskattachments")
    def _attachments(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            vm = self._state.vm(path["vm"])
            return _collection(
                "disk_attachments", [render.attachment(vm.id, each) for each in vm.attachments.values()]
            )

    @_route("GET", "/vms/{vm}/diskattachments/{disk}")
    def _attachment(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            vm = self._state.vm(path["vm"])
            if path["disk"] not in vm.attachments:
                raise refusals.Missing("disk attachment", path["disk"])
            return ApiAnswer(200, render.attachment(vm.id, vm.attachments[path["disk"]]))

    @_route("POST", "/vms/{vm}/diskattachments")
    def _attach(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        root = request.document("disk_attachment")
        disk = root.find("disk")
        if disk is None or disk.get("id") is None:
            raise refusals.incomplete("DiskAttachment", "disk.id")
        attachment = bodies.new_attachment(root, str(disk.get("id")))
        vms.attach(self._installation, path["vm"], attachment)
        return _created(201, render.attachment(path["vm"], attachment))

    @_route("PUT", "/vms/{vm}/diskattachments/{disk}")
    def _update_attachment(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        wanted = bodies.changed_attachment(request.document("disk_attachment"))
        changed = vms.change_attachment(self._installation, path["vm"], path["disk"], wanted)
        return ApiAnswer(200, render.attachment(path["vm"], changed))

    @_route("DELETE", "/vms/{vm}/diskattachments/{disk}")
    def _detach(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        delete = not request.flag("detach_only", default=True)
        vms.detach(self._installation, path["vm"], path["disk"], delete=delete)
        return _done()

    # Backups

    @_route("GET", "/vms/{vm}/backups")
    def _backups(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            vm = self._state.vm(path["vm"])
            self._state.forget_old()
            found = [each for each in self._state.backups.values() if each.vm_id == vm.id]
            return _collection("backups", [render.backup(self._installation, each) for each in found])

    @_route("POST", "/vms/{vm}/backups")
    def _start_backup(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        backup = backups.start(self._installation, path["vm"], bodies.new_backup(request))
        with self._state.lock:
            return _created(201, render.backup(self._installation, backup))

    @_route("GET", "/vms/{vm}/backups/{backup}")
    def _backup(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            backup = self._state.backup(path["vm"], path["backup"])
            return ApiAnswer(200, render.backup(self._installation, backup))

    @_route("GET", "/vms/{vm}/backups/{backup}/disks")
    def _backup_disks(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        shown = []
        with self._state.lock:
            for disk_id, mode in backups.disks(self._installation, path["vm"], path["backup"]):
                if disk_id in self._state.disks:
                    shown.append(render.backup_disk(self._installation, self._state.disks[disk_id], mode))
        return _collection("disks", shown)

    @_route("POST", "/vms/{vm}/backups/{backup}/finalize")
    def _finalize_backup(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        backups.finalize(self._installation, path["vm"], path["backup"])
        return _done()

    # Checkpoints

    @_route("GET", "/vms/{vm}/checkpoints")
    def _checkpoints(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            chain = self._state.vm(path["vm"]).checkpoints
            return _collection("checkpoints", [render.checkpoint(each) for each in chain])

    @_route("GET", "/vms/{vm}/checkpoints/{checkpoint}")
    def _checkpoint(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            return ApiAnswer(200, render.checkpoint(self._state.checkpoint(path["vm"], path["checkpoint"])))

    @_route("GET", "/vms/{vm}/checkpoints/{checkpoint}/disks")
    def _checkpoint_disks(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            checkpoint = self._state.checkpoint(path["vm"], path["checkpoint"])
            members = [self._state.disk(disk_id) for disk_id in checkpoint.disk_ids]
            return _collection("disks", [render.disk(self._installation, each) for each in members])

    @_route("DELETE", "/vms/{vm}/checkpoints/{checkpoint}")
    def _delete_checkpoint(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        checkpoints.delete(self._installation, path["vm"], path["checkpoint"])
        return _done()

    # Image transfers

    @_route("GET", "/imagetransfers")
    def _transfers(self, _request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            self._state.forget_old()
            found = self._state.transfers.values()
            return _collection(
                "image_transfers", [render.transfer(self._installation, each) for each in found]
            )

    @_route("POST", "/imagetransfers")
    def _start_transfer(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        transfer = transfers.start(self._installation, bodies.new_transfer(request))
        with self._state.lock:
            return _created(201, render.transfer(self._installation, transfer))

    @_route("GET", "/imagetransfers/{transfer}")
    def _transfer(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            return ApiAnswer(200, render.transfer(self._installation, self._state.transfer(path["transfer"])))

    @_route("POST", "/imagetransfers/{transfer}/(?P<action>finalize|cancel)")
    def _end_transfer(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        transfers.ask(self._installation, path["transfer"], path["action"])
        return _done()

    @_route("POST", "/imagetransfers/{transfer}/extend")
    def _extend_transfer(self, _request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        # The engine accepts every call, but does not reset the inactivity timeout.
        return _done()

    @_route("POST", "/imagetransfers/{transfer}/pause")
    def _pause_transfer(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        transfers.pause(self._installation, path["transfer"])
        return _done()

    @_route("POST", "/imagetransfers/{transfer}/resume")
    def _resume_transfer(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        transfers.resume(self._installation, path["transfer"])
        return _done()

    # Disks

    @_route("GET", "/disks")
    def _disks(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            found = [disk for disk in self._state.disks.values() if self._fits(request, disk)]
            return _collection("disks", [render.disk(self._installation, disk) for disk in found])

    @_route("POST", "/disks")
    def _add_disk(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        wanted = bodies.new_disk(request.document("disk"))
        disk = disks.create(self._installation, wanted, request.correlation_id)
        with self._state.lock:
            return _created(202, render.disk(self._installation, disk))

    @_route("GET", "/disks/{disk}")
    def _disk(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            return ApiAnswer(200, render.disk(self._installation, self._state.disk(path["disk"])))

    @_route("DELETE", "/disks/{disk}")
    def _delete_disk(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        disks.delete(self._installation, path["disk"])
        return _done()

    @_route("POST", "/disks/{disk}/copy")
    def _copy_disk(self, request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        # Like the engine, do not say the id of the new disk.
        disk_copies.start(self._installation, path["disk"], bodies.disk_copy(request), request.correlation_id)
        return _done()

    # The rest

    @_route("GET", "/hosts")
    def _hosts(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        # The lab's host has no hardware id, so no client runs "on" it.
        fields = {"hw_id": "", "datacenter": "Default", "status": "Up", "name": "host1"}
        fits = matches(request.search, fields, case_sensitive=False)
        return _collection("hosts", [render.host(self._installation)] if fits else [])

    @_route("GET", "/hosts/{host}")
    def _host(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        if path["host"] != self._state.host_id:
            raise refusals.Missing("host", path["host"])
        return ApiAnswer(200, render.host(self._installation))

    @_route("GET", "/clusters")
    def _clusters(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        fits = matches(request.search, {"name": "Default"}, case_sensitive=request.case_sensitive)
        return _collection("clusters", [render.cluster(self._installation)] if fits else [])

    @_route("GET", "/clusters/{cluster}")
    def _cluster(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        if path["cluster"] != self._state.cluster_id:
            raise refusals.Missing("cluster", path["cluster"])
        return ApiAnswer(200, render.cluster(self._installation))

    @_route("GET", "/clusters/{cluster}/networks")
    def _cluster_networks(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        if path["cluster"] != self._state.cluster_id:
            raise refusals.Missing("cluster", path["cluster"])
        with self._state.lock:
            shown = [render.network(self._installation, name) for name in self._state.networks]
        return _collection("networks", shown)

    @_route("GET", "/storagedomains/{domain}/diskprofiles")
    def _disk_profiles(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            domain = self._state.storage_domain(path["domain"])
            return _collection(
                "disk_profiles", [render.disk_profile(domain, each) for each in domain.profiles]
            )

    @_route("GET", "/diskprofiles/{profile}")
    def _disk_profile(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            for domain in self._state.storage_domains.values():
                if path["profile"] in domain.profiles:
                    return ApiAnswer(200, render.disk_profile(domain, path["profile"]))
        raise refusals.Missing("disk profile", path["profile"])

    @_route("GET", "/storagedomains")
    def _storage_domains(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            found = [each for each in self._state.storage_domains.values() if self._fits(request, each)]
            shown = [render.storage_domain(self._installation, each) for each in found]
        return _collection("storage_domains", shown)

    @_route("GET", "/storagedomains/{domain}")
    def _storage_domain(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            domain = self._state.storage_domain(path["domain"])
            return ApiAnswer(200, render.storage_domain(self._installation, domain))

    @_route("GET", "/datacenters")
    def _data_centers(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            names = [domain.name for domain in self._state.storage_domains.values()]
        fits = not request.search or any(
            matches(request.search, {"name": "Default", "storage.name": name}, case_sensitive=False)
            for name in names
        )
        return _collection("data_centers", [render.data_center(self._installation)] if fits else [])

    @_route("GET", "/datacenters/{center}")
    def _data_center(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        self._check_data_center(path)
        return ApiAnswer(200, render.data_center(self._installation))

    @_route("GET", "/datacenters/{center}/storagedomains")
    def _attached_domains(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        self._check_data_center(path)
        with self._state.lock:
            found = self._state.storage_domains.values()
            shown = [render.storage_domain(self._installation, each, in_data_center=True) for each in found]
        return _collection("storage_domains", shown)

    @_route("GET", "/datacenters/{center}/storagedomains/{domain}")
    def _attached_domain(self, _request: ApiRequest, path: re.Match[str]) -> ApiAnswer:
        self._check_data_center(path)
        with self._state.lock:
            domain = self._state.storage_domain(path["domain"])
            return ApiAnswer(200, render.storage_domain(self._installation, domain, in_data_center=True))

    @_route("GET", "/events")
    def _events(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        found = events.found(self._installation, request.search)
        maximum = int(request.query.get("max", len(found)))
        return _collection("events", [render.event(each) for each in found[:maximum]])

    @_route("GET", "/jobs")
    def _jobs(self, request: ApiRequest, _path: re.Match[str]) -> ApiAnswer:
        with self._state.lock:
            found = [
                job
                for job in self._state.jobs
                if matches(request.search, {"correlation_id": job.correlation_id, "status": job.status})
            ]
            return _collection("jobs", [render.job(job) for job in found])

    def _check_data_center(self, path: re.Match[str]) -> None:
        if path["center"] != self._state.data_center_id:
            raise refusals.Missing("data center", path["center"])

    def _render_vm(self, request: ApiRequest, vm: VM) -> ET.Element:
        nics = "nics" in request.query.get("follow", "").split(",")
        return render.vm(self._installation, vm, all_content=request.flag("all_content"), nics=nics)

    def _fits(self, request: ApiRequest, entity: VM | Disk | StorageDomain) -> bool:
        fields = {"id": entity.id, "name": entity.name}
        if isinstance(entity, StorageDomain):
            fields["status"] = "active" if entity.active else "maintenance"
            fields["type"] = "data"
        else:
            fields["alias"] = entity.name
            if isinstance(entity, VM) and "tag=" in request.search.replace(" ", ""):
                return any(
                    matches(
                        request.search, {**fields, "tag": tag, "status": entity.status}, case_sensitive=False
                    )
                    for tag in entity.tags
                )
            fields["status"] = entity.status
        return matches(request.search, fields, case_sensitive=request.case_sensitive)
