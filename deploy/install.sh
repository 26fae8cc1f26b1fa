#!/bin/sh
# Used by deploy/Dockerfile: install into the image's environment, without what a server never opens.
#
#     sh install.sh ARGUMENT...      arguments of pip install
set -eu
python=/opt/onnxserve/bin/python

python3 -m pip --python "$python" install --no-compile "$@"
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for part in quantization tools transformers; do
  rm -rf "$packages/onnxruntime/$part" # they make models
done
find "$packages" -depth -type d -name tests -exec rm -r {} +
find "$packages" -type f \( -name '*.a' -o -name '*.h' -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete
# The root is read-only where the server runs, so bytecode is made here. Unchecked: it holds whatever the files' times are.
"$python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$packages"
