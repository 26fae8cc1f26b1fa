#!/usr/bin/env bash
# Install the Debian packages that the project's commands and tests use beside Python: nghttp2-client, which has h2load;
# Chromium with its driver, in which the tests open the status page; Prometheus, which scrapes the servers of the tests; and
# rclone, which the init container of deploy/k8s fetches models with.
#
# A program that is there already is left alone: the CI runners of Ubuntu have Chromium, which is no package of Ubuntu's.
set -euo pipefail
programs=(h2load:nghttp2-client chromium:chromium chromedriver:chromium-driver prometheus:prometheus rclone:rclone)

if ! command -v apt-get >/dev/null; then
  echo "$0: there is no apt-get here. Install with your system's own tool what Debian calls: ${programs[*]#*:}" >&2
  exit 1
fi

missing=()
for program in "${programs[@]}"; do
  command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
done
if ((${#missing[@]} == 0)); then
  echo "already installed: ${programs[*]%:*}"
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "$0: run this as root, or install sudo" >&2; exit 1; }
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
