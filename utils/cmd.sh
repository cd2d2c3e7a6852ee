# Who runs the jobs: local (this machine) or slurm (a cluster, docs/cluster.md). Edit the default here, for one run
# cmd_backend=slurm ./run.sh, for all of a shell export SPEECHMERGE_CMD=slurm.
# A back end is an executable utils/<name>.sh with the contract of utils/local.sh:
#     <name>.sh [--gpu N] [--mem 4G] [--num-threads N] [--max-jobs-run N] JOB=1:N log.JOB command ... JOB
# shellcheck shell=bash disable=SC2034 # the commands are used by the stages

cmd_backend=${cmd_backend:-${SPEECHMERGE_CMD:-local}}

case $cmd_backend in
    local | slurm)
        train_cmd="$cmd_backend.sh"
        decode_cmd="$cmd_backend.sh"
        ;;
    *)
        echo "cmd_backend=$cmd_backend: no such job back end, there is: local slurm (utils/cmd.sh; a new one is utils/$cmd_backend.sh)" >&2
        exit 2
        ;;
esac
