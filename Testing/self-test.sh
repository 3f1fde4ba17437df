#!/bin/sh
# Runs the module's self-test inside a real Slicer, as ctest does in a build of the extension; the exit code says how it went.
#
#     sh Testing/self-test.sh path/to/Slicer

set -eu
slicer=${1:?"name the Slicer executable"}
module=$(cd "$(dirname "$0")/../HyperPredictReg" && pwd)

# In testing mode Slicer keeps no settings and ends after the script, with exit code 1 if it raised anything.
set -- "$slicer" --no-splash --testing --additional-module-paths "$module" \
    --python-code "import slicer.testing; slicer.testing.runUnitTest([r'$module'], 'HyperPredictReg')"
[ -n "${DISPLAY:-}" ] || set -- xvfb-run --auto-servernum --server-args="-screen 0 1600x1200x24" "$@"
exec "$@"
