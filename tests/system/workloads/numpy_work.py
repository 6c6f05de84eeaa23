# SPDX-License-Identifier: MIT
"""numpy_work.py ROUNDS - linear algebra with BLAS's own threads, random numbers, sorting. The same
output each time."""
import sys

import numpy

generator = numpy.random.default_rng(1)
matrix = generator.random((160, 160))
total = 0.0
for number in range(1, int(sys.argv[1]) + 1):
    matrix = matrix @ matrix.T
    matrix /= numpy.abs(matrix).max()
    total += float(numpy.sort(generator.random(20000))[5000])
    if number % 10 == 0:
        values = numpy.linalg.eigvalsh(matrix)
        print(number, total.hex(), float(numpy.round(values[-1], 9)).hex(), flush=True)
    matrix += generator.random((160, 160)) / 7
