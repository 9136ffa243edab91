# What `.ci/run` and `.ci/long` share. To be sourced, from the root of the repository.

exec </dev/null
export CARGO_TERM_COLOR=never PIP_DISABLE_PIP_VERSION_CHECK=1

MVSINK=target/release/mvsink
PYTHON=target/venv/bin/python
STARTED=$SECONDS

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# stage NAME COMMAND…: runs the command, prints how long it took; a failure names the stage.
stage() {
    local name=$1 begun=$SECONDS status=0
    shift
    say "=== $name"
    # In a shell of its own, so that the first failing command ends the stage.
    set +e
    (set -euo pipefail; "$@")
    status=$?
    set -e
    [ "$status" -eq 0 ] || die "$name failed after $((SECONDS - begun)) s"
    say "--- $name: $((SECONDS - begun)) s"
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# The readers of other people, in a virtual environment below target/.
python_environment() {
    if ! { [ -x "$PYTHON" ] && "$PYTHON" -m pip --version >/dev/null 2>&1; }; then
        if ! python3 -m venv target/venv; then
            as_root apt-get update
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y python3 python3-venv
            python3 -m venv --clear target/venv
        fi
    fi
    "$PYTHON" -m pip install --quiet --requirement .ci/requirements.txt
}

AZURITE_VERSION=3.35.0

# Azure's emulator, below target/npm.
node_environment() {
    if ! command -v npm >/dev/null; then
        as_root apt-get update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y nodejs npm
    fi
    grep -qs "\"version\": \"$AZURITE_VERSION\"" target/npm/node_modules/azurite/package.json ||
        npm install --silent --no-audit --no-fund --prefix target/npm "azurite@$AZURITE_VERSION"
}

# with_stores COMMAND…: runs the command with an S3 server and an Azure server on the loopback, which end with it. To be
# called in a shell of its own, as `stage` does. They keep all in memory; what they print is in target/stores.
with_stores() {
    local s3 azure
    s3=$("$PYTHON" .ci/buckets.py port)
    azure=$("$PYTHON" .ci/buckets.py port)
    mkdir -p target/stores
    STORES=()
    trap 'kill "${STORES[@]}" 2>/dev/null || true' EXIT
    "$PYTHON" .ci/s3_server.py "$s3" >target/stores/s3.log 2>&1 &
    STORES+=("$!")
    # It asks for versions of the protocol that it knows, unless told not to; ours may be newer.
    node target/npm/node_modules/azurite/dist/src/blob/main.js --blobHost 127.0.0.1 --blobPort "$azure" \
        --skipApiVersionCheck --inMemoryPersistence --disableTelemetry --silent >target/stores/azure.log 2>&1 &
    STORES+=("$!")
    export MVSINK_TEST_S3=http://127.0.0.1:$s3 MVSINK_TEST_AZURE=http://127.0.0.1:$azure MVSINK_TEST_STORES=required
    "$PYTHON" .ci/buckets.py s3 "$MVSINK_TEST_S3" || { cat target/stores/s3.log; return 1; }
    "$PYTHON" .ci/buckets.py azure "$MVSINK_TEST_AZURE" || { cat target/stores/azure.log; return 1; }
    "$@"
}

# The seconds, with fractions, since some moment.
now() { "$PYTHON" -c 'import time; print(time.monotonic())'; }

# demo DIRECTORY EVENTS: one run of the binary, to its end.
demo() { "$MVSINK" run nexmark --dir "$1" --events "$2" --workers 2; }

# whole DIRECTORY EVENTS: an uninterrupted run; leaves its duration in DIRECTORY.seconds.
whole() {
    rm -rf "$1"
    local begun
    begun=$(now)
    demo "$1" "$2"
    "$PYTHON" -c 'import sys, time; print(time.monotonic() - float(sys.argv[1]))' "$begun" >"$1.seconds"
}

# interrupted DIRECTORY EVENTS KILLS SECONDS: kills the run that often at random moments, then lets it finish.
# SECONDS is what a whole run takes; MVSINK_SEED replays the moments, as far as the machine does.
interrupted() {
    local dir=$1 events=$2 kills=$3 seconds=$4 seed=${MVSINK_SEED:-$RANDOM} landed=0 n pid wait status
    rm -rf "$dir"
    say "$kills kills with MVSINK_SEED=$seed; a whole run takes $seconds s"
    for ((n = 0; n < kills; n++)); do
        # Short enough together that the work is not done before the last one.
        wait=$("$PYTHON" -c 'import random, sys
seed, n, kills, seconds = sys.argv[1:]
print(random.Random(f"{seed} {n}").uniform(0.02, 1) * 0.9 * float(seconds) / int(kills))' \
            "$seed" "$n" "$kills" "$seconds")
        "$MVSINK" run nexmark --dir "$dir" --events "$events" --workers 2 >"$dir.log" 2>&1 &
        pid=$!
        sleep "$wait"
        kill -9 "$pid" 2>/dev/null || true
        status=0
        wait "$pid" || status=$?
        case $status in
            0) say "run $((n + 1)) was done before $wait s" ;;
            137) landed=$((landed + 1)); say "run $((n + 1)) was killed after $wait s" ;;
            *) cat "$dir.log" >&2; die "the run before kill $((n + 1)) failed with exit status $status" ;;
        esac
    done
    [ "$landed" -gt 0 ] || die "every run was done before it was killed: more events are needed"
    demo "$dir" "$events"
}

# rivals DIRECTORY EVENTS: two processes race on every shard; both must end well.
rivals() {
    local dir=$1 events=$2 first second status=0
    rm -rf "$dir"
    demo "$dir" "$events" >"$dir.1.log" 2>&1 &
    first=$!
    demo "$dir" "$events" >"$dir.2.log" 2>&1 &
    second=$!
    wait "$first" || status=$?
    wait "$second" || status=$?
    cat "$dir.1.log" "$dir.2.log"
    [ "$status" -eq 0 ] || die "one of two runs on one directory failed with exit status $status"
}

# exact DIRECTORY: every view is what SQL makes of the sources.
exact() { "$PYTHON" .ci/compare.py "$1" --times "${2:-4}"; }

# same A B: both directories hold the same.
same() { "$PYTHON" .ci/compare.py --same "$1" "$2"; }

# stress DIRECTORY SECONDS PROFILE: eight processes on one shard, killed at random; MVSINK_SEED replays the moments, as
# far as the machine does. Built in the profile, dev or release, that its stages have built already.
stress() {
    rm -rf "$1"
    cargo build --workspace --profile "$3" --example stress
    "target/${3/dev/debug}/examples/stress" "$1" --processes 8 --seconds "$2" --seed "${MVSINK_SEED:-$RANDOM}"
}
