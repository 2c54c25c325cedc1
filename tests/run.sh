#!/usr/bin/env bash
# Sets up a Python environment and runs the test suite. Arguments go to pytest: bash tests/run.sh tests/data -x
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh requirements-dev.txt
exec "$PYTHON" -m pytest "$@"
