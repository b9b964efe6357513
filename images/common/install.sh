#!/bin/sh
# Install the locked dependencies into /opt/halcyon/venv and prepare the image to run programs only. It runs in one layer, so that the layer
# does not contain the installer. Usage: install.sh UV_VERSION, with requirements.txt beside this script.
set -eu
here=$(dirname "$0")
installer=$(mktemp -d)

python3 -m venv "$installer"
"$installer/bin/pip" install --quiet --no-cache-dir --disable-pip-version-check "uv==$1"
"$installer/bin/uv" venv --quiet --no-python-downloads --python python3 /opt/halcyon/venv
"$installer/bin/uv" pip install --quiet --no-cache --no-deps --require-hashes --python /opt/halcyon/venv --requirements "$here/requirements.txt"
rm -rf "$installer"

python3 "$here/finish.py" /opt/halcyon/venv/lib
python3 "$here/prepare.py"
