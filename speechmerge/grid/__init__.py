"""Grids of experiments: a file of axes and commands becomes numbered cells, each a job that is run once.

file: what a grid file says.  expand: its cells.  cells: running one, its state on disk.  queue: its state on a cluster.
"""
