#!/usr/bin/env bash
# Build a target of deploy/Dockerfile, run it as a cluster would, and check what docs/guides/deploy.md says of it.
#
#     deploy/prove-image.sh [cpu|gpu]     cpu, unless named; gpu needs 12 GB of disk and no GPU
#
# The base is made by debootstrap. The container has a read-only root with nothing writable in it, the image's user and no
# privileges; it is called from outside. Each fact is a line; the exit code is 1 where one does not hold, and 2 where this
# cannot be tried. All is made in one temporary folder, which is removed at the end.
#
# Wanted: Linux, root (in a container: with CAP_SYS_ADMIN), and the programs that are named when they are missing.
#     PYTHON         a Python with pip and this project's client: python3. pip in the build is configured as it is there.
#     SUITE, MIRROR  the Debian of the base: as in this machine's apt sources, else bookworm of deb.debian.org.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-cpu}
python=${PYTHON:-python3}
most_mb=250 # of the cpu target on top of its base
image=localhost/onnxserve:$target
failed=0
runner=

say() { printf '%s\n' "$*"; }

give_up() { # TEXT
  say "cannot be tried here: $1" >&2
  exit 2
}

require() {
  [[ $target == cpu || $target == gpu ]] || give_up "there is no target '$target'; it is cpu or gpu"
  local program missing=()
  for program in buildah curl debootstrap nsenter setpriv unshare; do
    command -v "$program" > /dev/null || missing+=("$program")
  done
  ((${#missing[@]} == 0)) ||
    give_up "missing: ${missing[*]}; on Debian: apt-get install buildah curl debootstrap util-linux"
  ((EUID == 0)) || give_up "this must be root: for debootstrap, mounts and namespaces"
  unshare --mount --pid --fork true || give_up "no new namespaces are allowed; in a container this needs CAP_SYS_ADMIN"
  "$python" -c 'import onnxserve, pip' ||
    give_up "$python has no pip, or not this project; set PYTHON to one that has, such as .venv/bin/python after make demo"
}

work=$(mktemp --directory)
clean_up() {
  local kept=$?
  [[ -z $runner ]] || kill -KILL "$runner" 2> /dev/null || true # its container goes with it
  wait
  if [[ -n ${storage-} ]]; then
    store rm --all > /dev/null || true
    umount --recursive "$work"/*/overlay 2> /dev/null || true
  fi
  if grep --quiet " $work/" /proc/mounts; then
    say "still mounted, and left: $work" >&2
  else
    rm --recursive --force "$work"
  fi
  exit "$kept"
}
trap clean_up EXIT

# Overlay file systems do not stack everywhere; plain copies always work.
choose_storage() {
  for storage in overlay vfs; do
    store info > /dev/null 2>&1 && return
  done
  give_up "buildah can keep no images here: buildah --storage-driver vfs info tells why"
}

store() { buildah --root "$work/$storage" --runroot "$work/$storage-run" --storage-driver "$storage" "$@"; }

logged() { # NAME COMMAND...
  "${@:2}" > "$work/$1.log" 2>&1 || {
    tail --lines 60 "$work/$1.log" >&2
    say "failed: $1" >&2
    exit 1
  }
}

make_base() {
  local source container folder
  source=$(apt-get indextargets --format '$(LABEL) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2> /dev/null |
    awk '$1 == "Debian" && $2 !~ /-/ { print $2, $3; exit }' || true)
  suite=${SUITE:-${source%% *}}
  suite=${suite:-bookworm}
  mirror=${MIRROR:-${source#* }}
  mirror=${mirror:-http://deb.debian.org/debian}
  container=$(store from scratch)
  folder=$(store mount "$container")
  logged debootstrap debootstrap --variant=minbase "$suite" "$folder" "$mirror"
  find "$folder/var/cache/apt" "$folder/var/lib/apt/lists" "$folder/var/log" -type f -delete
  base_mb=$(megabytes "$folder")
  store commit --quiet --rm "$container" localhost/base > /dev/null
}

# Write pip.conf: the settings of this Python's pip that say where packages come from. A path among them is mounted into the
# build, an index with the folder that it is in, because its links may lead there. Print the mounts.
pip_settings() {
  "$python" - "$work/pip.conf" << 'PYTHON'
import ast, pathlib, subprocess, sys

WANTED = "index-url extra-index-url find-links no-index cert client-cert proxy trusted-host retries timeout".split()
mounts, settings = [], {}

def inside(word):
    scheme = "file://" if word.startswith("file://") else ""
    path = pathlib.Path(word.removeprefix("file://"))
    if not path.is_absolute() or not path.exists():
        return word
    path = path.resolve()
    mount = path.parent if scheme and path.parent != pathlib.Path("/") else path
    if mount not in mounts:
        mounts.append(mount)
    return scheme + str(pathlib.Path(f"/mnt/{mounts.index(mount)}", path.relative_to(mount)))

told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True).stdout
for line in told.splitlines():  # those of the environment come first, and win
    key, value = line.split("=", 1)
    section, _, name = key.rpartition(".")
    name = name.removeprefix("default-")
    if section in (":env:", "global") and name in WANTED:
        settings.setdefault(name, " ".join(map(inside, ast.literal_eval(value).split())))
lines = [f"{name} = {value}" for name, value in settings.items()]
pathlib.Path(sys.argv[1]).write_text("\n".join(["[global]", *lines, ""]))
for number, mount in enumerate(mounts):
    print(f"--volume={mount}:/mnt/{number}:ro")
PYTHON
}

build() {
  local version volumes options
  version=$(sed --quiet 's/^version = "\(.*\)"/\1/p' pyproject.toml)
  options=(--isolation chroot --pull-never --layers --file deploy/Dockerfile --build-arg BASE=localhost/base)
  mapfile -t volumes < <(pip_settings)
  # First what the image stands on, without mounts: they leave empty folders behind.
  logged build-python store build "${options[@]}" --target python .
  logged "build-$target" store build "${options[@]}" --target "$target" --tag "$image" \
    --build-arg VERSION="$version" --build-arg REVISION=none \
    --secret id=pip,src="$work/pip.conf" "${volumes[@]}" .
}

megabytes() { du --summarize --block-size=MB "$1" | cut --fields=1 | tr --delete MB; }

of_image() { store inspect --type image --format "$1" "$image"; }

# The inside of the container, in namespaces of its own: what a runtime prepares before it starts an image.
container() { # ROOT USER MODELS COMMAND...
  local root=$1 user=$2 models=$3 device
  mount --bind "$root" "$root"
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  for device in full null random urandom zero; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mount --bind "$models" "$root/models"
  mount -o remount,bind,ro "$root/models"
  mount -o remount,bind,ro "$root/dev"
  mount -o remount,bind,ro "$root"
  exec setpriv --no-new-privs env --ignore-environment "${@:4}"
}
export -f container

start() { # NAME=VALUE...: variables beside those of the image
  local command chroot
  mapfile -t environment < <(of_image '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' | grep .)
  mapfile -t command < <(
    for part in Entrypoint Cmd; do of_image "{{range .OCIv1.Config.$part}}{{println .}}{{end}}" | grep .; done
  )
  chroot=$(command -v chroot)
  : > "$work/stdout"
  unshare --mount --pid --ipc --uts --fork --kill-child bash -c 'container "$@"' - "$root" "$user" "$PWD/examples/models" \
    "${environment[@]}" "$@" "$chroot" --userspec="$user" --groups= "$root" "${command[@]}" \
    > "$work/stdout" 2> "$work/stderr" &
  runner=$!
  await 20 started
  first=$(children "$runner")
  server=$(children "$first")
}

finish() {
  ended || kill -KILL "$runner"
  wait "$runner" && code=0 || code=$?
  runner=
}

children() { cat "/proc/$1/task/$1/children" 2> /dev/null | tr --delete ' '; }
started() { tr '\0' ' ' < "/proc/$(children "$(children "$runner")")/cmdline" | grep --quiet '^/opt/onnxserve/bin/python '; }
ended() { ! kill -0 "$runner" 2> /dev/null; }
ready() { grep --quiet 'is ready on' "$work/stdout"; }
tells() { grep --quiet "$1" "$work/stderr"; }
port() { sed --quiet 's/.*is ready on .*:\([0-9]*\)$/\1/p' "$work/stdout"; }
http_port() { sed --quiet 's/.*status page on .*:\([0-9]*\)$/\1/p' "$work/stderr"; }

await() { # SECONDS COMMAND...: until it is true
  local end=$((SECONDS + $1))
  until "${@:2}" 2> /dev/null; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# Runs in the container, as its administrator.
inside() { nsenter --target "$first" --mount --pid --root --wd env --ignore-environment "${environment[@]}" "$@"; }

fact() { # TEXT COMMAND...
  if "${@:2}" > "$work/said" 2>&1; then
    say "holds      $1"
  else
    say "NOT TRUE   $1"
    sed '11,$d; s/^/           /' "$work/said"
    failed=$((failed + 1))
  fi
}

equal() { # FOUND WANTED
  say "$1, not $2"
  [[ $1 == "$2" ]]
}

nothing() { # COMMAND...: succeeds, and prints nothing
  local found
  found=$("$@") || return
  say "$found"
  [[ -z $found ]]
}

at_most() { # FOUND LIMIT
  say "$1 > $2"
  (($1 <= $2))
}

status_of() { grep "^$2:" "/proc/$1/status" | cut --fields=2- | xargs; }
answers() { curl --silent --output "$work/answer" --max-time 10 --write-out '%{http_code}' "http://127.0.0.1:$(http_port)$1"; }
reads_a_digit() { timeout 60 "$python" examples/predict.py "127.0.0.1:$(port)" | grep 'It is a 2'; }
refuses_to_write() { # PATH
  ! inside touch "$1" 2> "$work/refusal" && grep 'Read-only file system' "$work/refusal"
}

warnings() { grep --extended-regexp 'WARN|ERROR|\[[WEF]:' "$work/stderr" || (($? == 1)); }
programs() { inside sh -c 'for name in "$@"; do command -v "$name"; done; true' - "$@" | xargs; }
modules() { # PYTHON NAME...: those that it can import
  inside "$1" -c 'import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))' "${@:2}"
}
without_bytecode() {
  inside sh -c '/usr/bin/python3 - /usr/lib/python3.*/ /opt/onnxserve/lib/python3.*/' << 'PYTHON'
import importlib.util, pathlib, sys
for folder in sys.argv[1:]:
    paths = list(pathlib.Path(folder).rglob("*.py"))
    assert len(paths) > 100, folder
    print(*(path for path in paths if not pathlib.Path(importlib.util.cache_from_source(path)).exists()), sep="\n", end="")
PYTHON
}
not_pinned() { # Those of CUDA come with the range that onnxruntime-gpu wants.
  inside /opt/onnxserve/bin/python -c '
import importlib.metadata, re, sys
def plain(text): return re.sub("[-_.]+", "-", text.strip()).lower()
pins = {plain(line).replace("onnxruntime==", "onnxruntime'"$([[ $target == cpu ]] || echo -gpu)"'==") for line in sys.stdin}
found = {plain(f"{package.name}=={package.version}") for package in importlib.metadata.distributions()}
assert len(found) > 20
print(*(name for name in sorted(found - pins) if not name.startswith(("onnxserve==", "nvidia-"))), end="")
' < constraints.txt
}

facts_of_the_image() {
  user=$(of_image '{{.OCIv1.Config.User}}')
  fact "its user is a number, and not root: $user" grep --extended-regexp '^[1-9][0-9]*:[1-9][0-9]*$' <<< "$user"
  fact "it has a version, a title and a licence" \
    equal "$(of_image '{{range $name, $value := .OCIv1.Config.Labels}}{{if $value}}{{println $name}}{{end}}{{end}}' |
      grep --count --extended-regexp 'image\.(version|title|licenses)$')" 3
  fact "nothing of the server belongs to its user or may be written by all" \
    nothing find "$root/opt" "$root/usr" "$root/etc" ! -type l \( -perm -o+w -o -uid "${user%:*}" -o -gid "${user#*:}" \)
  fact "no trace of the build: histories, caches, package lists, sources" \
    nothing find "$root" -xdev \( -name '.*_history' -o -name '.cache*' -o -path "$root/source*" \
    -o -path "$root/var/lib/apt/lists/*" -o -path "$root/tmp/*" \)
}

facts_of_the_running_server() {
  start ONNXSERVE_PORT=0 ONNXSERVE_HTTP_PORT=0 ONNXSERVE_DRAIN_DELAY=3
  fact "it starts where nothing can be written, /tmp included" await 60 ready
  ready || { sed 's/^/           /' "$work/stderr"; return; }
  fact "the server runs as $user" equal "$(status_of "$server" Uid) $(status_of "$server" Gid)" \
    "$(printf "${user%:*} %.0s" 1 2 3 4)$(printf "${user#*:} %.0s" 1 2 3 4 | xargs)"
  fact "its parent is PID 1 of the container, tini" \
    equal "$(status_of "$first" NSpid | cut --delimiter=' ' --fields=2) $(cat "/proc/$first/comm")" "1 tini"
  fact "it has no capabilities" equal "$(status_of "$server" CapEff)" 0000000000000000
  fact "writing to the root fails, for root too" refuses_to_write /written
  fact "writing to /opt/onnxserve fails, for root too" refuses_to_write /opt/onnxserve/written
  fact "the client outside gets a prediction" reads_a_digit
  fact "/healthz and /readyz answer 200" equal "$(answers /healthz) $(answers /readyz)" "200 200"
  fact "ONNX Runtime is told to report nothing" grep --text 'ORT_DISABLE_TELEMETRY=1' "/proc/$server/environ"
  fact "it has warned of nothing" nothing warnings
  # What is there is asked for too: so that an answer of nothing is known to be an answer.
  fact "no compiler, no pip, no downloader" \
    equal "$(programs tini cc c++ gcc g++ clang ld as make pip pip3 curl wget git)" /usr/bin/tini
  fact "no pip, setuptools or wheel to import" \
    equal "$(for python in /opt/onnxserve/bin/python /usr/bin/python3; do
      modules "$python" json pip ensurepip setuptools wheel
    done | xargs)" "json json"
  fact "all of Python has its bytecode" nothing without_bytecode
  fact "all packages are those of constraints.txt" nothing not_pinned
  [[ $target == cpu ]] || facts_of_cuda

  kill -TERM "$first"
  fact "SIGTERM reaches the server" await 10 tells draining
  fact "while it drains, it is not ready" equal "$(answers /readyz)" 503
  fact "while it drains, it serves" reads_a_digit
  fact "it ends" await 30 ended
  finish
  fact "it ends with 0" equal "$code" 0
  fact "it says that it has stopped" tells ' stopped$'

  start ONNXSERVE_PORT=0 ONNXSERVE_HTTP_PORT=0 ONNXSERVE_DRAIN_DELAY=60
  fact "the server is still starting" nothing cat "$work/stdout"
  kill -TERM "$first"
  fact "a SIGTERM that early ends it as well" await 10 ended
  finish
}

not_found() {
  inside sh -c 'ldd /opt/onnxserve/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime_providers_cuda.so' |
    awk '/not found/ { print $1 }'
}
opened_by_name() {
  inside ldconfig -p | grep --only-matching --extended-regexp '^\s(libcudnn\.so\.9|libcufft\.so\.[0-9]+|libnvrtc\.so\.13) ' |
    tr --delete '\t ' | cut --delimiter=. --fields=1 | sort --unique | xargs
}
facts_of_cuda() {
  fact "ONNX Runtime's CUDA provider misses the driver and nothing else" equal "$(not_found)" libcuda.so.1
  fact "the loader knows the libraries that it opens by name" equal "$(opened_by_name)" "libcudnn libcufft libnvrtc"
}

sizes() {
  local all_mb top_mb
  all_mb=$(megabytes "$root")
  top_mb=$((all_mb - base_mb))
  say "size       base $base_mb MB, on top $top_mb MB, of these /opt/onnxserve $(megabytes "$root/opt/onnxserve") MB"
  du --block-size=MB --max-depth=1 $(echo "$root"/opt/onnxserve/lib/python3*/site-packages) | sort --numeric-sort --reverse |
    sed --quiet "2,6s|^\([0-9]*MB\).*/|           \1 |p"
  [[ $target != cpu ]] || fact "at most $most_mb MB on top of the base" at_most "$top_mb" "$most_mb"
}

require
choose_storage
say "storage    $storage"
make_base
say "base       Debian $suite, by debootstrap from $mirror: ${SECONDS} s"
build
say "built      $target: ${SECONDS} s"
root=$(store mount "$(store from --pull-never "$image")")
facts_of_the_image
facts_of_the_running_server
sizes
say "took       ${SECONDS} s"
((failed == 0)) || { say "$failed facts do not hold"; exit 1; }
say "all of it holds"
