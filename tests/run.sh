#!/usr/bin/env bash
# Sets up a Python environment and runs the test suite in two processes. Arguments go to pytest, and the last one counts:
#
#   bash tests/run.sh tests/data -x
#   bash tests/run.sh -n 0 --pdb        in this process alone
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh requirements-dev.txt
exec "$PYTHON" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
