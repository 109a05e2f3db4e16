# SPDX-License-Identifier: GPL-2.0-or-later
"""What sealing costs: backup, restore, random reads and size of a sealed repository over those of an open one.

python bench/sealed.py [MiB]
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from pitr.copier.copy import copy_all
from pitr.endpoints.images.memory import MemorySource
from pitr.endpoints.points.point import open_point
from pitr.jobs.imports.store_point import DiskToImport
from pitr.repository import Repository
from pitr.repository.sealing import identities
from pitr.repository.sealing.keys import Identity

MiB = 1 << 20
