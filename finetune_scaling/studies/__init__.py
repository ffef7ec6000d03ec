"""Studies: grids of runs, their execution, and the table of points that laws are fitted to."""
