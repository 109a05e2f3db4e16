# SPDX-License-Identifier: GPL-2.0-or-later
"""The data path: a disk's bytes and extents through an ovirt-imageio transfer."""
