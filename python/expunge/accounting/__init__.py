"""Privacy arithmetic: Gaussian DP, shifted interpolation, Gaussian pairs, ridge laws."""
