#!/usr/bin/env bash
# A real Slurm of one node, on this machine, for trying grids and for the tests. Debian or Ubuntu, as root.
#   tools/slurm_local.sh [start]   installs slurm-wlm and munge where they are missing, starts what does not run
#   tools/slurm_local.sh stop      ends jobs and daemons; state and logs stay
#   tools/slurm_local.sh status    exit status 0 where it answers
# Then, in the shell that submits:   export SLURM_CONF=/var/tmp/speechmerge-slurm/slurm.conf
#
# It has a munge key, a socket and ports of its own, and leaves a Slurm that is already on the machine alone. Its folder:
# SPEECHMERGE_SLURM (default /var/tmp/speechmerge-slurm, which every user can reach), with port SPEECHMERGE_SLURM_PORT and the
# one after it, and SPEECHMERGE_SLURM_CPUS cores (default: what there is; more than that share them). Mails are lines of
# log/mail.log there.
set -euo pipefail

state=${SPEECHMERGE_SLURM:-/var/tmp/speechmerge-slurm}
export SLURM_CONF=$state/slurm.conf PATH=$PATH:/usr/sbin:/sbin
port=${SPEECHMERGE_SLURM_PORT:-16817} # of slurmctld; slurmd has the next
cpus=${SPEECHMERGE_SLURM_CPUS:-$(nproc)}

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
    local memory gpus
    memory=$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)
    gpus=$({ nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true; } | wc -l)
    if ((gpus == 0)); then gpus=""; fi
    mkdir -p "$state"/{munge,ctld,slurmd,log}
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
	SlurmdPort=$((port + 1))
	SlurmUser=$(id -un)
	SlurmdUser=$(id -un)
	AuthType=auth/munge
	CredType=cred/munge
	AuthInfo=socket=$state/munge/socket,cred_expire=6
	StateSaveLocation=$state/ctld
	SlurmdParameters=config_overrides
	SlurmdSpoolDir=$state/slurmd
	SlurmctldPidFile=$state/slurmctld.pid
	SlurmdPidFile=$state/slurmd.pid
	SlurmctldLogFile=$state/log/slurmctld.log
	SlurmdLogFile=$state/log/slurmd.log
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
	NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$((memory / 1024)) ${gpus:+Gres=gpu:$gpus} State=UNKNOWN
	PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
	CONF
}

# Only a controller that runs is asked: the commands of Slurm wait for one for a minute.
answers() { is_running "$state/slurmctld.pid" && [[ $(sinfo -h -o %a%t 2>/dev/null) =~ ^up(idle|mix|alloc|comp) ]]; }

is_running() { # pid file
    local pid
    pid=$(cat "$1" 2>/dev/null) && [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null
}

start() {
    local _
    install_packages
    exec 9>"$state.lock" # two starts at once: the second finds it running
    flock 9
    if answers; then return; fi
    write_configuration
    is_running "$state/munge/pid" || munged --force --key-file="$state/munge/key" --socket="$state/munge/socket" \
        --pid-file="$state/munge/pid" --log-file="$state/log/munged.log" --seed-file="$state/munge/seed" 9>&-
    is_running "$state/slurmctld.pid" || slurmctld 9>&-
    is_running "$state/slurmd.pid" || slurmd 9>&-
    for _ in {1..120}; do
        if answers; then return; fi
        scontrol update "NodeName=$(hostname -s)" State=RESUME >/dev/null 2>&1 || true
        sleep 0.5
    done
    tail -n 5 "$state"/log/{slurmctld,slurmd,munged}.log >&2 || true
    fail "Slurm does not answer; logs are in $state/log"
}

stop() {
    local name pids=() _
    if answers; then scancel --me --full 2>/dev/null || true; fi
    for name in slurmd.pid slurmctld.pid munge/pid; do
        if is_running "$state/$name"; then pids+=("$(cat "$state/$name")"); fi
        rm -f "$state/$name"
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
        printf 'slurm_local.sh: one node, %s CPUs; export SLURM_CONF=%s\n' "$(sinfo -h -o %C | cut -d/ -f4)" "$SLURM_CONF" >&2
        ;;
    stop) stop ;;
    status) answers || fail "Slurm of $state does not answer (start it: tools/slurm_local.sh)" ;;
    *)
        sed -n '2,6s/^# //p' "$0" >&2
        exit 2
        ;;
esac
