#!/usr/bin/env bash
# The main job, told as it happens: three daemons, a replicated volume, a real file system image, a
# node killed under a verifying load, the volume used elsewhere. Each step ends with what `holdfast
# status` says, which must be what is so. Leaves nothing behind. Needs:
# HOLDFAST (the binary), fio, libnbd-bin, qemu-utils, e2fsprogs.
set -euo pipefail
H=${HOLDFAST:-holdfast}
D=$(mktemp -d "${TMPDIR:-/tmp}/holdfast-demo.XXXXXX")
P=${HOLDFAST_DEMO_PORT:-17420}
declare -A pid
began=$(date +%s%N)
now() { echo "$(( ($(date +%s%N) - began) / 1000000 ))"; }
say() { printf '%6.1f s  %s\n' "$(echo "$(now)" | awk '{print $1/1000}')" "$*"; }
indent() { sed 's/^/            /'; }
# What an operator sees now: the first lines of `holdfast status`, which must say all of these.
status() {
    local seen all
    seen() { all=$("$H" status) && for word in "$@"; do grep -q -- "$word" <<<"$all" || return 1; done; }
    until_ok seen "$@" || { echo "holdfast status does not say: $*"; "$H" status; return 1; }
    grep -vE '^$|^(cluster|leader|voters|capacity|spare) ' <<<"$all" | head -n 8 | cut -c1-150 | indent
}
finish() {
    code=$?
    for p in "${pid[@]:-}"; do [ -n "$p" ] && kill "$p" 2>/dev/null || true; done
    for p in "${pid[@]:-}"; do [ -n "$p" ] && wait "$p" 2>/dev/null || true; done
    if [ $code -ne 0 ]; then echo "The demo failed ($code). The nodes' last words:"; tail -n 5 "$D"/n*/log 2>/dev/null || true; fi
    rm -rf "$D"
    exit $code
}
trap finish EXIT
until_ok() { # command…; the time is for machines that are slow or busy
    local end=$(( $(date +%s) + ${HOLDFAST_DEMO_PATIENCE:-120} ))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || { echo "gave up waiting for: $*"; return 1; }
        sleep 0.05
    done
}
start() { # node number
    "$H" node --config "$D/n$1/node.toml" >>"$D/n$1/log" 2>&1 &
    pid[$1]=$!
}
api() { echo "127.0.0.1:$((P + $1 * 10))"; }
nbd() { echo "127.0.0.1:$((P + $1 * 10 + 2))"; }
http() { echo "127.0.0.1:$((P + $1 * 10 + 3))"; }
export HOLDFAST_ENDPOINT="$(http 1),$(http 2),$(http 3)"

for i in 1 2 3; do
    mkdir -p "$D/n$i/disk"
    cat > "$D/n$i/node.toml" <<T
name = "n$i"
data_dir = "$D/n$i/data"
api = "$(api $i)"
data = "127.0.0.1:$((P + i * 10 + 1))"
nbd = "$(nbd $i)"
http = "$(http $i)"
[[disk]]
path = "$D/n$i/disk"
size = "512MiB"
T
    start $i
done
say "three daemons started (pids ${pid[1]}, ${pid[2]}, ${pid[3]}), each with a disk of 512 MiB"
until_ok "$H" --endpoint "$(http 1)" cluster init --name demo
for i in 2 3; do until_ok "$H" --endpoint "$(http $i)" node join --seed "$(api 1)"; done
three() { "$H" cluster status | grep -q '^voters    3 of 3: n[123],n[123],n[123]$' && [ "$("$H" disk list | grep -c ' ok$')" -eq 3 ]; }
until_ok three
say "one cluster: three metadata voters, one leader, three disks pooled"
"$H" node list | indent
say "the cluster's page is http://$(http 1)/ (it is served while this runs)"
status '^health    ok' '^nodes     3 (3 up)' '^disks     3 (3 ok)'

"$H" volume create web size=256MiB replicas=3 >/dev/null
say "$("$H" volume attach web --node n1)"
status '^health    ok' '^volumes   1 (1 ok)'

mkdir "$D/tree"
cp -r /usr/share/common-licenses "$D/tree/" 2>/dev/null || cp -r /etc/ssl "$D/tree/"
head -c 40000000 /dev/urandom > "$D/tree/random"
truncate -s 128M "$D/fs.img"
mkfs.ext4 -q -F -d "$D/tree" "$D/fs.img"
say "made a 128 MiB ext4 image from a directory tree of $(du -sm "$D/tree" | cut -f1) MB"
t=$(now); nbdcopy "$D/fs.img" "nbd://$(nbd 1)/web"
say "copied it in with nbdcopy in $(( $(now) - t )) ms: every write is on three disks before it is acknowledged"
same() { # node
    nbdcopy "nbd://$(nbd "$1")/web" "$D/back.img"
    cmp -n $((128 * 1024 * 1024)) "$D/fs.img" "$D/back.img"
}
same 1; say "read back through n1: identical"

say "fio writes and verifies at offset 128 MiB; meanwhile n2 is killed with SIGKILL"
fio --name=load --ioengine=nbd --uri="nbd://$(nbd 1)/web" --rw=randwrite --bs=4k --iodepth=16 --offset=128M --size=64M \
    --io_size=160M --rate_iops=8000 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output-format=json --output="$D/fio.json" >/dev/null &
