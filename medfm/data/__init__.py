"""Data sets as lists of cases: what lies on disk, read, checked and grouped into batches."""
