#!/usr/bin/env bash
#SBATCH --job-name=completions
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --time=12:00:00
#SBATCH --output=slurm-%A_%a.log
#
# Ask several models to solve a benchmark in several languages, as a Slurm job array: a job for each
# model, language and part of the benchmark, with a server of its own.
#
#     sbatch examples/slurm_array.sh            # run the jobs
#     sbatch examples/slurm_array.sh            # run what failed again; finished jobs end at once
#     bash examples/slurm_array.sh join         # put the parts together
#
# Edit the settings, or set them in the environment; --array is 0 to models x languages x parts - 1.
# The outputs are results/MODEL.LANGUAGE.jsonl, those of the jobs results/MODEL.LANGUAGE.PART.jsonl,
# with / and blanks as _. Keep the run files of the parts: they have the settings, tokens and costs.
set -euo pipefail

MODELS=${MODELS:-Qwen/Qwen3-8B,Qwen/Qwen3-4B}   # as the server calls them, with commas between
LANGUAGES=${LANGUAGES:-Lua,C#}                  # as for --lang, with commas between
PARTS=${PARTS:-2}
BENCHMARK=${BENCHMARK:-problems.jsonl}          # a JSONL file
SAMPLES=${SAMPLES:-1}
COMPLETIONS=${COMPLETIONS:-completions.py}      # where it is
OPTIONS=${OPTIONS:---batch-size 1 --concurrent-batches 64}
# shellcheck disable=SC2016  # $model and $port are those of the job
SERVE=${SERVE:-'vllm serve "$model" --host 127.0.0.1 --port "$port"'}
PATIENCE=${PATIENCE:-300}                       # seconds until the server answers

IFS=, read -ra models <<< "$MODELS"
IFS=, read -ra languages <<< "$LANGUAGES"
mkdir -p results

# Set what belongs to job number $1.
select_job() {
    part=$(($1 % PARTS))
    language=${languages[$1 / PARTS % ${#languages[@]}]}
    model=${models[$1 / PARTS / ${#languages[@]}]}
    name=results/$(tr '/ ' __ <<< "$model.$language")
    problems=$name.$part.problems.jsonl output=$name.$part.jsonl
    awk "NR % $PARTS == $part" "$BENCHMARK" > "$problems"
    touch "$output"
    missing=$((SAMPLES * $(wc -l < "$problems") - $(wc -l < "$output")))
}

# Run completions.py on the benchmark $1 with the output $2 and the server at $3.
# shellcheck disable=SC2086  # OPTIONS are several words
ask() {
    uv run "$COMPLETIONS" --model "hosted_vllm/$model" --lang "$language" --num-samples "$SAMPLES" \
        --benchmark "$1" --output-path "$2" --param "api_base=$3" $OPTIONS
}

start_server() {
    port=$(python3 -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
    url=http://127.0.0.1:$port/v1
    eval "exec $SERVE" &
    server=$!
    trap 'kill $server 2> /dev/null && wait $server || true' EXIT
    until curl --silent --fail --output /dev/null "$url/models"; do
        kill -0 $server || { echo "the server ended before it answered" >&2; exit 1; }
        ((SECONDS < PATIENCE)) || { echo "the server did not answer in $PATIENCE s" >&2; exit 1; }
        sleep 1
    done
}

jobs=$((${#models[@]} * ${#languages[@]} * PARTS))
if [ "${1:-}" = join ]; then
    unfinished=0
    for ((job = 0; job < jobs; job++)); do
        select_job $job
        ((missing <= 0)) || { echo "$output: $missing answers are missing" >&2; unfinished=1; }
    done
    ((unfinished == 0)) || exit 1
    for ((job = 0; job < jobs; job++)); do
        select_job $job
        ((part > 0)) || : > "$name.jsonl"
        cat "$output" >> "$name.jsonl"
        # With nothing to ask, this checks that all is there and writes the run file.
        ((part < PARTS - 1)) || ask "$BENCHMARK" "$name.jsonl" http://127.0.0.1:1/v1
    done
else
    : "${SLURM_ARRAY_TASK_ID:?is not set: run this with sbatch, or with join}"
    ((SLURM_ARRAY_TASK_ID < jobs)) || { echo "--array is 0-$((jobs - 1)) here" >&2; exit 2; }
    select_job "$SLURM_ARRAY_TASK_ID"
    ((missing > 0)) || exit 0
    start_server
    ask "$problems" "$output" "$url"
fi
