# SPDX-License-Identifier: GPL-2.0-or-later
"""Serving: points to NBD clients, the catalog to a browser."""
