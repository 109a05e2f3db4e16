# SPDX-License-Identifier: GPL-2.0-or-later
"""What sealing costs: backup, restore, random reads and size of a sealed repository over those of an open one.

python bench/sealed.py [MiB]
"""

from __future__ import annotations

MiB = 1 << 20
