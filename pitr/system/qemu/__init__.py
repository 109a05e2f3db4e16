# SPDX-License-Identifier: GPL-2.0-or-later
"""Start virtual machines in qemu on this host, isolated from the network, and observe them."""
