# SPDX-License-Identifier: GPL-2.0-or-later
"""Points as sources: one disk at a point, a chain as a stream, the difference of two points."""
