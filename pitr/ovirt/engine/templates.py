# SPDX-License-Identifier: GPL-2.0-or-later
"""Find the VMs that were made from the same template."""

from __future__ import annotations

import threading
import time
from collections.abc import Set
from weakref import WeakKeyDictionary

from pitr.ovirt.engine.connection import Engine
from pitr.ovirt.engine.vms import list_vms

#: A run of many VMs asks once in this time.
_KEPT_S = 600.0

_lock = threading.Lock()
_known: WeakKeyDictionary[Engine, tuple[float, dict[str, frozenset[str]]]] = WeakKeyDictionary()


def vms_of_templates(engine: Engine, template_ids: Set[str]) -> frozenset[str]:
    """Return the ids of the VMs that come from one of these templates, as far as the user can see them.

    The engine's answer is used for ten minutes. Raises EngineError.
    """
    if not template_ids:
        return frozenset()
    with _lock:
        asked, templates = _known.get(engine, (0.0, {}))
        if not templates or time.monotonic() - asked > _KEPT_S:
            templates = {vm.id: vm.template_ids for vm in list_vms(engine)}
            _known[engine] = time.monotonic(), templates
    return frozenset(vm_id for vm_id, ids in templates.items() if ids & template_ids)
