# SPDX-License-Identifier: GPL-2.0-or-later
"""Back up one VM or several, into the repository or into a pipe."""
