#!/usr/bin/env bash
# tests/slurm/run.sh [FOLDER]: the embedded study through a Slurm of one node, with a job cancelled and the node drained on the way, against the same study without Slurm.
# To be run by hand, as root on a Debian machine of its own, after `make setup`: it installs and configures munge and slurm-wlm.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$PWD/.venv/bin
work=$(realpath -m "${1:-results/slurm}")
export PATH=$bin:$PATH
say() { echo "--- $*"; }

say "Slurm"
command -v slurmctld >/dev/null && command -v munged >/dev/null || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null; }
mkdir -p /run/munge /var/log/munge /var/lib/munge /etc/munge /var/spool/slurmctld /var/spool/slurmd
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none
chown -R munge: /run/munge /var/log/munge /var/lib/munge /etc/munge; chmod 400 /etc/munge/munge.key
pgrep -x munged >/dev/null || runuser -u munge -- munged
node=$(hostname -s)
cat > /etc/slurm/slurm.conf <<EOF
ClusterName=test
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
NodeName=$node CPUs=$(nproc) RealMemory=$(( $(free -m | awk '/^Mem/ {print $2}') - 1024 ))
PartitionName=all Nodes=$node Default=YES State=UP MaxTime=INFINITE
EOF
pgrep -x slurmctld >/dev/null || slurmctld
pgrep -x slurmd >/dev/null || slurmd
for i in $(seq 30); do sinfo -h -o %t | grep -q idle && break; sleep 1; done
sinfo

config() { printf 'networks: [mini_mobilenet, mini_resnet]\ndata: "embedded:40"\nimages: 4\nshard_size: 2\nsteps: [4, 8]\nreferences: 0\nout: %s/results\nfigures: %s/figures\n' "$work/$1" "$work/$1" > "$work/$1.yaml"; }
rm -rf "$work"; mkdir -p "$work"; config local; config slurm
graph() { snakemake --snakefile workflow/Snakefile --directory "$work" --configfile "$work/$1.yaml" --profile "workflow/profiles/$1" "${@:2}"; }
export OMP_NUM_THREADS=1     # the same number of threads in both runs: sums are ordered by it

say "without Slurm"
graph local

say "with Slurm"
options=(--slurm-no-account --slurm-status-command squeue --slurm-init-seconds-before-status-checks 5 --jobs 2 --set-resources choose:cpus_per_task=1 shard:cpus_per_task=1 report:cpus_per_task=1 --default-resources cpus_per_task=1 mem_mb=2000 runtime=20)
graph slurm "${options[@]}" & run=$!
shards() { find "$work/slurm/results" -maxdepth 1 -name 'mini_*.parquet' 2>/dev/null | wc -l; }
until [ "$(shards)" -ge 2 ] || ! kill -0 $run 2>/dev/null; do sleep 1; done
job=$(squeue -h -t R -o %i | head -1)
say "cancelling job ${job:-none}, with $(shards) shards done"
[ -z "$job" ] || scancel "$job"
until [ "$(shards)" -ge 4 ] || ! kill -0 $run 2>/dev/null; do sleep 1; done
say "draining the node, with $(shards) shards done"
scontrol update NodeName="$node" State=DRAIN Reason=test
sleep 20; sinfo; squeue
say "the node returns"
scontrol update NodeName="$node" State=RESUME
wait $run || { say "the run ended early; the same command again"; graph slurm "${options[@]}"; }

say "comparison"
python - "$work" <<'EOF'
import sys
from pathlib import Path
import pandas as pd, pyarrow.parquet as pq
from idgi_repro.tables import result_files
a, b = ({f.name: f for f in result_files(Path(sys.argv[1])/where/'results')} for where in ('local', 'slurm'))
assert a.keys() == b.keys() and len(a) == 8, (sorted(a), sorted(b))
for name in a: assert pq.read_table(a[name]).equals(pq.read_table(b[name])), f'{name} differs'
print(f'{len(a)} result files, {sum(pq.read_metadata(f).num_rows for f in a.values())} rows: equal bit for bit')
EOF
