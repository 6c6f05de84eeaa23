# SPDX-License-Identifier: MIT
# awk_work.awk FILE - associative arrays, string building, substitution and number formatting over a
# long input, with a line of output every few thousand lines. The same input gives the same output.
{
  for (i = 1; i <= NF; i++) {
    count[$i]++
    word = $i
    if (gsub(/[aeiou]/, "_", word) > 2) vowels++
    length_sum += length(word)
    key = substr($i, 1, 3) SUBSEP (NR % 97)
    table[key] = table[key] substr($i, length($i), 1)
    if (length(table[key]) > 50) table[key] = substr(table[key], 25)
  }
  checksum = (checksum * 33 + length($0) + vowels) % 1000003
}
NR % 2000 == 0 {
  distinct = 0
  for (w in count) distinct++
  printf "%d %d %d %.6f %d\n", NR, distinct, vowels, length_sum / NR, checksum
  if (NR % 6000 == 0) fflush()
}
END {
  for (k in table) sum = (sum + length(table[k]) * 7) % 1000003
  print "done", NR, checksum, sum
}
