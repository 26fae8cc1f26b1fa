#!/usr/bin/env bash
# Make data/speech.wav, 16 kHz, one channel: two sentences with silence around them. Needs espeak-ng and sox.
set -euo pipefail
cd "$(dirname "$0")/data"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
espeak-ng -v en-us -s 150 -w "$work/one.wav" "Requests of many callers share one run."
espeak-ng -v en-us -s 150 -w "$work/two.wav" "Nobody waits for that."
sox -n -r 16000 -c 1 "$work/silence.wav" trim 0 0.8
for name in one two; do sox "$work/$name.wav" -r 16000 -c 1 -b 16 "$work/$name-16k.wav"; done
sox "$work/silence.wav" "$work/one-16k.wav" "$work/silence.wav" "$work/two-16k.wav" "$work/silence.wav" -b 16 speech.wav
