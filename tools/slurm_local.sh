#!/usr/bin/env bash
# A real Slurm of one node, on this machine, for trying grids and for the tests. Debian or Ubuntu, as root.
#   tools/slurm_local.sh [start]   installs slurm-wlm and munge where they are missing, starts what does not run
#   tools/slurm_local.sh stop      ends jobs and daemons; state and logs stay
#   tools/slurm_local.sh status    exit status 0 where it answers
# Then, in the shell that submits:   export SLURM_CONF=/var/tmp/speechmerge-slurm/slurm.conf
#
# It has a munge key, a socket and ports of its own, and leaves a Slurm that is already on the machine alone. Its folder:
# SPEECHMERGE_SLURM (default /var/tmp/speechmerge-slurm, which every user can reach), with port SPEECHMERGE_SLURM_PORT and the
# ones after it, and SPEECHMERGE_SLURM_CPUS cores (default: what there is; more than that share them). Mails are lines of
# log/mail.log there. SPEECHMERGE_SLURM_NODES=2: this machine is two nodes, node1 and node2, each with these cores, no GPUs.
set -euo pipefail

state=${SPEECHMERGE_SLURM:-/var/tmp/speechmerge-slurm}
export SLURM_CONF=$state/slurm.conf PATH=$PATH:/usr/sbin:/sbin
port=${SPEECHMERGE_SLURM_PORT:-16817} # of slurmctld; those of slurmd are the next
cpus=${SPEECHMERGE_SLURM_CPUS:-$(nproc)}
nodes=()
for ((number = 1; number <= ${SPEECHMERGE_SLURM_NODES:-1}; number++)); do nodes+=("node$number"); done
if ((${#nodes[@]} == 1)); then nodes=("$(hostname -s)"); fi

fail() {
    printf 'slurm_local.sh: %s\n' "$*" >&2
    exit 1
}

install_packages() {
    if [[ $(command -v slurmctld slurmd munged sbatch | wc -l) == 4 ]]; then return; fi
    command -v apt-get >/dev/null || fail "Slurm is not installed and there is no apt-get: install slurmctld, slurmd, munged and the commands of Slurm"
    [[ $(id -u) == 0 ]] || fail "Slurm is not installed: run as root, or apt-get install slurm-wlm munge"
    printf 'slurm_local.sh: installing slurm-wlm and munge\n' >&2
    # no daemon of the distribution shall start: those of this script have their own configuration
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >&2 || {
        apt-get update -qq >&2
        RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >&2
    }
}

write_configuration() {
    local memory gpus number
    memory=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)
    gpus=$({ nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true; } | wc -l)
    if ((gpus == 0 || ${#nodes[@]} > 1)); then gpus=""; fi
    mkdir -p "$state"/{munge,ctld,log}
    chmod 755 "$state" "$state/munge"
    if [[ ! -s $state/munge/key ]]; then
        (umask 077 && head -c 1024 /dev/urandom >"$state/munge/key")
    fi
    cat >"$state/mail.sh" <<-MAIL
	#!/bin/sh
	printf '%s\n' "\$*" >>"$state/log/mail.log"
	MAIL
    chmod 755 "$state/mail.sh"
    : >"$state/gres.conf"
    if [[ -n $gpus ]]; then printf 'Name=gpu File=/dev/nvidia[0-%d]\n' $((gpus - 1)) >"$state/gres.conf"; fi
    # credentials live for cred_expire seconds, and so long does a requeued job wait
    cat >"$SLURM_CONF" <<-CONF
	ClusterName=speechmerge
	SlurmctldHost=$(hostname -s)(127.0.0.1)
	SlurmctldPort=$port
	SlurmUser=$(id -un)
	SlurmdUser=$(id -un)
	AuthType=auth/munge
	CredType=cred/munge
	AuthInfo=socket=$state/munge/socket,cred_expire=6
	StateSaveLocation=$state/ctld
	SlurmdParameters=config_overrides
	SlurmdSpoolDir=$state/slurmd.%n
	SlurmctldPidFile=$state/slurmctld.pid
	SlurmdPidFile=$state/slurmd.%n.pid
	SlurmctldLogFile=$state/log/slurmctld.log
	SlurmdLogFile=$state/log/slurmd.%n.log
	ProctrackType=proctrack/linuxproc
	TaskPlugin=task/none
	SelectType=select/cons_tres
	SelectTypeParameters=CR_Core
	SchedulerType=sched/builtin
	SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000
	AccountingStorageType=accounting_storage/none
	JobAcctGatherType=jobacct_gather/none
	MailProg=$state/mail.sh
	MpiDefault=none
	ReturnToService=2
	JobRequeue=1
	KillWait=5
	MaxArraySize=10001
	SlurmctldDebug=info
	${gpus:+GresTypes=gpu}
	PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
	CONF
    for number in "${!nodes[@]}"; do
        printf 'NodeName=%s NodeHostname=%s NodeAddr=127.0.0.1 Port=%d CPUs=%d RealMemory=%d %s State=UNKNOWN\n' "${nodes[number]}" \
            "$(hostname -s)" $((port + 1 + number)) "$cpus" $((memory / 1024)) "${gpus:+Gres=gpu:$gpus}" >>"$SLURM_CONF"
    done
}

# Only a controller that runs is asked: the commands of Slurm wait for one for a minute.
answers() { is_running "$state/slurmctld.pid" && [[ $(sinfo -h -o %a%t 2>/dev/null) =~ ^up(idle|mix|alloc|comp) ]]; }

is_running() { # pid file
    local pid
    pid=$(cat "$1" 2>/dev/null) && [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null
}

start() {
    local _ node
    install_packages
    exec 9>"$state.lock" # two starts at once: the second finds it running
    flock 9
    if answers; then return; fi
    write_configuration
    is_running "$state/munge/pid" || munged --force --key-file="$state/munge/key" --socket="$state/munge/socket" \
        --pid-file="$state/munge/pid" --log-file="$state/log/munged.log" --seed-file="$state/munge/seed" 9>&-
    is_running "$state/slurmctld.pid" || slurmctld 9>&-
    for node in "${nodes[@]}"; do is_running "$state/slurmd.$node.pid" || slurmd -N "$node" 9>&-; done
    for _ in {1..120}; do
        if answers; then return; fi
        scontrol update "NodeName=$(IFS=, && echo "${nodes[*]}")" State=RESUME >/dev/null 2>&1 || true
        sleep 0.5
    done
    tail -n 5 "$state"/log/{slurmctld,slurmd.*,munged}.log >&2 || true
    fail "Slurm does not answer; logs are in $state/log"
}

stop() {
    local name pids=() _
    if answers; then scancel --me --full 2>/dev/null || true; fi
    for name in "$state"/slurmd.*.pid "$state"/slurmctld.pid "$state"/munge/pid; do
        if is_running "$name"; then pids+=("$(cat "$name")"); fi
        rm -f "$name"
    done
    if ((${#pids[@]} == 0)); then return; fi
    kill "${pids[@]}" 2>/dev/null || true
    for _ in {1..100}; do
        kill -0 "${pids[@]}" 2>/dev/null || break # succeeds as long as one is there
        sleep 0.1
    done
}

case ${1-start} in
    start)
        start
        printf 'slurm_local.sh: %d node(s), %s CPUs; export SLURM_CONF=%s\n' "${#nodes[@]}" "$(sinfo -h -o %C | cut -d/ -f4)" "$SLURM_CONF" >&2
        ;;
    stop) stop ;;
    status) answers || fail "Slurm of $state does not answer (start it: tools/slurm_local.sh)" ;;
    *)
        sed -n '2,6s/^# //p' "$0" >&2
        exit 2
        ;;
esac
