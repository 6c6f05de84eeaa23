# SPDX-License-Identifier: MIT
# build_project.sh - writes a small C project and builds it with make -j2; prints what the program
# says and the checksums of all objects.
set -eu
parts=$(seq -s ' ' 1 24)
rm -rf project
mkdir project
cd project
for n in $parts; do
  {
    echo '#include <math.h>'
    echo '#include <stdio.h>'
    for k in $(seq 1 60); do
      echo "double f${n}_$k(double x) { double s = 0;"
      echo "  for (int i = 0; i < 50; i++) { s += sin(x * i + $k); if (s > $k) s /= 3; }"
      echo '  return s; }'
    done
    echo "int g$n(void) { return (int)(100 * f${n}_1($n)); }"
  } >part$n.c
done
{
  echo '#include <stdio.h>'
  for n in $parts; do echo "int g$n(void);"; done
  echo 'int main(void) { int sum = 0;'
  for n in $parts; do echo "  sum += g$n();"; done
  echo '  printf("%d\n", sum); }'
} >main.c
echo "NUMBERS := $parts" >Makefile
cat >>Makefile <<'MAKE'
PARTS := main.o $(foreach n,$(NUMBERS),part$(n).o)
program: $(PARTS)
	gcc -o $@ $(PARTS) -lm
%.o: %.c
	gcc -O2 -c -o $@ $<
MAKE
make -s -j2
./program
sha256sum ./*.o
