# SPDX-License-Identifier: GPL-2.0-or-later
"""Many machines: the same jobs as on one, carried out by workers of a Dask scheduler."""
