# SPDX-License-Identifier: GPL-2.0-or-later
"""All that speaks oVirt: the engine's API, imageio's data path, and OVF documents."""
