#!/usr/bin/env bash
# What journalling costs of the client's CPU: this source against the same with journalling compiled out,
# in alternating pairs on one trial endpoint.
#
#   scripts/journal_cost.sh               300 000 lines, 256 in flight, one shard, 9 pairs
#   scripts/journal_cost.sh --lines N --in-flight N --pairs N
#
# Two copies of the source are built in a temporary folder. In both a run ends before the merge, which is
# no part of journalling and impossible without it. In the second nothing is left of it: no write-ahead
# file, no checksum of the record, no entry, no journal file that grows, no mark; a turn's records go
# straight to their segment. Client on core 0, endpoint on core 1. CPU is
# user + system time of the client's process. Linux, bash, awk, perl, git, taskset.
set -euo pipefail
cd "$(dirname "$0")/.."

lines=300000 in_flight=256 pairs=9
while [ $# -gt 0 ]; do
  case $1 in
    --lines) lines=$2; shift 2 ;;
    --in-flight) in_flight=$2; shift 2 ;;
    --pairs) pairs=$2; shift 2 ;;
    *) echo "unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d)
trap 'kill ${mock:-} 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
# Not the project's own folder of builds: it would keep a program without a journal there. Both builds share
# what they have in common.
export CARGO_TARGET_DIR=$work/target
source=$work/source
git ls-files -z --cached --others --exclude-standard -- src benches tests Cargo.toml Cargo.lock README.md |
  while IFS= read -r -d '' file; do mkdir -p "$source/$(dirname "$file")"; cp "$file" "$source/$file"; done

# Replaces in FILE what the pattern matches, exactly once: the source may have moved on.
replace() {
  FROM=$2 TO=$3 perl -0pi -e '$count = s/$ENV{FROM}/$ENV{TO}/; END { exit($count == 1 ? 0 : 1) }' "$source/$1" ||
    { echo "$1 has nothing like: $2" >&2; exit 1; }
}
build() {
  cargo build --release --quiet --manifest-path "$source/Cargo.toml" 2>"$work/build.log" || { cat "$work/build.log" >&2; exit 1; }
  cp "$CARGO_TARGET_DIR/release/blaze-uring" "$work/$1"
}

replace src/processor/run.rs 'let plan = MergePlan \{' 'if job.errors.as_os_str().len() > 0 { return Ok(conclude(job, &scan, None, &snapshot, recorded)); } let plan = MergePlan {'
build with
replace src/processor/run.rs 'log: log\.writing_ahead\(folder, order\)' 'log'
segment=src/batch/segment/mod.rs
replace $segment 'crc32fast::hash\(record\)' '0_u32'
replace $segment 'self\.journal\s*\.buffer\(\)\s*\.extend_from_slice\(&entry\.encode\(&self\.header, self\.journalled\)\);' 'let _ = entry;'
replace $segment 'self\.journal\.flush\(\)\?;' ''
replace $segment 'self\.journal\s*\.overwrite\(&self\.header\.mark\(entries\), MARK_OFFSET as u64\)\?;' ''
replace $segment 'self\.journal\s*\.reserve\(bytes_ahead\.min\(JOURNAL_AHEAD_BYTES_MAX\) \+ waiting\)' 'Ok(())'
replace $segment 'self\.journalled - written / ENTRY_BYTES as u64' '(written, self.journalled - self.settled).1'
build without

taskset -c 1 "$work/with" mock --listen 127.0.0.1:0 --response-bytes 400 >"$work/mock.out" 2>"$work/mock.log" &
mock=$!
until grep -qs listening "$work/mock.out" "$work/mock.log"; do kill -0 "$mock"; done
port=$(cat "$work/mock.out" "$work/mock.log" | grep -o '127.0.0.1:[0-9]*' | head -1 | cut -d: -f2)
printf '{"endpoints":[{"url":"http://127.0.0.1:%d/v1","model":"m","max_concurrent":%d}]}' "$port" "$in_flight" >"$work/config.json"
awk -v n="$lines" 'BEGIN { for (i = 1; i <= n; i++) printf "{\"input\": \"line %d of a file whose lines are about two hundred bytes long, as the questions of a usual batch are: who, what, when, where, why, and in how many words should the answer be given?\"}\n", i }' >"$work/in.jsonl"

# Prints microseconds of user and of system time per line.
once() {
  local TIMEFORMAT="%U %S" times
  rm -rf "$work"/out.jsonl*
  times=$( { time taskset -c 0 "$work/$1" -i "$work/in.jsonl" -o "$work/out.jsonl" -e "$work/errors.jsonl" -c "$work/config.json" \
    --cores 1 --workers "$in_flight" --rate 0 --no-progress >/dev/null 2>"$work/run.log"; } 2>&1 ) || { tail -5 "$work/run.log" >&2; return 1; }
  [ "$(cat "$work"/out.jsonl.blaze/output-*.seg | wc -l)" = "$lines" ] || { echo "records are missing" >&2; return 1; }
  awk -v n="$lines" '{printf "%.3f %.3f\n", $1 / n * 1e6, $2 / n * 1e6}' <<<"$times"
}
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

once with >/dev/null
for ((pair = 1; pair <= pairs; pair++)); do
  read -r with_user with_system <<<"$(once with)"
  read -r without_user without_system <<<"$(once without)"
  awk -v a="$with_user" -v b="$with_system" -v c="$without_user" -v d="$without_system" \
    'BEGIN {printf "with %.2f us a line (user %.2f, system %.2f)   without %.2f (user %.2f, system %.2f)\n", a + b, a, b, c + d, c, d}'
  awk -v a="$with_user" -v b="$with_system" -v c="$without_user" -v d="$without_system" 'BEGIN {print (a + b) / (c + d)}' >>"$work/all"
  awk -v a="$with_user" -v c="$without_user" 'BEGIN {print a / c}' >>"$work/user"
done
echo "with / without, medians of $pairs pairs: $(median <"$work/all") of all CPU, $(median <"$work/user") of user time"
