#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Usage: bundle.sh PYTHON FOLDER [EXTRAS]
# Write one archive to FOLDER with wheels of pitr and of all that it needs, and an installer. It works on machines with
# the same version of Python, the same processor and the same or a newer glibc.
set -eu

python=$1 folder=$2 extras=${3:-}
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$("$python" -c 'import runpy, sys; print(runpy.run_path(sys.argv[1])["__version__"])' "$checkout/pitr/version.py")
python_version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
machine=$(uname -m)
name="pitr-$version-python$python_version-$machine"
bundle="$work/$name"
mkdir -p "$bundle/wheels"

# A build leaves files in the folder of its sources.
mkdir "$work/sources"
for part in pitr schema pyproject.toml README.md LICENSE; do cp -R "$checkout/$part" "$work/sources/"; done
mkdir "$work/sources/docs"
cp -R "$checkout/docs/man" "$work/sources/docs/"

echo "Collecting wheels for Python $python_version on $machine" >&2
"$python" -m pip wheel --quiet --disable-pip-version-check --wheel-dir "$bundle/wheels" \
    "$work/sources${extras:+[$extras]}" >&2

cp "$checkout/packaging/install.sh" "$checkout/LICENSE" "$checkout/README.md" "$bundle/"
{
    echo "version=$version"
    echo "python=$python_version"
    echo "machine=$machine"
    echo "glibc=$("$python" -c 'import platform; print(platform.libc_ver()[1])')"
    echo "extras=$extras"
} > "$bundle/BUILT_FOR"
(cd "$bundle" && find . -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)

mkdir -p "$folder"
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX-w -czf "$folder/$name.tar.gz.new" "$name"
mv "$folder/$name.tar.gz.new" "$folder/$name.tar.gz"
echo "$folder/$name.tar.gz"
