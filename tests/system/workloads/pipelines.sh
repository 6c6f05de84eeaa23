# SPDX-License-Identifier: MIT
# pipelines.sh ROUNDS - a shell script with pipelines, subshells, background jobs, process
# substitution, here documents and traps. The same output each time.
set -u
rounds=$1
trap 'echo "usr1 $count"' USR1
count=0
squares() { for i in $(seq 1 "$1"); do echo $((i * i)); sleep 0.002; done; }
for round in $(seq 1 "$rounds"); do
  count=$((count + 1))
  sum=$(squares 12 | awk '{ s += $1 } END { print s }')
  (
    cd / || exit 9
    exec 3< <(seq 1 200 | sed 's/$/ line/')
    lines=0
    while read -r _ <&3; do lines=$((lines + 1)); done
    echo "round $round sum $sum lines $lines in $PWD"
  )
  squares 6 | tee >(sort -rn | head -1 >largest.txt) | tail -1 | { read -r last; echo "last $last"; }
  (sleep 0.03; exit $((round % 7))) &
  first=$!
  { sleep 0.02; echo "from the background" >background.txt; } &
  wait $first
  status=$?
  wait
  while [ ! -s largest.txt ]; do sleep 0.01; done
  echo "status $status largest $(cat largest.txt) $(cat background.txt)"
  rm -f largest.txt background.txt
  tr a-z A-Z <<TEXT | rev
here document $round
TEXT
  if [ $((round % 5)) = 0 ]; then kill -USR1 $$; fi
done
echo "end $count"
