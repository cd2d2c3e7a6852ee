# Who runs the jobs. Edit the default here, or for one run:   cmd_backend=local ./run.sh
# A back end is an executable utils/<name>.sh with the contract of utils/local.sh:
#     <name>.sh [--gpu N] [--mem 4G] [--num-threads N] [--max-jobs-run N] JOB=1:N log.JOB command ... JOB
# shellcheck shell=bash disable=SC2034 # the commands are used by the stages

cmd_backend=${cmd_backend:-local}

case $cmd_backend in
    local)
        train_cmd="local.sh"
        decode_cmd="local.sh"
        ;;
    *)
        echo "cmd_backend=$cmd_backend: no such job back end, there is: local (utils/cmd.sh; a new one is utils/$cmd_backend.sh)" >&2
        exit 2
        ;;
esac
