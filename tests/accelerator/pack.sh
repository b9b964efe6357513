#!/usr/bin/env bash
# Makes the folder of wheels that a machine with a GPU lacks: the packages of Halcyon's trainer for Python 3.12 on Linux and x86-64, in the
# versions of uv.lock. Left out are the packages that such a machine has in any case, and those that the script does not use.
#
#   bash tests/accelerator/pack.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.halcyon/accelerator/wheels}
uv=${UV:-$(command -v uv || ls "${HALCYON_CACHE:-$HOME/.cache/halcyon}"/uv-*/bin/uv | tail -n 1)}
there='jax|jaxlib|numpy|scipy|ml-dtypes|equinox|optax|tensorstore|transformers|opt-einsum|wadler-lindig|regex|pyarrow'
unused='sentencepiece|hf-xet|uvloop|aiofiles|simplejson|tensorboardx'
lacking=$(mktemp)
trap 'rm -f "$lacking"' EXIT
"$uv" export --quiet --frozen --extra trainer --extra kernels --no-emit-project --no-hashes --no-header --no-annotate |
  "$uv" pip compile --quiet --no-header --no-annotate --no-deps --python-version 3.12 --python-platform x86_64-manylinux_2_28 - |
  grep -vE "^($there|$unused)==" > "$lacking"
rm -rf "$folder" && mkdir -p "$folder"
platforms=(--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64)
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.12 --abi cp312 \
  --abi abi3 --abi none "${platforms[@]}" --dest "$folder" --requirement "$lacking"
tree=$(git ls-files -z --cached --others --exclude-standard | xargs -0 du -cb | tail -n 1 | cut -f 1)
wheels=$(du -cb "$folder"/*.whl | tail -n 1 | cut -f 1)
echo "$(find "$folder" -name '*.whl' | wc -l) wheels in $folder: $((wheels / 1000000)) MB; with the tree $(((wheels + tree) / 1000000)) MB"
