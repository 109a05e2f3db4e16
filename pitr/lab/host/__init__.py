# SPDX-License-Identifier: GPL-2.0-or-later
"""The host of the local oVirt, with a real ovirt-imageio and a real qemu."""

from pitr.lab.host.guest import Guest
from pitr.lab.host.host import Host
from pitr.lab.host.volume import HostVolume

__all__ = ["Guest", "Host", "HostVolume"]
