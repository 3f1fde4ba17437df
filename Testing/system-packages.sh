#!/bin/sh
# Sees to what pip cannot install: Python's venv, a way to draw without a screen, the libraries and a font that Qt needs for
# the tests of the panel, and CMake for the packaging test. Installs what is missing where it may, else says in one line how
# to. Only a missing venv is an error: a picture that cannot be drawn, or a test that lacks Qt or CMake, is skipped by name.

missing=""
need() { missing="$missing $1"; }
has_library() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p 2>/dev/null; } | grep -q "$1"; }

# Mesa's drivers: swrast_dri.so up to Debian 12, libgallium from 13 on.
has_mesa() {
    for file in /usr/lib/*/dri/swrast_dri.so /usr/lib/*/libgallium-*.so; do
        [ -e "$file" ] && return 0
    done
    return 1
}

python=${PYTHON:-python3}
"$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv
if [ "$(uname -s)" = Linux ]; then
    has_library libOSMesa.so.8 || has_mesa || need libgl1-mesa-dri
    has_library libEGL.so.1 || need libegl1
    has_library libGL.so.1 || need libgl1
    has_library libxkbcommon.so.0 || need libxkbcommon0
    has_library libfontconfig.so.1 || need libfontconfig1
    has_library libglib-2.0.so.0 || need libglib2.0-0
    has_library libdbus-1.so.3 || need libdbus-1-3
    find /usr/share/fonts /usr/local/share/fonts -name '*.[ot]tf' 2>/dev/null | grep -q . || need fonts-dejavu-core
fi
command -v cmake >/dev/null 2>&1 || need cmake
command -v make >/dev/null 2>&1 || need make

[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing system packages:$missing"
    # A list that is a day old or missing leads to packages that are gone.
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 && exit 0
    echo "The system packages could not be installed."
fi
echo "Missing system packages. Please run:  sudo apt-get install -y$missing"
case "$missing" in *python3-venv*) exit 1 ;; esac
exit 0
