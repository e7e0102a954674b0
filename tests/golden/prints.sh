# Sourced by the check.sh of a folder that holds what one program prints: with --write as its last
# argument the files are made anew; read their diff before you commit it.
here=$(cd "$(dirname "$0")" && pwd)
program=$1
write=${2:-}
status=0

# prints FILE ARGUMENT...
prints() {
  local file=$here/$1 found
  shift
  if [[ $write == --write ]]; then
    "$program" "$@" >"$file"
  elif ! found=$("$program" "$@" | diff "$file" -); then
    echo "$(basename "$program") $* does not print $file:"
    echo "$found" | head -40
    status=1
  fi
}
