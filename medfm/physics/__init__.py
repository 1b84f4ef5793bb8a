"""How scanners measure: y = A(x) + noise, the adjoint of each A, and the reconstructions that need no training."""
