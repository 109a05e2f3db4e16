# SPDX-License-Identifier: GPL-2.0-or-later
"""Serve points to NBD clients, and the catalog to a browser."""
