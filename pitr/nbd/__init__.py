# SPDX-License-Identifier: GPL-2.0-or-later
"""The NBD protocol: a client and a server."""
