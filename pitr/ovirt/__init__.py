# SPDX-License-Identifier: GPL-2.0-or-later
"""Talk to oVirt: the engine's API, the data path through ovirt-imageio, and OVF documents."""
