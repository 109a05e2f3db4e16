#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Install pitr into a virtual environment of its own: from a bundle without internet, or from a checkout with it.
set -eu

usage() {
    cat <<'EOF'
Usage: sh install.sh [--to FOLDER] [--link FOLDER] [--python PROGRAM] [--extras NAME,NAME...] [--editable]

  --to FOLDER       create the virtual environment here. Default: /usr/local/pitr
  --link FOLDER     link the program pitr into this folder, and its manual pages into share/man beside it. Default:
                    /usr/local/bin; "" makes no link
  --python PROGRAM  use this Python, 3.11 or later. Default: the newest one that the machine has
  --extras NAMES    also install what these extras need, for example files,gateway
  --editable        from a checkout: run pitr from it, for developers

Run it again to update pitr. From a bundle ('make bundle') it uses no network.
EOF
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# "dnf install X", "apt-get install Y": the packages in the words of this machine.
packages() { # DEBIAN ENTERPRISE_LINUX
    if command -v dnf >/dev/null 2>&1; then echo "dnf install $2"; else echo "apt-get install $1"; fi
}

here=$(cd "$(dirname "$0")" && pwd)
to=/usr/local/pitr link=/usr/local/bin python='' extras='' editable=''
while [ $# -gt 0 ]; do
    case $1 in
        --to | --link | --python | --extras)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case $1 in
                --to) to=$2 ;;
                --link) link=$2 ;;
                --python) python=$2 ;;
                --extras) extras="[$2]" ;;
            esac
            shift 2 ;;
        --editable) editable=--editable; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

if [ -n "$python" ]; then
    new_enough "$python" || fail "$python is not Python 3.11 or later"
else
    # A bundle is for one version of Python: prefer that one.
    wanted=$(sed -n 's/^python=//p' "$here/BUILT_FOR" 2>/dev/null || :)
    for program in ${wanted:+python$wanted} python3.14 python3.13 python3.12 python3.11 python3; do
        if new_enough "$program"; then python=$program; break; fi
    done
    [ -n "$python" ] || fail "Python 3.11 or later is missing: $(packages 'python3 python3-venv' python3.11)"
fi
"$python" -c 'import ensurepip, venv' 2>/dev/null \
    || fail "the venv module of $python is missing: $(packages python3-venv python3.11)"

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

check_bundle() {
    built="Python $(sed -n 's/^python=//p' "$here/BUILT_FOR") on $(sed -n 's/^machine=//p' "$here/BUILT_FOR")"
    [ "$built" = "Python $version on $(uname -m)" ] \
        || fail "this bundle is for $built, and this is Python $version on $(uname -m): make it on a machine like this one"
    glibc=$(sed -n 's/^glibc=//p' "$here/BUILT_FOR")
    found=$("$python" -c 'import platform; print(platform.libc_ver()[1])')
    [ "$(printf '%s\n' "$glibc" "$found" | sort -V | head -n 1)" = "$glibc" ] \
        || fail "this bundle is for glibc $glibc or later, and this machine has $found: make it on a machine like this one"
    (cd "$here" && sha256sum --quiet --check SHA256SUMS) || fail "the bundle is damaged: copy it again"
}

# pip compiles ovirt-imageio (C) and ovirt-engine-sdk-python (C, with libxml2): they have no wheels.
check_compiler() {
    missing=
    command -v "${CC:-cc}" >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || missing="$missing, a C compiler"
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ -e "$include/Python.h" ] || missing="$missing, Python.h"
    [ -e /usr/include/libxml2/libxml/xmlwriter.h ] || missing="$missing, the headers of libxml2"
    [ -z "$missing" ] || fail "pip must compile two packages, and these are missing: ${missing#, }. Install them:" \
        "$(packages 'gcc python3-dev libxml2-dev' "gcc python$version-devel libxml2-devel")"
}

if [ -d "$here/wheels" ]; then
    check_bundle
    # The bundle holds what these extras need.
    held=$(sed -n 's/^extras=//p' "$here/BUILT_FOR")
    extras=${extras:-${held:+[$held]}}
    set -- --isolated --no-index --find-links "$here/wheels" "pitr$extras"
else
    checkout=$(dirname "$here")
    [ -e "$checkout/pyproject.toml" ] || fail "neither a bundle nor a checkout of pitr is here: $here"
    check_compiler
    # Older versions of pip would build without it in a way that they call deprecated.
    set -- --use-pep517 $editable "$checkout$extras"
fi

# A virtual environment of another Python cannot be updated. Nothing else is ever cleared.
clear=
if [ -e "$to/pyvenv.cfg" ]; then
    old=$("$to/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || :)
    [ "$old" = "$version" ] || clear=--clear
elif [ -d "$to" ] && [ -n "$(ls -A "$to")" ]; then
    fail "$to is not empty and no virtual environment: name another folder with --to"
fi
"$python" -m venv $clear "$to" || fail "cannot create $to: run this as root, or name another folder with --to"
"$to/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade "$@" \
    || fail "pip failed: its last lines above say why"
"$to/bin/python" -c 'import ovirtsdk4, ovirt_imageio, pycurl' 2>/dev/null \
    || fail "the oVirt libraries cannot be loaded: $("$to/bin/python" -c 'import ovirtsdk4, ovirt_imageio, pycurl' 2>&1 | tail -n 1)." \
        "Install libxml2: $(packages libxml2 libxml2)"
if [ -n "$link" ]; then
    mkdir -p "$link" && ln -sf "$to/bin/pitr" "$link/pitr" || fail "cannot write to $link: run this as root, or use --link"
    # man looks for pages beside the folders of PATH.
    pages=$(dirname "$link")/share/man/man1
    if mkdir -p "$pages" 2>/dev/null && [ -w "$pages" ]; then
        for page in "$pages"/pitr.1 "$pages"/pitr-*.1; do
            # A page of a command that no longer exists.
            if [ -L "$page" ] && [ ! -e "$page" ]; then rm -f "$page"; fi
        done
        for page in "$to"/share/man/man1/pitr.1 "$to"/share/man/man1/pitr-*.1; do
            if [ -e "$page" ]; then ln -sf "$page" "$pages/"; fi
        done
    fi
fi
echo "Installed: $("$to/bin/pitr" --version) in $to${link:+, linked as $link/pitr}"
