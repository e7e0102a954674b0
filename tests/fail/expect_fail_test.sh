#!/usr/bin/env bash
# Does expect_fail.sh notice? A check that cannot fail checks nothing.
set -u
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
status=0

# says FAULT HEADER BODY TWIN: with this must-fail file and this twin, the script fails and says so
says() {
  printf '%s\n%s\n' "$2" "$3" >"$scratch/case.cpp"
  printf '%s\n' "$4" >"$scratch/case.ok.cpp"
  local output
  if output=$(bash "$here/expect_fail.sh" "$scratch/case.cpp" 2>&1) || ! grep -qF -- "$1" <<<"$output"; then
    echo "expect_fail.sh did not say '$1' but:"
    echo "$output"
    status=1
  fi
}

only=$'\n// COMPILERS: g++'
head=$'// ERRORS: 1\n// EXPECT: out of paper'"$only"
body='static_assert(false, "out of paper");'
says "compiled, but must not" "$head" "" ""
says "must compile, but" "$head" "$body" "$body"
says "nothing matches /out of ink/" $'// ERRORS: 1\n// EXPECT: out of ink'"$only" "$body" ""
says "1 errors, wanted 2" $'// ERRORS: 2\n// EXPECT: paper'"$only" "$body" ""
says "state '// ERRORS: n'" $'// EXPECT: paper'"$only" "$body" ""
says "state at least one" $'// ERRORS: 1'"$only" "$body" ""

printf '%s\n%s\n' "$head" "$body" >"$scratch/case.cpp"
: >"$scratch/case.ok.cpp"
bash "$here/expect_fail.sh" "$scratch/case.cpp" || status=1
exit $status
