# SPDX-License-Identifier: GPL-2.0-or-later
"""Read and write disks through ovirt-imageio."""
