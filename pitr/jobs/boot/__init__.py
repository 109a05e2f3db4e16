# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot a point on this machine: in a drill, which looks for a proof, and for a person."""
