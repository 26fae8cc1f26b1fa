#!/bin/sh
# Fetch the files of SHA256SUMS from $MODELS_SOURCE into a directory and verify them; put each <model>.yaml beside its model.
# Usage: fetch.sh FOLDER, with SHA256SUMS and the .yaml files beside this script or in $MODELS_LIST.
set -eu
list=${MODELS_LIST:-$(dirname "$0")}
cd "$1"

files=$(mktemp)
trap 'rm -f "$files"' EXIT
cut -c 67- "$list/SHA256SUMS" > "$files" # a checksum of 64 digits, two characters, the path
rclone copy --files-from-raw "$files" "$MODELS_SOURCE" .

for config in "$list"/*.yaml; do
  [ -e "$config" ] || continue # there is none
  model=$(basename "$config" .yaml)
  if [ ! -d "$model" ]; then
    echo "$model.yaml: SHA256SUMS lists no file of a model '$model'; add them or remove $model.yaml" >&2
    exit 1
  fi
  cp "$config" "$model/model.yaml"
done

# Last, so that nothing changes after it was verified.
if ! sha256sum -c "$list/SHA256SUMS"; then
  echo "what lies at $MODELS_SOURCE is not what SHA256SUMS lists; mend one of them" >&2
  exit 1
fi
