# SPDX-License-Identifier: GPL-2.0-or-later
"""The host side of the local oVirt: real ovirt-imageio, real qemu."""

from pitr.lab.host.guest import Guest
from pitr.lab.host.host import Host
from pitr.lab.host.volume import HostVolume

__all__ = ["Guest", "Host", "HostVolume"]
