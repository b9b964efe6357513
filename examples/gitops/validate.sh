#!/usr/bin/env bash
# Builds every environment and checks what comes out: fields and types by the published schema, and that no two runs share a root.
# Needs kubectl and kubeconform. HALCYON_SCHEMAS is where the schemas are, a folder or an address.
set -euo pipefail
cd "$(dirname "$0")"
: "${HALCYON_SCHEMAS:?set it to the folder or address that holds halcyon.dev/trainingrun_v1alpha1.json}"
schema="$HALCYON_SCHEMAS/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"

all=$(mktemp)
trap 'rm -f "$all"' EXIT
for environment in environments/*/; do
  echo "$environment"
  { kubectl kustomize "$environment"; echo "---"; } | tee -a "$all" | kubeconform -strict -summary -skip Namespace -schema-location "$schema" -
done

shared=$(sed -n 's/^    root: //p' "$all" | sort | uniq -d)
if [ -n "$shared" ]; then
  echo "two runs write into one checkpoint root: $shared; give each experiment a name of its own" >&2
  exit 1
fi