fio=$!
sleep 1.5
kill -9 "${pid[2]}"; wait "${pid[2]}" 2>/dev/null || true; unset 'pid[2]'
say "n2 is dead"
wait $fio
writes=$(grep -m1 -A40 '"write"' "$D/fio.json" | grep -m1 '"total_ios"' | tr -cd 0-9)
worst=$(grep -A60 '"write"' "$D/fio.json" | grep -A4 '"clat_ns"' | grep -m1 '"max"' | tr -cd 0-9)
errors=$(grep -m1 '"error"' "$D/fio.json" | tr -cd 0-9)
say "fio done: $writes writes, $errors errors, all verified; the longest any write waited was $((worst / 1000000)) ms"
"$H" events | grep replica.dropped | indent
status 'NODE_DOWN *node/n2' 'VOLUME_DEGRADED *volume/web' '^volumes   1 (1 degraded)'
same 1; say "the image is identical still"

t=$(now)
say "$("$H" volume attach web --node n3 --force)"
same 3; say "read through n3: identical, every acknowledged byte is there"
t=$(now); e2fsck -fn "$D/back.img" >/dev/null 2>&1 || { truncate -s 128M "$D/back.img"; e2fsck -fn "$D/back.img" >/dev/null; }
say "e2fsck finds the file system clean"
status 'NODE_DOWN *node/n2' '^volumes   1 (1 degraded)'
# Writes go on, then n2 returns: it catches up by what it missed, not by everything.
qemu-io -f raw -c "write -P 0x5a 192M 4k" -c "write -P 0x33 200M 8M" "nbd://$(nbd 3)/web" >/dev/null
start 2
in_sync() { [ "$("$H" volume show web | grep -c ' in_sync')" -eq 3 ] && "$H" job list | grep -q 'nothing to do'; }
t=$(now); until_ok "$H" --endpoint "$(http 2)" cluster status
"$H" job list | indent
until_ok in_sync
say "n2 is back and in sync $(( $(now) - t )) ms after it answered: only what it missed was copied"
"$H" events | grep replica.insync | tail -2 | indent
# (A code is cleared when it has not held for twice as long as it takes to be raised.)
status '^nodes     3 (3 up)' '^volumes   1 (1 ok)'
nbdcopy "nbd://$(nbd 3)/web" "$D/whole.img"
everywhere() { # the whole volume, as each node's own replica has it
    for i in "$@"; do
        "$H" volume attach web --node "n$i" --force >/dev/null
        nbdcopy "nbd://$(nbd "$i")/web" "$D/back.img"
        cmp "$D/whole.img" "$D/back.img"
    done
}
everywhere 1 2 3; say "read whole from each of the three replicas: byte for byte the same"

# A fourth node comes, and n3 is emptied.
mkdir -p "$D/n4/disk"; sed "s/n3/n4/g; s/$(api 3)/$(api 4)/; s/127.0.0.1:$((P + 31))/127.0.0.1:$((P + 41))/; s/$(nbd 3)/$(nbd 4)/; s/$(http 3)/$(http 4)/" "$D/n3/node.toml" > "$D/n4/node.toml"
start 4
until_ok "$H" --endpoint "$(http 4)" node join --seed "$(api 1)"
four() { [ "$("$H" disk list | grep -c ' ok$')" -eq 4 ]; }
until_ok four
"$H" volume attach web --node n1 --force >/dev/null
t=$(now); "$H" node drain n3 >/dev/null
moved() { in_sync && ! "$H" volume show web | grep -q ' n3 '; }
until_ok moved
say "n4 joined, n3 is drained: its replica moved in $(( $(now) - t )) ms, while the volume stayed attached"
"$H" volume show web | sed -n '/^REPLICA/,$p' | indent
status '^nodes     4 (4 up)' '^volumes   1 (1 ok)'

# A bit rots on n1's disk while n1 is stopped.
kill "${pid[1]}"; wait "${pid[1]}"
head -c 4096 /dev/zero | tr '\0' Z > "$D/block"
places=$(LC_ALL=C grep -obUaF -f "$D/block" "$D/n1/disk/holdfast.disk" | cut -d: -f1)
for at in $places; do printf '\xda' | dd of="$D/n1/disk/holdfast.disk" bs=1 seek="$at" conv=notrunc status=none; done
start 1
back() { "$H" --endpoint "$(http 1)" volume attach web --node n1 --force; }
until_ok back
until_ok qemu-io -f raw -r -c "read -P 0x5a 192M 4k" "nbd://$(nbd 1)/web"
healed() { LC_ALL=C grep -qUaF -f "$D/block" "$D/n1/disk/holdfast.disk"; }
until_ok healed
say "a block was damaged on n1's disk, in journal and place ($(echo "$places" | wc -w) copies): the read was right all the same, and the disk is healed"
status '^health    ok' '^disks     4 (4 ok)' '^volumes   1 (1 ok)'
"$H" volume detach web >/dev/null
"$H" volume delete web >/dev/null
say "detached and deleted; stopping the daemons with SIGTERM"
for i in 1 2 3 4; do kill "${pid[$i]}"; done
for i in 1 2 3 4; do wait "${pid[$i]}"; unset "pid[$i]"; done
say "all four ended cleanly; nothing is left behind"
