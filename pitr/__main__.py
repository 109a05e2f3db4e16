# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m pitr`."""

import sys

from pitr.cli.main import main

sys.exit(main())
