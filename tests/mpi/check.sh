#!/usr/bin/env bash
# check.sh MPIRUN PROGRAM CASE: runs tests/mpi/ranks.cpp on 2 and on 4 processes. The last of them,
# or the second, is the one whom things happen to; all others have to name it and to fail.
set -u
mpirun=$1 program=$2 case=$3
deadline=2
output=$(mktemp)
trap 'rm -f "$output"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1

die() {
  cat "$output"
  echo "$case on $ranks ranks: $1"
  exit 1
}
# launch STARTED FLAGS...: that many processes of a program for $ranks; sets $status.
launch() {
  local started=$1
  shift
  timeout 60 "$mpirun" --oversubscribe "$@" -n "$started" \
    "$program" "${case%_under_a_launcher}" "$ranks" "$deadline" >"$output" 2>&1
  status=$?
  ((status != 124)) || die "hangs"
}
says() { grep -qE "$1" "$output" || die "nobody says: $1"; }
# Every rank but $1 says one line of error that names event 17 and rank $1.
the_others_name() {
  for ((rank = 0; rank < ranks; ++rank)); do
    says "rank $rank has begun"
    ((rank == $1)) || says "^error: rank $rank, event 17 \(all_reduce data bucket 1, micro-batch 0\): .*rank $1"
  done
}
fails() { ((status != 0)) || die "ends with 0"; }

for ranks in 2 4; do
  case $case in
    everything)
      launch $ranks
      ((status == 0)) || die "ends with $status"
      says "^all right" ;;
    paused)  # all of them, as a scheduler may
      launch $ranks
      ((status == 0)) || die "ends with $status"
      (($(grep -c "is right" "$output") == ranks)) || die "not all ranks go on" ;;
    stopped)  # alive, but it answers nobody
      launch $ranks
      fails
      the_others_name $((ranks - 1)) ;;
    killed)  # mpirun would end the others before they can speak
      launch $ranks --enable-recovery
      the_others_name $((ranks - 1)) ;;
    killed_under_a_launcher)  # which speaks for them
      launch $ranks
      fails
      says "rank $((ranks - 1)) .*exited on signal 9" ;;
    failed)  # by an error of its own
      launch $ranks
      fails
      says "^error: disk: is full"
      the_others_name 1 ;;
    disagreeing)
      launch $ranks
      fails
      (($(grep -c "^error: ranks disagree: the schedule is 0xbeef on rank 1; 0xcafe on rank" "$output") == ranks)) ||
        die "not all ranks name both values" ;;
    wrong_number)
      launch $((ranks - 1))
      fails
      says "^error: MPI: $((ranks - 1)) ranks? (was|were) started, .* $ranks ranks .*: mpirun -n $ranks $program" ;;
    *) die "no such case" ;;
  esac
done
echo ok
