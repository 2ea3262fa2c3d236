#!/usr/bin/env bash
# A one-node cluster from Debian packages: starts Slurm, runs a command in it (default: tests/end_to_end/test_slurm.py)
# and stops what it started.  As root:  tests/cluster/one_node_slurm.sh  [command]
# State, logs and sockets are in a temporary folder; the files in /etc/slurm, where jobs look, are links to it meanwhile.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "must be root: the node's daemon changes users" >&2; exit 1; }
if ! { command -v slurmctld && command -v slurmd && command -v munged && command -v sbatch; } > /dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge
fi
if [ -e /etc/slurm/slurm.conf ]; then
    echo "/etc/slurm/slurm.conf exists: this machine already has a cluster" >&2
    exit 1
fi

base=$(mktemp -d /tmp/one-node-slurm.XXXXXX)
host=$(hostname -s)
mkdir "$base/state" "$base/spool" "$base/munge"
chmod 755 "$base" "$base/munge"
pids=()

stop() {
    status=$?
    scancel --state=RUNNING --state=PENDING 2> /dev/null || true
    for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2> /dev/null || true; done
    rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
    if [ $status -eq 0 ]; then rm -rf "$base"; else echo "logs: $base" >&2; fi
    exit $status
}
trap stop EXIT

dd if=/dev/urandom bs=1 count=1024 of="$base/munge.key" status=none
chmod 400 "$base/munge.key"
cat > "$base/slurm.conf" << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$base/munge/socket
CredType=cred/munge
StateSaveLocation=$base/state
SlurmdSpoolDir=$base/spool
SlurmctldPidFile=$base/slurmctld.pid
SlurmdPidFile=$base/slurmd.pid
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
GresTypes=gpu
ReturnToService=2
KillWait=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(free -m | awk '/^Mem:/ {print $2}') - 1000)) Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
for gpu in 0 1; do mknod "$base/gpu$gpu" c 1 3; done # two simulated GPUs (/dev/null), which Slurm allocates like real ones
echo "NodeName=$host Name=gpu File=$base/gpu[0-1]" > "$base/gres.conf"
mkdir -p /etc/slurm
ln -sfn "$base/slurm.conf" /etc/slurm/slurm.conf
ln -sfn "$base/gres.conf" /etc/slurm/gres.conf

munged --foreground --force --key-file="$base/munge.key" --socket="$base/munge/socket" --pid-file="$base/munge/pid" \
    --log-file="$base/munge/log" --seed-file="$base/munge/seed" > "$base/munged.log" 2>&1 &
pids+=($!)
for _ in $(seq 50); do [ -S "$base/munge/socket" ] && break; sleep 0.1; done
slurmctld -D > "$base/slurmctld.log" 2>&1 &
pids+=($!)
slurmd -D > "$base/slurmd.log" 2>&1 &
pids+=($!)
for _ in $(seq 100); do sinfo -h -o %T 2> /dev/null | grep -q idle && break; sleep 0.3; done
sinfo -h -o "one node: %n, %c CPUs, %m MB, %T"

[ $# -gt 0 ] || set -- .venv/bin/pytest -v tests/end_to_end/test_slurm.py
FEWSHOT_SLURM=1 "$@"
