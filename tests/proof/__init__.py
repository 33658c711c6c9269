"""The proof by killing: every fault at every point, and random kills, judged from outside.

`inside` lets a fault happen in a dispatcher, launcher or reconciler; `outside` looks whether the promises hold; `matrix` runs
every fault at every point, `kills` runs crowds of dispatchers while things are killed at random. `scripts/fault-matrix`
runs them all and writes docs/faults.md.
"""
