#!/usr/bin/env bash
# What a user's editor sees: `check.sh CHECKERS PYTHON` runs CHECKERS/pyright and CHECKERS/mypy on user.py against the
# jaxbias that is installed for PYTHON, then asks pyright how much of all public names has a type.
set -euo pipefail
checkers=$(cd "$1" && pwd) python=$2 here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) # away from the source tree, which would be read in place of the installed package
trap 'rm -rf "$work"' EXIT
cp "$here/user.py" "$work"
cd "$work"
"$checkers/pyright" --pythonpath "$python" user.py
"$checkers/mypy" --python-executable "$python" --strict user.py
# --verifytypes exits with 1 unless everything is known, so what counts is the score that it writes
PATH="$(dirname "$python"):$PATH" "$checkers/pyright" --verifytypes jaxbias --ignoreexternal --outputjson >types.json || true
"$python" "$here/score.py" types.json
