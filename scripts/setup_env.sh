# Sourced by scripts/demo.sh and tests/run.sh from the repository's root: a Python with everything installed, as $PYTHON.
#
#   . scripts/setup_env.sh requirements.txt
#
# An active virtual environment (or conda's) is used as it is; otherwise .venv is made. A stamp remembers what was
# installed, so that a second start installs nothing.

requirements=$1
if [ -n "${VIRTUAL_ENV:-}" ]; then
    PYTHON="$VIRTUAL_ENV/bin/python"
elif [ -n "${CONDA_PREFIX:-}" ]; then
    PYTHON="$CONDA_PREFIX/bin/python"
else
    if [ ! -x .venv/bin/python ]; then
        echo "making .venv"
        python3 -m venv .venv
    fi
    PYTHON="$PWD/.venv/bin/python"
fi
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "error: Python 3.10 or newer is needed, $PYTHON is older" >&2
    exit 2
}
stamp="$("$PYTHON" -c 'import sys; print(sys.prefix)')/.installed-$(basename "$requirements" .txt)"
wanted=$(cat requirements*.txt constraints.txt | cksum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "installing $requirements"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -c constraints.txt -r "$requirements"
    echo "$wanted" > "$stamp"
fi
