# SPDX-License-Identifier: GPL-2.0-or-later
"""Points in time as sources: one disk as it was, a chain as a stream, the difference of two points."""
